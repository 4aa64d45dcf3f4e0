package backend

import "sync"

// Watch tells a session that something in a mailbox changed, without saying
// what: the session takes a new View and compares. Signals that come while one
// is pending are one.
type Watch struct {
	C <-chan struct{} // receives after each change; never closed

	c    chan struct{}
	once sync.Once
	stop func()
}

// NewWatch makes a Watch for a store; stop is called once, when the watcher
// closes it.
func NewWatch(stop func()) *Watch {
	c := make(chan struct{}, 1)
	return &Watch{C: c, c: c, stop: stop}
}

// Signal marks a change. It never blocks.
func (w *Watch) Signal() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

// Close ends the watch. It may be called more than once.
func (w *Watch) Close() { w.once.Do(w.stop) }
