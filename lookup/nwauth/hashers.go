package nwauth

import (
	"context"
	"errors"
	"time"

	"switchyard/lookup"
)

var errBusy = errors.New("too many passwords to hash")

// hashers bounds how many passwords are hashed at the same time, and so the
// processors and the memory that a flood of logins can take.
type hashers struct {
	slots chan struct{}
	wait  time.Duration
}

func newHashers(n int, wait time.Duration) *hashers {
	return &hashers{slots: make(chan struct{}, n), wait: wait}
}

// do runs f in a slot, after waiting for one. Errors: ErrUnavailable.
func (h *hashers) do(ctx context.Context, f func()) error {
	if err := ctx.Err(); err != nil {
		return lookup.Unavailable("hash a password", err)
	}
	select {
	case h.slots <- struct{}{}:
	default:
		timer := time.NewTimer(h.wait)
		defer timer.Stop()
		select {
		case h.slots <- struct{}{}:
		case <-ctx.Done():
			return lookup.Unavailable("wait for a hasher", ctx.Err())
		case <-timer.C:
			return lookup.Unavailable("wait for a hasher", errBusy)
		}
	}
	defer func() { <-h.slots }()
	f()
	return nil
}
