package nwauth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"switchyard/lookup/internal/netwin"
)

// Replica takes over what a primary streams. Its methods are those of
// netwin.Follower, called by one goroutine at a time; Mark and Status can be
// called by any.
//
// Changes become durable in the primary's order and under the primary's marks,
// so that the replica can go on where it was after a restart, with this primary
// or with another replica of it that has become one. A full copy is gathered in
// memory and takes the place of everything at once; until then the replica
// answers from what it had.
type Replica struct {
	db *DB

	lines    []*change // not yet durable
	bytes    int
	mark     netwin.Mark // behind them
	copied   *table      // a full copy that is under way
	complete bool        // all its lines are there
	until    netwin.Mark // when it is whole

	mu     sync.Mutex
	status ReplicaStatus
}

// ReplicaStatus says how far a replica is behind its primary.
type ReplicaStatus struct {
	Whole  bool        // there is something to answer from
	Mark   netwin.Mark // of what is durable here
	Newest netwin.Mark // that the primary told of
	Heard  time.Time   // when it did; zero when it has not yet

	// Copying is how many accounts of a full copy have arrived, out of about
	// Expected; both are zero when none is under way.
	Copying, Expected int
}

// Behind is how many changes are missing, as far as the primary has told.
func (s ReplicaStatus) Behind() uint64 {
	if s.Newest.Position < s.Mark.Position {
		return 0
	}
	return s.Newest.Position - s.Mark.Position
}

// errStream is what a stream that makes no sense is answered with.
var errStream = errors.New("the primary's stream makes no sense")

// Replica returns what a stream of the primary is given to. There is one for a
// database, which was opened with Options.Primary.
func (db *DB) Replica() *Replica {
	_, mark := db.history.last()
	return &Replica{db: db, mark: mark, status: ReplicaStatus{Whole: !db.empty.Load(), Mark: mark}}
}

// Begin forgets a stream that broke, and returns the mark to go on from; nil
// when a full copy is needed.
func (r *Replica) Begin() *netwin.Mark {
	r.lines, r.bytes, r.copied, r.complete = nil, 0, nil, false
	_, r.mark = r.db.history.last()
	r.update(func(s *ReplicaStatus) { s.Copying, s.Expected = 0, 0 })
	if r.db.empty.Load() {
		return nil
	}
	mark := r.mark
	return &mark
}

// Status may be called by any goroutine.
func (r *Replica) Status() ReplicaStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

func (r *Replica) update(f func(*ReplicaStatus)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.status)
}

// Continue implements netwin.Follower.
func (r *Replica) Continue(at netwin.Mark) error {
	if at != r.mark {
		return fmt.Errorf("%w: it continues at %s, not at %s", errStream, at, r.mark)
	}
	return nil
}

// Copy implements netwin.Follower.
func (r *Replica) Copy(at netwin.Mark, n int) error {
	r.copied, r.mark, r.complete = newTable(min(n, maxExpected)), at, false
	r.lines, r.bytes = nil, 0
	r.update(func(s *ReplicaStatus) { s.Copying, s.Expected, s.Heard = 0, n, time.Now() })
	return nil
}

// maxExpected bounds what is set aside on the primary's word.
const maxExpected = 2_000_000

// Line implements netwin.Follower.
func (r *Replica) Line(text string) error {
	if r.copied == nil || r.complete {
		return fmt.Errorf("%w: a line outside a copy", errStream)
	}
	name, st, err := replicated(text)
	if err != nil {
		return err
	}
	r.copied.put(name, st)
	r.update(func(s *ReplicaStatus) { s.Copying++ })
	return nil
}

// Copied implements netwin.Follower.
func (r *Replica) Copied(until netwin.Mark) error {
	if r.copied == nil || r.complete {
		return fmt.Errorf("%w: the end of a copy that did not begin", errStream)
	}
	r.complete, r.until = true, until
	return r.install()
}

// Change implements netwin.Follower.
func (r *Replica) Change(text string, at netwin.Mark, sessions bool) error {
	if r.mark = r.mark.Next(text); r.mark != at {
		return fmt.Errorf("%w: the change leads to %s, not to %s", errStream, r.mark, at)
	}
	name, st, err := replicated(text)
	if err != nil {
		return err
	}
	if r.copied != nil {
		r.copied.put(name, st)
		return r.install()
	}
	r.lines = append(r.lines, &change{name: name, sessions: &sessions, next: func(state) (state, error) { return st, nil }})
	if r.bytes += len(text); r.bytes >= maxBatch {
		return r.flush()
	}
	return nil
}

// Head implements netwin.Follower.
func (r *Replica) Head(newest netwin.Mark) error {
	err := r.flush()
	r.update(func(s *ReplicaStatus) { s.Newest, s.Heard = newest, time.Now() })
	return err
}

// replicated reads a line of a stream. The line must be in the form in which
// it is kept, or the marks would part.
func replicated(text string) (string, state, error) {
	if strings.ContainsAny(text, "\r\n") {
		return "", state{}, fmt.Errorf("%w: a line with a line end", errStream)
	}
	name, st, err := parseLine(text)
	if err != nil {
		return "", state{}, fmt.Errorf("%w: %v", errStream, err)
	}
	if string(st.appendLine(nil, name)) != text {
		return "", state{}, fmt.Errorf("%w: a line is not in the form in which it is kept", errStream)
	}
	return name, st, nil
}

// flush makes the changes durable that have arrived.
func (r *Replica) flush() error {
	if len(r.lines) == 0 {
		return nil
	}
	lines := r.lines
	r.lines, r.bytes = nil, 0
	// The stream's end does not end it half way.
	if err := r.db.enqueue(context.Background(), &request{changes: lines}); err != nil {
		return err
	}
	if _, mark := r.db.history.last(); mark != r.mark {
		return fmt.Errorf("%w: %s became %s", errStream, r.mark, mark)
	}
	r.update(func(s *ReplicaStatus) { s.Mark = r.mark })
	return nil
}

// install puts a full copy in the place of everything once it is whole.
func (r *Replica) install() error {
	if !r.complete || r.mark.Position < r.until.Position {
		return nil
	}
	t, mark := r.copied, r.mark
	r.copied, r.complete = nil, false
	err := r.db.enqueue(context.Background(), &request{alone: func() error { return r.db.replaceAll(t, mark) }})
	if err != nil {
		return err
	}
	r.db.empty.Store(false)
	r.update(func(s *ReplicaStatus) { s.Whole, s.Mark, s.Copying, s.Expected = true, mark, 0, 0 })
	return nil
}

var _ netwin.Follower = (*Replica)(nil)
