package store

import (
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
	"switchyard/backend/store/segment"
)

// Tombstones are kept this long, and no more than this many in a mailbox: what
// Vanished can tell. The oldest go when new ones come.
const (
	keepTombstones = 90 * 24 * time.Hour
	maxTombstones  = 50_000
)

// tx collects the effects of one change and what they do to the state: rows in
// a batch, and what changes in memory. Nothing is seen before commit. The
// holder of the user's lock owns it.
//
// Making a change and applying a record from the log both go through apply, so
// that replaying cannot differ from having been there.
type tx struct {
	u   *user
	now effect.Clock

	effects []effect.Effect
	batch   *pebble.Batch // the state
	row     rows.Account
	created bool // the account
	touched bool // row differs
	subs    map[string]bool
	boxes   map[backend.GUID]*txBox
	bodies  map[backend.GUID]*rows.Body
	queue   map[uint64]*rows.Entry // nil entry: deleted
	seen    map[[32]byte]rows.Delivery
	live    map[uint32]rows.Live

	arrived []backend.GUID // bodies that came from the other node and have a message now

	// places says where the bodies that come with this change were written.
	places map[backend.GUID]segment.Place
}

// txBox is what a change does to one mailbox.
type txBox struct {
	rows.Box
	b        *box // nil: created in this change
	deleted  bool
	oldName  string
	flagRows uint32 // written by this change

	added   []backend.Message
	changed []backend.Message
	removed []backend.UID

	conformed bool
	whole     backend.Messages // of a mailbox that is conformed
}

func (u *user) begin(now effect.Clock) *tx {
	return &tx{
		u: u, now: now, batch: u.db.NewBatch(), row: u.row,
		boxes: make(map[backend.GUID]*txBox), places: make(map[backend.GUID]segment.Place),
	}
}

// put writes a row of the state. A batch in memory does not fail.
func (t *tx) put(key, value []byte) { _ = t.batch.Set(key, value, nil) }
func (t *tx) del(key []byte)        { _ = t.batch.Delete(key, nil) }

// delAll removes the rows whose keys begin with prefix.
func (t *tx) delAll(prefix []byte) { _ = t.batch.DeleteRange(prefix, rows.After(prefix), nil) }

// box returns a mailbox as this change leaves it, to be changed.
func (t *tx) box(id backend.GUID) (*txBox, error) {
	if tb, ok := t.boxes[id]; ok {
		if tb.deleted {
			return nil, backend.ErrNoMailbox
		}
		if tb.conformed {
			return nil, errConformedTwice
		}
		return tb, nil
	}
	b, ok := t.u.boxes[id]
	if !ok {
		return nil, backend.ErrNoMailbox
	}
	tb := &txBox{Box: b.Box, b: b, oldName: b.Name}
	t.boxes[id] = tb
	return tb, nil
}

// peek returns a mailbox as this change leaves it, to be read.
func (t *tx) peek(id backend.GUID) (*rows.Box, bool) {
	if tb, ok := t.boxes[id]; ok {
		return &tb.Box, !tb.deleted
	}
	if b, ok := t.u.boxes[id]; ok {
		return &b.Box, true
	}
	return nil, false
}

// named returns the mailbox that has a name as this change leaves it.
func (t *tx) named(name string) (*rows.Box, bool) {
	for _, tb := range t.boxes {
		if tb.Name == name && !tb.deleted {
			return &tb.Box, true
		}
	}
	if b, ok := t.u.names[name]; ok {
		if _, moved := t.boxes[b.ID]; !moved {
			return &b.Box, true
		}
	}
	return nil, false
}

// apply adds an effect to the change. An error says that the effect does not
// fit the state; the change is then worth nothing.
func (t *tx) apply(e effect.Effect) error {
	t.effects = append(t.effects, e)
	id := t.row.ID
	switch e := e.(type) {
	case effect.UserCreated:
		t.created, t.touched = true, true
		t.row = rows.Account{ID: e.ID, Generation: e.Generation}
		t.put(rows.KeyName(t.u.account), e.ID[:])
	case effect.GenerationSeen:
		t.touched = true
		t.row.Generation = max(t.row.Generation, e.Generation)
	case effect.MailboxCreated:
		t.createBox(e)
	case effect.MailboxRenamed:
		return t.change(e.Mailbox, func(tb *txBox) { tb.Name = e.Name })
	case effect.MailboxUse:
		return t.change(e.Mailbox, func(tb *txBox) { tb.Use = e.Use })
	case effect.MailboxDeleted:
		return t.deleteBox(e)
	case effect.Subscribed:
		if t.subs == nil {
			t.subs = make(map[string]bool)
		}
		t.subs[e.Name] = e.On
		if e.On {
			t.put(rows.KeySubscription(id, e.Name), nil)
		} else {
			t.del(rows.KeySubscription(id, e.Name))
		}
	case effect.PropertySet:
		return t.setProperty(e)
	case effect.MessageAdded:
		return t.addMessage(e)
	case effect.FlagsSet:
		return t.setFlags(e)
	case effect.Expunged:
		return t.expunge(e)
	case effect.Conformed:
		return t.conform(&e)
	case effect.Delivered:
		t.rememberDelivery(e)
	case effect.QueueSet:
		return t.setQueue(e)
	case effect.QueueDeleted:
		return t.deleteQueue(e)
	default:
		return fmt.Errorf("effect of unknown type %T", e)
	}
	return nil
}

func (t *tx) change(id backend.GUID, how func(*txBox)) error {
	tb, err := t.box(id)
	if err == nil {
		how(tb)
	}
	return err
}

func (t *tx) createBox(e effect.MailboxCreated) {
	t.boxes[e.Mailbox] = &txBox{Box: rows.Box{Mailbox: backend.Mailbox{
		ID: e.Mailbox, Name: e.Name, Use: e.Use, UIDValidity: e.UIDValidity, UIDNext: 1, HighestModSeq: 1,
	}}}
	t.row.LastUIDValidity = max(t.row.LastUIDValidity, e.UIDValidity)
	t.touched = true
}

// deleteBox removes a mailbox, its messages and its tombstones.
func (t *tx) deleteBox(e effect.MailboxDeleted) error {
	tb, err := t.box(e.Mailbox)
	if err != nil {
		return err
	}
	id := t.row.ID
	err = t.u.eachRow(e.Mailbox, func(m *backend.Message) error { return t.unref(m.GUID) })
	if err != nil {
		return err
	}
	for i := range tb.added { // of this very change
		if err := t.unref(tb.added[i].GUID); err != nil {
			return err
		}
	}
	t.delAll(rows.KeyUser(id, rows.RowMessage, e.Mailbox[:]...))
	t.delAll(rows.KeyUser(id, rows.RowFlags, e.Mailbox[:]...))
	t.delAll(rows.KeyUser(id, rows.RowTombstone, e.Mailbox[:]...))
	t.delAll(rows.KeyProperty(id, e.Mailbox, ""))
	t.del(rows.KeyMailbox(id, e.Mailbox))
	tb.deleted = true
	return nil
}

func (t *tx) addMessage(e effect.MessageAdded) error {
	tb, err := t.box(e.Mailbox)
	if err != nil {
		return err
	}
	m := e.Message
	if m.UID < tb.UIDNext {
		return fmt.Errorf("uid %d is below %d", m.UID, tb.UIDNext)
	}
	tb.UIDNext = m.UID + 1
	tb.HighestModSeq = max(tb.HighestModSeq, m.ModSeq)
	tb.Count(&m, 1)
	tb.added = append(tb.added, m)
	t.put(rows.KeyMessage(t.row.ID, e.Mailbox, m.UID), effect.AppendMessage(nil, &m))
	return t.ref(m.GUID)
}

func (t *tx) expunge(e effect.Expunged) error {
	tb, err := t.box(e.Mailbox)
	if err != nil {
		return err
	}
	tb.HighestModSeq = max(tb.HighestModSeq, e.ModSeq)
	old, err := t.messages(tb, e.UIDs)
	if err != nil {
		return err
	}
	for _, m := range old {
		uid := m.UID
		tb.Count(m, -1)
		t.del(rows.KeyMessage(t.row.ID, e.Mailbox, uid))
		t.put(rows.KeyTombstone(t.row.ID, e.Mailbox, e.ModSeq, uid), rows.Tombstone{GUID: m.GUID, Time: t.now}.Append(nil))
		tb.removed = append(tb.removed, uid)
		if err := t.unref(m.GUID); err != nil {
			return err
		}
	}
	tb.Tombstones += uint64(len(e.UIDs))
	return t.pruneTombstones(tb)
}

// pruneTombstones forgets the oldest expunges of a mailbox. It looks only at
// those of earlier changes.
func (t *tx) pruneTombstones(tb *txBox) error {
	if tb.b == nil {
		return nil
	}
	prefix := rows.KeyUser(t.row.ID, rows.RowTombstone, tb.ID[:]...)
	return rows.Scan(t.u.db, prefix, func(key, value []byte) error {
		var row rows.Tombstone
		if err := row.Read(value); err != nil {
			return err
		}
		if tb.Tombstones <= maxTombstones && t.now.Time().Sub(row.Time.Time()) <= keepTombstones {
			return rows.ErrStop
		}
		_, seq, _, err := rows.ParseTombstone(key)
		if err != nil {
			return err
		}
		t.del(key)
		tb.Floor = max(tb.Floor, seq)
		tb.Tombstones--
		return nil
	})
}

// finish writes the rows that the effects touched, and returns the digests of
// the mailboxes.
func (t *tx) finish() ([]effect.MailboxDigest, error) {
	var digests []effect.MailboxDigest
	for id, tb := range t.boxes {
		if tb.deleted {
			continue
		}
		slices.SortFunc(tb.changed, func(a, b backend.Message) int { return int(a.UID) - int(b.UID) })
		slices.Sort(tb.removed)
		if err := t.foldFlags(tb); err != nil {
			return nil, err
		}
		t.put(rows.KeyMailbox(t.row.ID, id), tb.Box.Append(nil))
		digests = append(digests, effect.MailboxDigest{Mailbox: id, Digest: effect.OfMailbox(&tb.Mailbox, tb.Sum)})
	}
	slices.SortFunc(digests, func(a, b effect.MailboxDigest) int {
		return slices.Compare(a.Mailbox[:], b.Mailbox[:])
	})
	for guid, row := range t.bodies {
		if row.Refs > 0 {
			t.put(rows.KeyBody(t.row.ID, guid), row.Append(nil))
		} else {
			t.del(rows.KeyBody(t.row.ID, guid))
			t.del(rows.KeyStructure(t.row.ID, guid))
		}
	}
	for _, guid := range t.arrived {
		t.del(rows.KeyArrived(t.u.shard, guid))
	}
	for id, l := range t.live {
		_ = t.batch.Merge(rows.KeySegment(id), l.Append(nil), nil)
	}
	if t.touched {
		t.put(rows.KeyUser(t.row.ID, rows.RowUser), t.row.Append(nil))
	}
	return digests, nil
}
