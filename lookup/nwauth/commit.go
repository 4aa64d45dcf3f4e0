package nwauth

import (
	"context"

	"switchyard/lookup"
)

const (
	// queueLength bounds the changes that wait for the committer; others
	// wait to be queued, until their context ends.
	queueLength = 1024

	// maxBatch bounds the bytes that one sync makes durable, and so the
	// memory of a batch: this and one request.
	maxBatch = 1 << 20
)

// change is one change of one name.
type change struct {
	name string
	next func(old state) (state, error) // called by the committer alone

	added bool
	err   error // of this change alone
}

// request is changes that become durable together.
type request struct {
	changes []*change
	done    chan error // receives one error, of the disk
}

// submit makes a change durable and then visible. Errors: the change's own,
// ErrUnavailable.
func (db *DB) submit(ctx context.Context, ch *change) error {
	if err := db.commitAll(ctx, []*change{ch}); err != nil {
		return err
	}
	return ch.err
}

// commitAll makes changes durable and then visible; each has its own err.
// Errors: ErrUnavailable, when none was made, or nobody knows.
func (db *DB) commitAll(ctx context.Context, changes []*change) error {
	const step = "change the user database"
	r := &request{changes: changes, done: make(chan error, 1)}
	select {
	case <-db.closing:
		return lookup.Unavailable(step, ErrClosed)
	default:
	}
	select {
	case db.queue <- r:
	case <-db.closing:
		return lookup.Unavailable(step, ErrClosed)
	case <-ctx.Done():
		return lookup.Unavailable(step, ctx.Err())
	}
	var err error
	select {
	case err = <-r.done:
	case <-ctx.Done():
		return lookup.Unavailable(step, ctx.Err())
	case <-db.stopped:
		select {
		case err = <-r.done:
		default:
			err = ErrClosed
		}
	}
	if err != nil {
		return lookup.Unavailable(step, err)
	}
	return nil
}

// commitLoop is the only goroutine that changes the table and the log.
func (db *DB) commitLoop() {
	defer close(db.stopped)
	b := &batch{table: db.table, pending: make(map[string]state)}
	for {
		var first *request
		select {
		case first = <-db.queue:
		case <-db.closing:
			db.refuseQueued()
			return
		}
		b.add(first)
		for more := true; more && len(b.lines) < maxBatch; {
			select {
			case r := <-db.queue:
				b.add(r)
			default:
				more = false
			}
		}
		db.commit(b)
		b.reset()
	}
}

// commit writes a batch, applies it and answers everybody in it.
func (db *DB) commit(b *batch) {
	var err error
	if len(b.lines) > 0 {
		err = db.disk.append(b.lines)
	}
	if err == nil {
		for name, st := range b.pending {
			db.table.put(name, st)
			if st.live {
				db.decoys.offer(st.record.Hash)
			}
		}
	}
	for _, r := range b.requests {
		r.done <- err
	}
	db.disk.maybeMerge()
}

func (db *DB) refuseQueued() {
	for {
		select {
		case r := <-db.queue:
			r.done <- ErrClosed
		default:
			return
		}
	}
}

// batch is the changes that one sync makes durable.
type batch struct {
	table    *table
	requests []*request
	lines    []byte
	pending  map[string]state // what the table does not show yet
}

// add computes the changes of a request, each on top of those before it.
func (b *batch) add(r *request) {
	b.requests = append(b.requests, r)
	for _, ch := range r.changes {
		old, pending := b.pending[ch.name]
		if !pending {
			old = b.table.state(ch.name)
		}
		next, err := ch.next(old)
		if err != nil {
			ch.err = err
			continue
		}
		ch.added = next.live && !old.live
		b.pending[ch.name] = next
		if next.live {
			b.lines = appendRecord(b.lines, next.record)
		} else {
			b.lines = appendDeletion(b.lines, ch.name, next.generation)
		}
		b.lines = append(b.lines, '\n')
	}
}

func (b *batch) reset() {
	clear(b.pending)
	clear(b.requests)
	b.requests = b.requests[:0]
	if cap(b.lines) > 2*maxBatch {
		b.lines = nil
	}
	b.lines = b.lines[:0]
}
