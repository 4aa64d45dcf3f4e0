package module

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"switchyard/lookup/internal/authent"
)

// minBackoff is how long a worker rests after its child's first failure.
const minBackoff = 50 * time.Millisecond

var (
	errTimeout     = errors.New("no answer in time")
	errUnsolicited = errors.New("garbled reply: a line that nobody asked for")
)

// worker keeps one child running and brings it jobs, one at a time.
type worker struct {
	module *Module
	log    *zap.Logger
}

// run goes on until the module is closed.
func (w *worker) run() {
	m := w.module
	failures := 0
	for m.closing.Err() == nil {
		c, err := startChild(m.command, m.opts.Dir, m.opts.Env, w.log)
		if err == nil {
			var answers int
			answers, err = w.serve(c)
			if m.closing.Err() != nil && err == nil {
				c.farewell(m.opts.Farewell)
				return
			}
			c.kill()
			if answers > 0 {
				failures = 0
			}
		}
		failures++
		w.log.Warn("authent module failed", zap.Int("failures", failures), zap.NamedError("reason", err))
		backoff := min(minBackoff<<min(failures-1, 16), m.opts.MaxBackoff)
		w.rest(backoff/2+rand.N(backoff/2+1), err)
	}
}

// rest waits before the next child is started.
func (w *worker) rest(d time.Duration, reason error) {
	w.module.health.rest(reason)
	defer w.module.health.wake()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.module.closing.Done():
	}
}

// serve brings jobs to a child until it fails, which is the error, or the
// module is closed. It returns how many were answered.
func (w *worker) serve(c *child) (answers int, err error) {
	m := w.module
	for {
		select {
		case <-m.closing.Done():
			return answers, nil
		case l := <-c.lines:
			return answers, l.unasked()
		case j := <-m.jobs:
			if j.ctx.Err() != nil {
				j.done <- j.ctx.Err()
				continue
			}
			err, fatal := c.exchange(j)
			j.done <- err
			if fatal {
				return answers, err
			}
			answers++
		}
	}
}

// exchange sends a request and reads its answer, however long the caller has.
// After a fatal error the child is of no use.
func (c *child) exchange(j *job) (err error, fatal bool) {
	// The limit is the child's own, not the caller's.
	ctx, cancel := context.WithTimeout(context.Background(), j.limit)
	defer cancel()
	select {
	case l := <-c.lines:
		return l.unasked(), true
	default:
	}
	c.hide(j.secret)
	if err := c.send(ctx, j.line); err != nil {
		return err, true
	}
	for {
		var l line
		select {
		case l = <-c.lines:
		case <-ctx.Done():
			return errTimeout, true
		}
		if l.err != nil {
			return l.err, true
		}
		reply, err := authent.ParseReply(l.text)
		if err != nil {
			return err, true
		}
		done, err := c.take(j, reply)
		var says dead
		switch {
		case err != nil && !errors.As(err, new(answered)) && !errors.As(err, &says):
			return err, true
		case done && l.more:
			return errUnsolicited, true
		case done:
			return err, false
		}
	}
}

// take gives one line of an answer to who asked, and returns whether it was
// the last.
func (c *child) take(j *job, reply authent.Reply) (done bool, err error) {
	switch reply.Kind {
	case authent.Dead:
		return true, dead{c.clean(reply.Text)}
	case authent.Err:
		reply.Text = c.clean(reply.Text)
	}
	return j.read(reply)
}

// dead is a -DEAD reply.
type dead struct{ reason string }

func (d dead) Error() string { return fmt.Sprintf("the module says %s %.80q", authent.Dead, d.reason) }
