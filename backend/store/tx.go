package store

import (
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"switchyard/backend"
	"switchyard/backend/effect"
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
	row     accountRow
	created bool // the account
	touched bool // row differs
	subs    map[string]bool
	boxes   map[backend.GUID]*txBox
	bodies  map[backend.GUID]*bodyRow
	queue   map[uint64]*queueRow // nil entry: deleted
	seen    map[[32]byte]deliveryRow
	live    map[uint32]liveRow

	// places says where the bodies that come with this change were written.
	places map[backend.GUID]segment.Place
}

// txBox is what a change does to one mailbox.
type txBox struct {
	boxRow
	b       *box // nil: created in this change
	deleted bool
	oldName string

	added   []backend.Message
	changed []backend.Message
	removed []backend.UID
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
func (t *tx) delAll(prefix []byte) { _ = t.batch.DeleteRange(prefix, after(prefix), nil) }

// box returns a mailbox as this change leaves it, to be changed.
func (t *tx) box(id backend.GUID) (*txBox, error) {
	if tb, ok := t.boxes[id]; ok {
		if tb.deleted {
			return nil, backend.ErrNoMailbox
		}
		return tb, nil
	}
	b, ok := t.u.boxes[id]
	if !ok {
		return nil, backend.ErrNoMailbox
	}
	tb := &txBox{boxRow: b.boxRow, b: b, oldName: b.Name}
	t.boxes[id] = tb
	return tb, nil
}

// peek returns a mailbox as this change leaves it, to be read.
func (t *tx) peek(id backend.GUID) (*boxRow, bool) {
	if tb, ok := t.boxes[id]; ok {
		return &tb.boxRow, !tb.deleted
	}
	if b, ok := t.u.boxes[id]; ok {
		return &b.boxRow, true
	}
	return nil, false
}

// named returns the mailbox that has a name as this change leaves it.
func (t *tx) named(name string) (*boxRow, bool) {
	for _, tb := range t.boxes {
		if tb.Name == name && !tb.deleted {
			return &tb.boxRow, true
		}
	}
	if b, ok := t.u.names[name]; ok {
		if _, moved := t.boxes[b.ID]; !moved {
			return &b.boxRow, true
		}
	}
	return nil, false
}

// apply adds an effect to the change. An error says that the effect does not
// fit the state; the change is then worth nothing.
func (t *tx) apply(e effect.Effect) error {
	t.effects = append(t.effects, e)
	id := t.row.id
	switch e := e.(type) {
	case effect.UserCreated:
		t.created, t.touched = true, true
		t.row = accountRow{id: e.ID, generation: e.Generation}
		t.put(keyName(t.u.account), e.ID[:])
	case effect.GenerationSeen:
		t.touched = true
		t.row.generation = max(t.row.generation, e.Generation)
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
			t.put(keySubscription(id, e.Name), nil)
		} else {
			t.del(keySubscription(id, e.Name))
		}
	case effect.MessageAdded:
		return t.addMessage(e)
	case effect.FlagsSet:
		return t.setFlags(e)
	case effect.Expunged:
		return t.expunge(e)
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
	t.boxes[e.Mailbox] = &txBox{boxRow: boxRow{Mailbox: backend.Mailbox{
		ID: e.Mailbox, Name: e.Name, Use: e.Use, UIDValidity: e.UIDValidity, UIDNext: 1, HighestModSeq: 1,
	}}}
	t.row.lastUIDValidity = max(t.row.lastUIDValidity, e.UIDValidity)
	t.touched = true
}

// deleteBox removes a mailbox, its messages and its tombstones.
func (t *tx) deleteBox(e effect.MailboxDeleted) error {
	tb, err := t.box(e.Mailbox)
	if err != nil {
		return err
	}
	id := t.row.id
	err = t.u.eachMessage(e.Mailbox, func(m *backend.Message) error { return t.unref(m.GUID) })
	if err != nil {
		return err
	}
	for i := range tb.added { // of this very change
		if err := t.unref(tb.added[i].GUID); err != nil {
			return err
		}
	}
	t.delAll(keyUser(id, rowMessage, e.Mailbox[:]...))
	t.delAll(keyUser(id, rowTombstone, e.Mailbox[:]...))
	t.del(keyMailbox(id, e.Mailbox))
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
	tb.count(&m, 1)
	tb.added = append(tb.added, m)
	t.put(keyMessage(t.row.id, e.Mailbox, m.UID), effect.AppendMessage(nil, &m))
	return t.ref(m.GUID)
}

// count takes a message into the mailbox's counters, or out of them.
func (r *boxRow) count(m *backend.Message, sign int) {
	one := uint32(sign)
	r.Messages += one
	r.Size += int64(sign) * m.Size
	if !slices.Contains(m.Flags, backend.FlagSeen) {
		r.Unseen += one
	}
	if slices.Contains(m.Flags, backend.FlagDeleted) {
		r.Deleted += one
	}
	if sign > 0 {
		r.sum = r.sum.Add(effect.OfMessage(m))
	} else {
		r.sum = r.sum.Sub(effect.OfMessage(m))
	}
}

func (t *tx) setFlags(e effect.FlagsSet) error {
	tb, err := t.box(e.Mailbox)
	if err != nil {
		return err
	}
	tb.HighestModSeq = max(tb.HighestModSeq, e.ModSeq)
	var row []byte
	for _, uid := range e.UIDs {
		m, err := t.message(tb, uid)
		if err != nil {
			return err
		}
		tb.count(&m, -1)
		m.Flags, m.ModSeq = e.Flags, e.ModSeq
		tb.count(&m, 1)
		tb.changed = append(tb.changed, m)
		row = effect.AppendMessage(row[:0], &m)
		t.put(keyMessage(t.row.id, e.Mailbox, uid), row)
	}
	return nil
}

// message returns a message as it was before this change.
func (t *tx) message(tb *txBox, uid backend.UID) (backend.Message, error) {
	if tb.b != nil {
		m, ok, err := t.u.message(tb.b, uid)
		if err != nil || ok {
			return m, err
		}
	}
	return backend.Message{}, fmt.Errorf("uid %d: %w", uid, backend.ErrNoMessage)
}

func (t *tx) expunge(e effect.Expunged) error {
	tb, err := t.box(e.Mailbox)
	if err != nil {
		return err
	}
	tb.HighestModSeq = max(tb.HighestModSeq, e.ModSeq)
	for _, uid := range e.UIDs {
		m, err := t.message(tb, uid)
		if err != nil {
			return err
		}
		tb.count(&m, -1)
		t.del(keyMessage(t.row.id, e.Mailbox, uid))
		t.put(keyTombstone(t.row.id, e.Mailbox, e.ModSeq, uid), tombRow{m.GUID, t.now}.append(nil))
		tb.removed = append(tb.removed, uid)
		if err := t.unref(m.GUID); err != nil {
			return err
		}
	}
	tb.tombstones += uint64(len(e.UIDs))
	return t.pruneTombstones(tb)
}

// pruneTombstones forgets the oldest expunges of a mailbox. It looks only at
// those of earlier changes.
func (t *tx) pruneTombstones(tb *txBox) error {
	if tb.b == nil {
		return nil
	}
	prefix := keyUser(t.row.id, rowTombstone, tb.ID[:]...)
	return scan(t.u.db, prefix, func(key, value []byte) error {
		var row tombRow
		if err := row.read(value); err != nil {
			return err
		}
		if tb.tombstones <= maxTombstones && t.now.Time().Sub(row.time.Time()) <= keepTombstones {
			return errStop
		}
		_, seq, _, err := parseTombstone(key)
		if err != nil {
			return err
		}
		t.del(key)
		tb.floor = max(tb.floor, seq)
		tb.tombstones--
		return nil
	})
}

// finish writes the rows that the effects touched, and returns the digests of
// the mailboxes.
func (t *tx) finish() []effect.MailboxDigest {
	var digests []effect.MailboxDigest
	for id, tb := range t.boxes {
		if tb.deleted {
			continue
		}
		slices.SortFunc(tb.changed, func(a, b backend.Message) int { return int(a.UID) - int(b.UID) })
		slices.Sort(tb.removed)
		t.put(keyMailbox(t.row.id, id), tb.boxRow.append(nil))
		digests = append(digests, effect.MailboxDigest{Mailbox: id, Digest: effect.OfMailbox(&tb.Mailbox, tb.sum)})
	}
	slices.SortFunc(digests, func(a, b effect.MailboxDigest) int {
		return slices.Compare(a.Mailbox[:], b.Mailbox[:])
	})
	for guid, row := range t.bodies {
		if row.refs > 0 {
			t.put(keyBody(t.row.id, guid), row.append(nil))
		} else {
			t.del(keyBody(t.row.id, guid))
			t.del(keyStructure(t.row.id, guid))
		}
	}
	for id, l := range t.live {
		_ = t.batch.Merge(keySegment(id), l.append(nil), nil)
	}
	if t.touched {
		t.put(keyUser(t.row.id, rowUser), t.row.append(nil))
	}
	return digests
}
