package nwauth

import (
	"context"
	"errors"
	"sync"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
)

// ErrBehind says that a replica was too slow: the changes that it needs next
// are not at hand any more. It has to begin anew.
var ErrBehind = errors.New("the replica has fallen too far behind")

const (
	// historyBytes bounds the changes that are kept in memory for replicas
	// and feeds; what a full copy needs that is under way is kept longer, up
	// to pinnedBytes.
	historyBytes = 8 << 20
	pinnedBytes  = 64 << 20

	// eventSize is what an event takes beside its line and name.
	eventSize = 80

	// headEvery is how often a stream says that it lives.
	headEvery = 5 * time.Second

	// streamBatch bounds the events that a reader takes at a time.
	streamBatch = 512
)

// event is one durable change.
type event struct {
	line     string
	at       netwin.Mark // behind the change
	name     string
	sessions bool
}

func (e event) size() int { return len(e.line) + len(e.name) + eventSize }

// history is the newest changes. One goroutine publishes, any number read.
type history struct {
	mu     sync.Mutex
	start  netwin.Mark // in front of the first event
	end    netwin.Mark // behind the last
	events []event
	bytes  int
	epoch  int // grows when everything has changed at once
	pinned map[*cursor]struct{}
	grown  chan struct{} // closed and replaced when there is more
}

// cursor is a reader's place.
type cursor struct {
	epoch    int
	position uint64 // of the last event that was read
}

func newHistory(at netwin.Mark) *history {
	return &history{start: at, end: at, pinned: make(map[*cursor]struct{}), grown: make(chan struct{})}
}

// publish adds events, which follow the last one.
func (h *history) publish(events []event) {
	if len(events) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		h.events = append(h.events, e)
		h.bytes += e.size()
	}
	h.end = events[len(events)-1].at
	h.trim()
	close(h.grown)
	h.grown = make(chan struct{})
}

// trim drops the oldest events past the bounds.
func (h *history) trim() {
	keep := h.end.Position
	for c := range h.pinned {
		keep = min(keep, c.position)
	}
	drop := 0
	for drop < len(h.events) {
		e := h.events[drop]
		if h.bytes <= historyBytes || h.bytes <= pinnedBytes && e.at.Position > keep {
			break
		}
		h.bytes -= e.size()
		h.start = e.at
		drop++
	}
	if drop == 0 {
		return
	}
	clear(h.events[:drop])
	h.events = h.events[drop:]
}

// restart forgets all events: everything has changed at once.
func (h *history) restart(at netwin.Mark) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start, h.end, h.events, h.bytes = at, at, nil, 0
	h.epoch++
	close(h.grown)
	h.grown = make(chan struct{})
}

// last returns a cursor behind the newest event, and its mark.
func (h *history) last() (*cursor, netwin.Mark) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &cursor{h.epoch, h.end.Position}, h.end
}

// behind returns a cursor at a mark of the past; ok is false when the mark is
// of another history, or too old.
func (h *history) behind(m netwin.Mark) (c *cursor, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c = &cursor{h.epoch, m.Position}
	if m == h.start {
		return c, true
	}
	if m.Position <= h.start.Position || m.Position > h.end.Position {
		return nil, false
	}
	return c, h.events[m.Position-h.start.Position-1].at == m
}

// pin keeps what a cursor has not read yet until unpin.
func (h *history) pin() (*cursor, netwin.Mark) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &cursor{h.epoch, h.end.Position}
	h.pinned[c] = struct{}{}
	return c, h.end
}

func (h *history) unpin(c *cursor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pinned, c)
}

// next returns the events behind a cursor and moves it, or a channel that is
// closed when there are more. ok is false when events were missed; then the
// cursor is behind the newest.
func (h *history) next(c *cursor) (events []event, newest netwin.Mark, more <-chan struct{}, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.epoch != h.epoch || c.position < h.start.Position {
		c.epoch, c.position = h.epoch, h.end.Position
		return nil, h.end, h.grown, false
	}
	events = h.events[c.position-h.start.Position:]
	events = append([]event(nil), events[:min(len(events), streamBatch)]...)
	c.position += uint64(len(events))
	return events, h.end, h.grown, true
}

// Watch implements lookup.Watcher. A receiver that is too slow, and a content
// that is replaced as a whole by an import, show as a change with an empty
// name.
func (db *DB) Watch(ctx context.Context, changed func(lookup.Change)) error {
	return db.Feed(ctx, func() {}, changed)
}

// Feed is Watch, and calls live first, once it is certain that no change from
// then on is missed.
func (db *DB) Feed(ctx context.Context, live func(), changed func(lookup.Change)) error {
	c, _ := db.history.last()
	live()
	for {
		events, _, more, ok := db.history.next(c)
		if !ok {
			changed(lookup.Change{})
		}
		for _, e := range events {
			if ctx.Err() != nil {
				return nil
			}
			changed(lookup.Change{Name: e.name, Sessions: e.sessions})
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

// Stream sends the database and then its changes to a replica, until ctx ends
// or the follower returns an error. from is the mark that the replica has; nil
// means that it has nothing. When the changes since are not at hand, or the
// mark is of another history, the replica gets a full copy.
//
// Errors: the follower's, the context's, ErrBehind, and lookup.ErrUnavailable
// while this database is itself a replica that has no copy yet.
func (db *DB) Stream(ctx context.Context, from *netwin.Mark, to netwin.Follower) error {
	if err := db.whole(); err != nil {
		return err
	}
	c, ok := (*cursor)(nil), false
	if from != nil {
		c, ok = db.history.behind(*from)
	}
	var err error
	if ok {
		err = to.Continue(*from)
	} else {
		var release func()
		c, release, err = db.sendCopy(ctx, to)
		defer release()
	}
	if err != nil {
		return err
	}
	return db.sendChanges(ctx, c, to)
}

// sendCopy sends everything there is. Changes go on meanwhile; they are kept
// until release.
func (db *DB) sendCopy(ctx context.Context, to netwin.Follower) (c *cursor, release func(), err error) {
	c, at := db.history.pin()
	release = func() { db.history.unpin(c) }
	t := db.table.Load()
	names := t.names(true)
	if err := to.Copy(at, len(names)); err != nil {
		return nil, release, err
	}
	var text []byte
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, release, err
		}
		if text = t.appendLine(text[:0], name); len(text) == 0 {
			continue // deleted meanwhile
		}
		if err := to.Line(string(text[:len(text)-1])); err != nil {
			return nil, release, err
		}
	}
	_, until := db.history.last()
	return c, release, to.Copied(until)
}

func (db *DB) sendChanges(ctx context.Context, c *cursor, to netwin.Follower) error {
	tick := time.NewTicker(headEvery)
	defer tick.Stop()
	for {
		events, newest, more, ok := db.history.next(c)
		if !ok {
			return ErrBehind
		}
		for _, e := range events {
			if err := to.Change(e.line, e.at, e.sessions); err != nil {
				return err
			}
		}
		if err := to.Head(newest); err != nil {
			return err
		}
		if c.position < newest.Position {
			continue
		}
		select {
		case <-more:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
