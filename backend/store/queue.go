package store

import (
	"context"
	"fmt"
	"io"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
	"switchyard/backend/store/segment"
)

// The node's queue: entries with bodies in a durable order, for the mail that
// waits to go out. What an entry says is the caller's affair.

// QueueAdd adds an entry with its body, which is read once and stays the
// caller's. The entry is durable when it returns. Ids ascend and are never
// given twice. Errors: backend.ErrBusy.
func (s *Store) QueueAdd(ctx context.Context, entry []byte, body io.ReaderAt, size int64) (id uint64, err error) {
	id, _, err = s.QueueAddOnce(ctx, [32]byte{}, entry, body, size)
	return id, err
}

// QueueAddOnce is QueueAdd, but adds nothing when an entry was added with the
// same id of a delivery in the last seven days, whatever became of it: then it
// returns that one's id, and false. The zero id always adds.
func (s *Store) QueueAddOnce(ctx context.Context, delivery [32]byte, entry []byte, body io.ReaderAt, size int64) (id uint64, added bool, err error) {
	leave, err := s.enter()
	if err != nil {
		return 0, false, err
	}
	defer leave()
	if err := s.quarantine.of(""); err != nil {
		return 0, false, err
	}
	if delivery != [32]byte{} { // mostly it is known before the body is written
		row, ok, err := s.queue.delivery(backend.GUID{}, delivery)
		if err != nil {
			return 0, false, s.broken("look for a delivery id", err)
		}
		if ok {
			return queueID(row.Appended), false, nil
		}
	}
	guid := newGUID()
	place, err := s.queue.writeBody(segment.Info{GUID: guid, InternalDate: s.opts.Clock()}, body, size)
	if err != nil {
		return 0, false, err
	}
	defer func() { s.settle(place, err) }()
	err = s.queue.add(ctx, func(t *tx) error {
		if delivery != [32]byte{} {
			row, ok, err := t.delivery(delivery)
			if err != nil {
				return s.broken("look for a delivery id", err)
			}
			if ok {
				id, added = queueID(row.Appended), false
				return nil
			}
		}
		id, added = t.row.LastQueued+1, true
		t.places[guid] = place
		if err := t.apply(effect.QueueSet{ID: id, Entry: entry, Body: guid, Size: size}); err != nil || delivery == [32]byte{} {
			return err
		}
		return t.apply(effect.Delivered{ID: delivery, Appended: queueAnswer(id)})
	})
	if err != nil {
		return 0, false, err
	}
	return id, added, nil
}

// queueAnswer keeps a queue entry's id where a delivery's answer is remembered.
func queueAnswer(id uint64) backend.Appended {
	return backend.Appended{UIDValidity: uint32(id >> 32), UID: backend.UID(uint32(id))}
}

func queueID(a backend.Appended) uint64 { return uint64(a.UIDValidity)<<32 | uint64(a.UID) }

// QueueUpdate replaces what an entry says, durably. Errors:
// backend.ErrNoMessage, backend.ErrBusy.
func (s *Store) QueueUpdate(ctx context.Context, id uint64, entry []byte) error {
	return s.changeQueue(ctx, id, effect.QueueSet{ID: id, Entry: entry})
}

// QueueDelete removes an entry and its body, durably. Errors:
// backend.ErrNoMessage, backend.ErrBusy.
func (s *Store) QueueDelete(ctx context.Context, id uint64) error {
	return s.changeQueue(ctx, id, effect.QueueDeleted{ID: id})
}

func (s *Store) changeQueue(ctx context.Context, id uint64, e effect.Effect) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	if err := s.quarantine.of(""); err != nil {
		return err
	}
	return s.queue.add(ctx, func(t *tx) error {
		if _, ok, err := t.queueEntry(id); err != nil {
			return s.broken("read a queue entry", err)
		} else if !ok {
			return backend.ErrNoMessage
		}
		return t.apply(e)
	})
}

// QueueScan calls each for every entry, ascending by id, until it returns
// false. The entry is each's to keep. Entries added or changed meanwhile may be
// missed.
func (s *Store) QueueScan(ctx context.Context, each func(id uint64, entry []byte) bool) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	if err := s.quarantine.of(""); err != nil {
		return err
	}
	return rows.Scan(s.queue.db, rows.KeyUser(backend.GUID{}, rows.RowQueue), func(key, value []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		id, err := rows.ParseQueue(key)
		if err != nil {
			return err
		}
		var row rows.Entry
		if err := row.Read(append([]byte(nil), value...)); err != nil {
			return err
		}
		if !each(id, row.Entry) {
			return rows.ErrStop
		}
		return nil
	})
}

// QueueBody opens an entry's body; the caller closes it. Errors:
// backend.ErrNoMessage, backend.ErrBusy.
func (s *Store) QueueBody(_ context.Context, id uint64) (backend.Body, error) {
	leave, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := s.quarantine.of(""); err != nil {
		return nil, err
	}
	var row rows.Entry
	ok, err := rows.Get(s.queue.db, rows.KeyQueue(id), row.Read)
	if err != nil {
		return nil, s.broken("read a queue entry", err)
	}
	if !ok {
		return nil, backend.ErrNoMessage
	}
	return s.queue.openBody(backend.GUID{}, row.Body)
}

// queueEntry returns an entry as this change leaves it.
func (t *tx) queueEntry(id uint64) (row rows.Entry, ok bool, err error) {
	if r, touched := t.queue[id]; touched {
		if r == nil {
			return row, false, nil
		}
		return *r, true, nil
	}
	ok, err = rows.Get(t.u.db, rows.KeyQueue(id), func(b []byte) error { return row.Read(append([]byte(nil), b...)) })
	return row, ok, err
}

// noteQueue makes a later effect of this change see an entry; nil is none.
func (t *tx) noteQueue(id uint64, row *rows.Entry) {
	if t.queue == nil {
		t.queue = make(map[uint64]*rows.Entry)
	}
	t.queue[id] = row
	if row == nil {
		t.del(rows.KeyQueue(id))
	} else {
		t.put(rows.KeyQueue(id), row.Append(nil))
	}
}

func (t *tx) setQueue(e effect.QueueSet) error {
	row := rows.Entry{Body: e.Body, Size: e.Size, Entry: e.Entry}
	if e.Body.IsZero() {
		old, ok, err := t.queueEntry(e.ID)
		if err != nil || !ok {
			return fmt.Errorf("queue entry %d is not there: %w", e.ID, err)
		}
		row.Body, row.Size = old.Body, old.Size
	} else if err := t.ref(e.Body); err != nil {
		return err
	}
	if e.ID > t.row.LastQueued {
		t.row.LastQueued, t.touched = e.ID, true
	}
	t.noteQueue(e.ID, &row)
	return nil
}

func (t *tx) deleteQueue(e effect.QueueDeleted) error {
	row, ok, err := t.queueEntry(e.ID)
	if err != nil || !ok {
		return fmt.Errorf("queue entry %d is not there: %w", e.ID, err)
	}
	t.noteQueue(e.ID, nil)
	return t.unref(row.Body)
}
