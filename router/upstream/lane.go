package upstream

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// ErrBusy: too many logins wait for the backend already, or this one has waited
// for too long. It passes.
var ErrBusy = errors.New("too many logins wait for the backend")

// errTurned: what is known of the nodes has changed while a login waited, which
// should choose again.
var errTurned = errors.New("the node's state has changed")

// slowStart is with how many logins at once a node begins that was down; the
// number doubles each second, up to Options.Logins.
const slowStart = 4

// lane bounds the connects and logins on a service of a node that are under way
// at the same time. The others wait, in their order, and their number is bounded
// too: each is a session that waits for its login, whose memory is bounded where
// sessions are let in. It is safe for concurrent use.
type lane struct {
	most, queue int

	mu      sync.Mutex
	in      int
	waiting list.List // of chan error
	risen   time.Time // when the slow start began; zero: it is over
	turned  uint64    // logins that were turned away
}

// limit is how many may be in. The caller holds mu.
func (l *lane) limit() int {
	if l.risen.IsZero() {
		return l.most
	}
	n := slowStart << min(int(time.Since(l.risen)/time.Second), 30)
	if n >= l.most {
		l.risen = time.Time{}
		return l.most
	}
	return n
}

// enter waits for a place, until a moment. Errors: ErrBusy, errTurned, the cause
// of ctx. A place must be left.
func (l *lane) enter(ctx context.Context, until time.Time) error {
	l.mu.Lock()
	if l.waiting.Len() == 0 && l.in < l.limit() {
		l.in++
		l.mu.Unlock()
		return nil
	}
	patience := time.Until(until)
	if l.waiting.Len() >= l.queue || patience <= 0 {
		l.turned++
		l.mu.Unlock()
		return ErrBusy
	}
	turn := make(chan error, 1)
	place := l.waiting.PushBack(turn)
	l.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err error
	select {
	case err := <-turn:
		return err
	case <-timer.C:
		err = ErrBusy
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case called := <-turn: // too late, or just in time
		if called == nil && err == ErrBusy {
			return nil
		}
		if called == nil {
			l.leaveLocked()
		}
	default:
		l.waiting.Remove(place)
	}
	if err == ErrBusy {
		l.turned++
	}
	return err
}

// tryEnter takes a place if there is one at once.
func (l *lane) tryEnter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting.Len() > 0 || l.in >= l.limit() {
		return false
	}
	l.in++
	return true
}

// leave gives a place back.
func (l *lane) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaveLocked()
}

func (l *lane) leaveLocked() {
	l.in--
	// Whoever waits does so because the lane was full: somebody will leave, and
	// so see a limit that has grown since.
	for l.waiting.Len() > 0 && l.in < l.limit() {
		l.in++
		l.waiting.Remove(l.waiting.Front()).(chan error) <- nil
	}
}

// turn lets all who wait choose again.
func (l *lane) turn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.waiting.Len() > 0 {
		l.waiting.Remove(l.waiting.Front()).(chan error) <- errTurned
	}
}

// rise begins the slow start.
func (l *lane) rise() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.risen = time.Now()
}

func (l *lane) counts() (in, waiting int, turned uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.in, l.waiting.Len(), l.turned
}
