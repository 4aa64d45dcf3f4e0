package postgres

import (
	"context"
	"sync/atomic"
	"time"

	"switchyard/lookup"
)

// prepareAgain is how soon a database that could not be prepared is tried
// again.
const prepareAgain = 500 * time.Millisecond

// schema is whether the database is known to be as this release needs it.
type schema struct {
	ready atomic.Bool
	turn  chan struct{} // holds a value while somebody prepares

	// What follows is guarded by turn.
	failed error
	at     time.Time
}

func (s *schema) init() { s.turn = make(chan struct{}, 1) }

// preparing marks the questions that prepare itself asks.
type preparing struct{}

// prepare brings the schema up to date before the first question. While that
// fails, questions are answered with the reason, and only every prepareAgain
// does one of them try again. Errors: lookup.ErrUnavailable, and RefusedError
// for a database that can never be used.
func (db *DB) prepare(ctx context.Context) error {
	if db.schema.ready.Load() || ctx.Value(preparing{}) != nil {
		return nil
	}
	s := &db.schema
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return lookup.Unavailable("wait for the database", ctx.Err())
	}
	if s.ready.Load() {
		return nil
	}
	if s.failed != nil && time.Since(s.at) < prepareAgain {
		return s.failed
	}
	s.failed, s.at = db.begin(context.WithValue(ctx, preparing{}, true)), time.Now()
	s.ready.Store(s.failed == nil)
	return s.failed
}
