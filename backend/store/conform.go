package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
)

// Conform makes effects that somebody else has decided on, in one record of an
// account: what a merge came to. An effect that does not fit the state refuses
// them all. An account that is not here yet begins with effect.UserCreated.
func (s *Store) Conform(ctx context.Context, account string, effects []effect.Effect) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	u, err := s.user(account)
	if err != nil {
		return err
	}
	return u.change(ctx, func(t *tx) error {
		created := false
		if len(effects) > 0 {
			_, created = effects[0].(effect.UserCreated)
		}
		if created == u.exists {
			return fmt.Errorf("conform %q: %w", account, backend.ErrNoUser)
		}
		for _, e := range effects {
			if err := t.apply(e); err != nil {
				return fmt.Errorf("conform %q: %w", account, err)
			}
		}
		return t.fits()
	})
}

var (
	errConformedTwice = errors.New("a mailbox is conformed by one effect alone")
	errNotFurther     = errors.New("a merge does not go back")
	errOtherMessage   = errors.New("the uid is another message's")
)

// conform brings a mailbox to what the effect says. It has all of its messages
// in memory for that: a merge is rare.
func (t *tx) conform(e *effect.Conformed) error {
	tb, old, err := t.toConform(e)
	if err != nil {
		return err
	}
	if err := t.conformBox(tb, e); err != nil {
		return err
	}
	for _, g := range e.Gone {
		if err := t.conformGone(tb, old, g); err != nil {
			return fmt.Errorf("expunged %d: %w", g.UID, err)
		}
	}
	list, err := t.conformPut(tb, old, e.Put)
	if err != nil {
		return err
	}
	if tb.Overlaid > 0 {
		t.delAll(rows.KeyUser(t.row.ID, rows.RowFlags, tb.ID[:]...))
		tb.Overlaid = 0
		for i := range list {
			t.put(rows.KeyMessage(t.row.ID, tb.ID, list[i].UID), effect.AppendMessage(nil, &list[i]))
		}
	}
	tb.whole, tb.conformed = backend.NewMessages(list), true
	return t.pruneTombstones(tb)
}

// toConform returns the mailbox, new when it is missing, and its messages.
func (t *tx) toConform(e *effect.Conformed) (*txBox, backend.Messages, error) {
	id := e.Mailbox.ID
	if _, ok := t.boxes[id]; ok {
		return nil, backend.Messages{}, errConformedTwice
	}
	if _, ok := t.u.boxes[id]; !ok {
		t.createBox(effect.MailboxCreated{Mailbox: id, Name: e.Mailbox.Name, UIDValidity: e.Mailbox.UIDValidity})
		return t.boxes[id], backend.Messages{}, nil
	}
	v, err := t.u.loadView(id)
	if err != nil {
		return nil, backend.Messages{}, err
	}
	tb, err := t.box(id)
	return tb, v.Messages, err
}

// conformBox sets the mailbox's attributes. What a client may have seen does not
// go back.
func (t *tx) conformBox(tb *txBox, e *effect.Conformed) error {
	m := &e.Mailbox
	if m.Name == "" || m.UIDValidity < tb.UIDValidity || m.UIDNext < tb.UIDNext || m.HighestModSeq < tb.HighestModSeq || e.Floor < tb.Floor {
		return fmt.Errorf("mailbox %q: %w", tb.Name, errNotFurther)
	}
	tb.Name, tb.Use, tb.UIDValidity = m.Name, m.Use, m.UIDValidity
	tb.UIDNext, tb.HighestModSeq, tb.Floor = m.UIDNext, m.HighestModSeq, e.Floor
	t.row.LastUIDValidity = max(t.row.LastUIDValidity, m.UIDValidity)
	t.touched = true
	return nil
}

func (t *tx) conformGone(tb *txBox, old backend.Messages, g effect.Gone) error {
	if g.UID >= tb.UIDNext || g.ModSeq > tb.HighestModSeq || g.Was >= g.ModSeq {
		return errNotFurther
	}
	if i, ok := old.Find(g.UID); ok {
		m := old.At(i)
		if m.GUID != g.GUID && !g.GUID.IsZero() {
			return errOtherMessage
		}
		tb.Count(m, -1)
		t.del(rows.KeyMessage(t.row.ID, tb.ID, g.UID))
		tb.removed = append(tb.removed, g.UID)
		if err := t.unref(m.GUID); err != nil {
			return err
		}
	}
	if g.Was > 0 {
		key := rows.KeyTombstone(t.row.ID, tb.ID, g.Was, g.UID)
		if ok, err := rows.Get(t.u.db, key, func([]byte) error { return nil }); err != nil || !ok {
			return errors.Join(err, fmt.Errorf("no tombstone of %d", g.Was))
		}
		t.del(key)
		tb.Tombstones--
	}
	t.put(rows.KeyTombstone(t.row.ID, tb.ID, g.ModSeq, g.UID), rows.Tombstone{GUID: g.GUID, Time: t.now}.Append(nil))
	tb.Tombstones++
	return nil
}

// conformPut returns the mailbox's messages, ascending, with those that are put
// among them, and writes the rows of these.
func (t *tx) conformPut(tb *txBox, old backend.Messages, put []backend.Message) ([]backend.Message, error) {
	list := make([]backend.Message, 0, old.Len()+len(put))
	fail := func(m *backend.Message, err error) error { return fmt.Errorf("message %d: %w", m.UID, err) }
	add := func(m *backend.Message) error {
		if m.UID >= tb.UIDNext || m.ModSeq > tb.HighestModSeq || m.ModSeq == 0 {
			return fail(m, errNotFurther)
		}
		if _, gone := slices.BinarySearch(tb.removed, m.UID); gone {
			return fail(m, errOtherMessage)
		}
		tb.Count(m, 1)
		t.put(rows.KeyMessage(t.row.ID, tb.ID, m.UID), effect.AppendMessage(nil, m))
		list = append(list, *m)
		return nil
	}
	insert := func() error {
		m := &put[0]
		put = put[1:]
		if err := t.ref(m.GUID); err != nil {
			return fail(m, err)
		}
		return add(m)
	}
	for _, was := range old.Remove(tb.removed).All() {
		for len(put) > 0 && put[0].UID < was.UID {
			if err := insert(); err != nil {
				return nil, err
			}
		}
		if len(put) == 0 || put[0].UID != was.UID {
			list = append(list, *was)
			continue
		}
		m := &put[0]
		put = put[1:]
		if was.GUID != m.GUID || was.Size != m.Size || m.ModSeq < was.ModSeq {
			return nil, fail(m, errOtherMessage)
		}
		tb.Count(was, -1)
		if err := add(m); err != nil {
			return nil, err
		}
	}
	for len(put) > 0 {
		if err := insert(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// fits says whether the effects that were applied leave the account as it may
// be: two mailboxes that change names must not end with one. Only what was
// decided elsewhere is asked.
func (t *tx) fits() error {
	asked := false
	for _, tb := range t.boxes {
		asked = asked || tb.conformed
	}
	if !asked {
		return nil
	}
	names := make(map[string]bool, len(t.u.boxes)+len(t.boxes))
	for id, b := range t.u.boxes {
		if _, touched := t.boxes[id]; !touched {
			names[b.Name] = true
		}
	}
	for _, tb := range t.boxes {
		if names[tb.Name] && !tb.deleted {
			return fmt.Errorf("mailbox %q: %w", tb.Name, backend.ErrMailboxExists)
		}
		names[tb.Name] = names[tb.Name] || !tb.deleted
	}
	return nil
}
