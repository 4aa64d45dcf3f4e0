// Package hashers bounds how many passwords are hashed at the same time, and so
// the processors and the memory that a flood of logins can take.
package hashers

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"switchyard/lookup"
)

var errBusy = errors.New("too many passwords to hash")

// Pool is a bounded number of slots. It is safe for concurrent use.
type Pool struct {
	slots   chan struct{}
	wait    time.Duration
	waiting atomic.Int64
	refused atomic.Uint64
}

// New makes a pool of n slots, for each of which a caller waits at most for
// wait. Zero means one for each processor, and 2 seconds.
func New(n int, wait time.Duration) *Pool {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	if wait == 0 {
		wait = 2 * time.Second
	}
	return &Pool{slots: make(chan struct{}, n), wait: wait}
}

// Do runs f in a slot, after waiting for one. Errors: lookup.ErrUnavailable.
func (p *Pool) Do(ctx context.Context, f func()) error {
	if err := ctx.Err(); err != nil {
		return lookup.Unavailable("hash a password", err)
	}
	select {
	case p.slots <- struct{}{}:
	default:
		if err := p.queue(ctx); err != nil {
			p.refused.Add(1)
			return lookup.Unavailable("wait for a hasher", err)
		}
	}
	defer func() { <-p.slots }()
	f()
	return nil
}

// queue waits for a slot.
func (p *Pool) queue(ctx context.Context) error {
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	timer := time.NewTimer(p.wait)
	defer timer.Stop()
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errBusy
	}
}

// Load returns how many slots are taken, how many callers wait for one, and how
// many have waited in vain since the pool was made.
func (p *Pool) Load() (running, waiting int, refused uint64) {
	return len(p.slots), int(p.waiting.Load()), p.refused.Load()
}
