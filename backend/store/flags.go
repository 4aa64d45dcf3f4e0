package store

import (
	"fmt"
	"slices"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
)

// New flags for this many messages or more are one row over those of the
// messages. A mailbox's rows are written anew once such rows name more UIDs than
// foldFactor times its messages, and foldLeast: reading them costs time with
// each load of the mailbox.
const (
	flagsTogether = 64
	foldFactor    = 8
	foldLeast     = 10_000
)

func (t *tx) setFlags(e effect.FlagsSet) error {
	tb, err := t.box(e.Mailbox)
	if err != nil {
		return err
	}
	tb.HighestModSeq = max(tb.HighestModSeq, e.ModSeq)
	old, err := t.messages(tb, e.UIDs)
	if err != nil {
		return err
	}
	together := len(old) >= flagsTogether
	tb.changed = slices.Grow(tb.changed, len(old))
	var row []byte
	for _, was := range old {
		tb.Count(was, -1)
		tb.changed = append(tb.changed, *was)
		m := &tb.changed[len(tb.changed)-1]
		m.Flags, m.ModSeq = e.Flags, e.ModSeq
		tb.Count(m, 1)
		if !together {
			row = effect.AppendMessage(row[:0], m)
			t.put(rows.KeyMessage(t.row.ID, e.Mailbox, m.UID), row)
		}
	}
	if together {
		if len(old) == int(tb.Messages) && tb.Overlaid > 0 { // what lies over them now tells nothing any more
			t.delAll(rows.KeyUser(t.row.ID, rows.RowFlags, e.Mailbox[:]...))
			tb.Overlaid = 0
		}
		t.put(rows.KeyFlags(t.row.ID, e.Mailbox, e.ModSeq, tb.flagRows), rows.Flags{Flags: e.Flags, UIDs: e.UIDs}.Append(nil))
		tb.flagRows++
		tb.Overlaid += uint64(len(old))
	}
	return nil
}

// foldFlags writes the rows of a mailbox's messages anew, if there is too much
// over them.
func (t *tx) foldFlags(tb *txBox) error {
	if tb.Overlaid <= foldFactor*uint64(tb.Messages)+foldLeast {
		return nil
	}
	v, err := t.u.loadView(tb.ID)
	if err != nil {
		return err
	}
	var row []byte
	for _, m := range v.Messages.Remove(tb.removed).Update(tb.changed).All() {
		row = effect.AppendMessage(row[:0], m)
		t.put(rows.KeyMessage(t.row.ID, tb.ID, m.UID), row)
	}
	t.delAll(rows.KeyUser(t.row.ID, rows.RowFlags, tb.ID[:]...))
	tb.Overlaid = 0
	return nil
}

// messages returns the messages of UIDs, ascending, as they were before this
// change. One that is not there is an error.
func (t *tx) messages(tb *txBox, uids []backend.UID) ([]*backend.Message, error) {
	if tb.b == nil {
		return nil, fmt.Errorf("uids of a new mailbox: %w", backend.ErrNoMessage)
	}
	v, loaded, err := t.u.view(tb.ID)
	if err == nil && !loaded && (tb.b.Overlaid > 0 || len(uids) >= flagsTogether) {
		v, err = t.u.loadView(tb.ID)
		loaded = true
	}
	if err != nil {
		return nil, err
	}
	if loaded {
		found := v.Messages.Select(uids)
		if len(found) != len(uids) {
			return nil, fmt.Errorf("%d of %d uids: %w", len(uids)-len(found), len(uids), backend.ErrNoMessage)
		}
		return found, nil
	}
	found := make([]*backend.Message, 0, len(uids))
	for _, uid := range uids {
		key := rows.KeyMessage(t.row.ID, tb.ID, uid)
		ok, err := rows.Get(t.u.db, key, func(value []byte) error {
			m, err := rows.ReadMessage(key, value)
			found = append(found, &m)
			return err
		})
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("uid %d: %w", uid, backend.ErrNoMessage)
		}
	}
	return found, nil
}
