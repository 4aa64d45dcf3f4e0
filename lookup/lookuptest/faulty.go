package lookuptest

import (
	"context"
	"errors"
	"sync"
	"time"

	"switchyard/lookup"
)

// Faulty is a fault injector in front of a directory: it stops, hangs, slows
// and stumbles. Wire does the same to a directory's connections.
type Faulty struct {
	next    lookup.Directory
	timeout time.Duration

	mu      sync.Mutex
	changed chan struct{} // closed and replaced with what follows
	stopped bool
	hanging bool
	delay   time.Duration
	every   int
	asked   int
}

// NewFaulty returns an injector without faults. While it hangs, a question is
// answered with unavailable when its context ends or timeout has passed.
func NewFaulty(next lookup.Directory, timeout time.Duration) *Faulty {
	return &Faulty{next: next, timeout: timeout, changed: make(chan struct{})}
}

// Stop makes every question unavailable at once.
func (f *Faulty) Stop() { f.set(func() { f.stopped = true }) }

// Hang leaves every question without an answer.
func (f *Faulty) Hang() { f.set(func() { f.hanging = true }) }

// Slow delays every question by d.
func (f *Faulty) Slow(d time.Duration) { f.set(func() { f.delay = d }) }

// Stumble makes every nth question unavailable.
func (f *Faulty) Stumble(nth int) { f.set(func() { f.every = nth }) }

// Mend ends all faults; questions that hang are asked.
func (f *Faulty) Mend() {
	f.set(func() { f.stopped, f.hanging, f.delay, f.every = false, false, 0, 0 })
}

// Asked counts the questions so far, those with faults too.
func (f *Faulty) Asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *Faulty) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

// Lookup implements lookup.Directory.
func (f *Faulty) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	if err := f.pass(ctx); err != nil {
		return lookup.Account{}, err
	}
	return f.next.Lookup(ctx, name)
}

// Check implements lookup.Directory.
func (f *Faulty) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	// What needs no question meets no fault.
	if c.Password == "" {
		return f.next.Check(ctx, c)
	}
	if err := f.pass(ctx); err != nil {
		return lookup.Account{}, err
	}
	return f.next.Check(ctx, c)
}

var errInjected = errors.New("injected")

// pass waits or fails as the faults say.
func (f *Faulty) pass(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	f.mu.Lock()
	f.asked++
	stumble := f.every > 0 && f.asked%f.every == 0
	f.mu.Unlock()
	if stumble {
		return lookup.Unavailable("ask through faults", errInjected)
	}
	for {
		f.mu.Lock()
		stopped, hanging, delay, changed := f.stopped, f.hanging, f.delay, f.changed
		f.mu.Unlock()
		switch {
		case stopped:
			return lookup.Unavailable("ask through faults", errInjected)
		case !hanging && delay == 0:
			return nil
		case !hanging:
			timer := time.NewTimer(delay)
			defer timer.Stop()
			select {
			case <-timer.C:
				return nil
			case <-ctx.Done():
				return lookup.Unavailable("wait in faults", ctx.Err())
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return lookup.Unavailable("wait in faults", ctx.Err())
		}
	}
}
