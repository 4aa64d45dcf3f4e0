package nwauth

import (
	"context"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
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

	// quiet says that it bears on no session, though it may look like it.
	quiet bool

	// sessions overrules what the states say, for a change that a primary made.
	sessions *bool

	added bool
	err   error // of this change alone
}

// request is changes that become durable together, or something that must not
// happen beside any change.
type request struct {
	changes []*change
	alone   func() error
	done    chan error // receives one error, of the disk
}

// submit makes a change durable and then visible. Errors: the change's own,
// ErrUnavailable.
func (db *DB) submit(ctx context.Context, ch *change) error {
	if err := db.enqueue(ctx, &request{changes: []*change{ch}}); err != nil {
		return err
	}
	return ch.err
}

// enqueue makes changes durable and then visible; each has its own err.
// Errors: ErrUnavailable, when none was made, or nobody knows.
func (db *DB) enqueue(ctx context.Context, r *request) error {
	const step = "change the user database"
	r.done = make(chan error, 1)
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
	b := &batch{db: db, pending: make(map[string]state)}
	for {
		var first *request
		select {
		case first = <-db.queue:
		case <-db.closing:
			db.refuseQueued()
			return
		}
		var alone *request
		for more := first; more != nil; {
			if more.alone != nil {
				alone = more
				break
			}
			b.add(more)
			more = nil
			if len(b.lines) < maxBatch {
				select {
				case more = <-db.queue:
				default:
				}
			}
		}
		db.commit(b)
		b.reset()
		if alone != nil {
			alone.done <- alone.alone()
		}
	}
}

// commit writes a batch, applies it, tells of it and answers everybody in it.
func (db *DB) commit(b *batch) {
	var err error
	if len(b.lines) > 0 {
		err = db.disk.append(b.lines, b.mark)
	}
	if err == nil {
		for name, st := range b.pending {
			db.put(name, st)
		}
		db.history.publish(b.events)
	}
	for _, r := range b.requests {
		r.done <- err
	}
	db.disk.maybeMerge(db.table.Load())
}

func (db *DB) put(name string, st state) {
	if st.live() {
		// One string, which holds nothing else alive.
		text := string(st.appendLine(nil, name))
		name, st.rest = text[:len(name)], text[len(name)+1:]
		db.decoys.offer(st.hash())
	}
	db.table.Load().put(name, st)
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
	db       *DB
	requests []*request
	lines    []byte
	mark     netwin.Mark // behind the last line
	events   []event
	pending  map[string]state // what the table does not show yet
}

// add computes the changes of a request, each on top of those before it.
func (b *batch) add(r *request) {
	if len(b.lines) == 0 {
		b.mark = b.db.disk.mark
	}
	b.requests = append(b.requests, r)
	for _, ch := range r.changes {
		old, pending := b.pending[ch.name]
		if !pending {
			old = b.db.table.Load().state(ch.name)
		}
		next, err := ch.next(old)
		if err != nil {
			ch.err = err
			continue
		}
		ch.added = next.live() && !old.live()
		b.pending[ch.name] = next
		start := len(b.lines)
		b.lines = next.appendLine(b.lines, ch.name)
		text := string(b.lines[start:])
		b.lines = append(b.lines, '\n')
		b.mark = b.mark.Next(text)
		sessions := !ch.quiet && old.endsSessions(next)
		if ch.sessions != nil {
			sessions = *ch.sessions
		}
		b.events = append(b.events, event{line: text, at: b.mark, name: ch.name, sessions: sessions})
	}
}

func (b *batch) reset() {
	clear(b.pending)
	clear(b.requests)
	clear(b.events)
	b.requests, b.events = b.requests[:0], b.events[:0]
	if cap(b.lines) > 2*maxBatch {
		b.lines, b.events = nil, nil
	}
	b.lines = b.lines[:0]
}

// replaceAll puts a whole content in the place of another: durable at once and
// then visible. t has everything. The committer calls it.
func (db *DB) replaceAll(t *table, mark netwin.Mark) error {
	if err := db.disk.replace(t, mark); err != nil {
		return err
	}
	db.table.Store(t)
	db.decoys.forget()
	db.offerAll()
	db.history.restart(mark)
	return nil
}

// offerAll lets the decoys choose among all hashes.
func (db *DB) offerAll() {
	for l := range db.table.Load().all() {
		db.decoys.offer(l.hash())
	}
}
