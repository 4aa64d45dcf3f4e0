package lookuptest

import (
	"context"
	"sync"

	"switchyard/lookup"
)

// Watched is a Scripted that is a lookup.Watcher too. It tells of what the test
// tells it to tell of; Set and Delete alone are not noticed.
type Watched struct {
	*Scripted

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when what follows changes
	err     error         // what Watch ends with
	ended   bool
	next    int
	told    map[int]func(lookup.Change)
}

// NewWatched returns a directory that holds these records.
func NewWatched(records ...Record) *Watched {
	return &Watched{
		Scripted: NewScripted(records...),
		changed:  make(chan struct{}), told: make(map[int]func(lookup.Change)),
	}
}

// Watch implements lookup.Watcher.
func (w *Watched) Watch(ctx context.Context, changed func(lookup.Change)) error {
	w.mu.Lock()
	if w.ended {
		defer w.mu.Unlock()
		return w.err
	}
	id := w.next
	w.next++
	w.told[id] = changed
	w.signal()
	w.mu.Unlock()
	for {
		w.mu.Lock()
		wait, ended, err := w.changed, w.ended, w.err
		if ended || ctx.Err() != nil {
			delete(w.told, id)
			w.mu.Unlock()
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		w.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
		}
	}
}

// Tell tells everyone who watches, and returns when they know.
func (w *Watched) Tell(change lookup.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, changed := range w.told {
		changed(change)
	}
}

// EndFeed makes Watch return err, now and later, until MendFeed. No directory
// should, but for lookup.ErrNoFeed.
func (w *Watched) EndFeed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended, w.err = true, err
	w.signal()
}

// MendFeed undoes EndFeed.
func (w *Watched) MendFeed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = false
}

// Watchers counts those who watch.
func (w *Watched) Watchers() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.told)
}

// WaitWatched blocks until n watch, or ctx ends.
func (w *Watched) WaitWatched(ctx context.Context, n int) error {
	for {
		w.mu.Lock()
		watchers, wait := len(w.told), w.changed
		w.mu.Unlock()
		if watchers >= n {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// signal wakes who waits. The caller holds mu.
func (w *Watched) signal() {
	close(w.changed)
	w.changed = make(chan struct{})
}
