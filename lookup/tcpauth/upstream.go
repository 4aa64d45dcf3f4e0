package tcpauth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"switchyard/internal/wire"
)

// minBackoff is how long a server is left alone after its first failure.
const minBackoff = 50 * time.Millisecond

// The lanes to a server.
const (
	lookupLane = iota
	otherLane  // with passwords to hash and disks to sync
	laneCount
)

// dialling is an attempt to connect that several callers wait for.
type dialling struct {
	done chan struct{}
	err  error // valid once done is closed
}

// upstream is one server and the connections to it that are not in use.
type upstream struct {
	address string
	tls     *tls.Config // nil: clear text
	opts    *ClientOptions

	mu       sync.Mutex
	lanes    [laneCount]*lane
	dialling [laneCount]*dialling
	old      bool        // the server knows no tags
	heard    *extensions // what the newest connection was told; nil: nothing yet
	idle     []*conn     // of a server without tags; the newest last
	closed   bool        // nothing is kept any more
	answered time.Time
	failures int // one after another
	until    time.Time
	reason   error
}

// away returns why a server is left alone now, nil if it can be asked.
func (u *upstream) away() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failures == 0 || !time.Now().Before(u.until) {
		return nil
	}
	return fmt.Errorf("%s is left alone after %d failures: %w", u.address, u.failures, u.reason)
}

// lacks reports whether a question cannot be put to this server, as far as is
// known.
func (u *upstream) lacks(q question) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.heard != nil && !q.can(*u.heard)
}

// lane returns a connection that takes tags, nil for a server that does not
// know them. Callers that come at the same time share one attempt.
func (u *upstream) lane(ctx context.Context, which int) (*lane, error) {
	for {
		u.mu.Lock()
		l := u.lanes[which]
		switch {
		case u.closed:
			u.mu.Unlock()
			return nil, errClosed
		case l != nil && !l.ended():
			u.mu.Unlock()
			return l, nil
		case u.old:
			u.mu.Unlock()
			return nil, nil
		}
		d := u.dialling[which]
		first := d == nil
		if first {
			d = &dialling{done: make(chan struct{})}
			u.dialling[which] = d
		}
		u.mu.Unlock()
		if first {
			return u.newLane(ctx, which, d)
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a connection: %w", ctx.Err())
		}
		// An attempt that was in more of a hurry than this one says nothing.
		if d.err != nil && !errors.Is(d.err, context.Canceled) && !errors.Is(d.err, context.DeadlineExceeded) {
			return nil, d.err
		}
	}
}

// newLane connects for all who wait.
func (u *upstream) newLane(ctx context.Context, which int, d *dialling) (*lane, error) {
	start := time.Now()
	c, err := u.dial(ctx)
	if err != nil {
		err = u.failed(ctx, start, err)
	}
	var l, before *lane
	u.mu.Lock()
	u.dialling[which] = nil
	before = u.lanes[which]
	u.lanes[which] = nil
	switch {
	case err != nil:
	case u.closed:
		err = errClosed
	case c.ext.tagged:
		l = newLane(u, c)
		u.lanes[which], u.old = l, false
	default:
		u.old = true
	}
	u.mu.Unlock()
	switch {
	case c == nil || l != nil:
	case err != nil:
		c.close()
	default:
		u.keep(c)
	}
	d.err = err
	close(d.done)
	if before != nil {
		before.wg.Wait() // it has ended
	}
	return l, err
}

// get returns a connection that is idle, or a fresh one.
func (u *upstream) get(ctx context.Context) (*conn, error) {
	for {
		c := u.take()
		if c == nil {
			return u.dial(ctx)
		}
		if !c.stale(u.opts.Idle) {
			return c, nil
		}
		c.close()
	}
}

func (u *upstream) take() *conn {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.idle)
	if n == 0 {
		return nil
	}
	c := u.idle[n-1]
	u.idle[n-1] = nil
	u.idle = u.idle[:n-1]
	return c
}

// put keeps a connection that has answered for the next question.
func (u *upstream) put(c *conn) {
	c.used = true
	u.keep(c)
}

func (u *upstream) keep(c *conn) {
	c.since = time.Now()
	var surplus *conn
	u.mu.Lock()
	switch {
	case u.closed:
		surplus = c
	case len(u.idle) > 0 && time.Since(u.idle[0].since) > u.opts.Idle:
		// Connections that a busy hour needed go one by one.
		surplus = u.idle[0]
		u.idle = append(u.idle[1:], c)
	default:
		u.idle = append(u.idle, c)
	}
	u.mu.Unlock()
	if surplus != nil {
		surplus.close()
	}
}

// closeIdle closes what is not in use; forever, if the client is closed.
func (u *upstream) closeIdle(forever bool) {
	u.mu.Lock()
	idle := u.idle
	u.idle = nil
	u.closed = u.closed || forever
	lanes := u.lanes
	u.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
	for _, l := range lanes {
		if forever && l != nil {
			l.close()
		}
	}
}

func (u *upstream) succeeded() {
	u.mu.Lock()
	again := u.failures > 0
	u.failures, u.reason, u.answered = 0, nil, time.Now()
	u.mu.Unlock()
	if again {
		u.opts.Logger.Info("tcpauth server is back", zap.String("node", u.address))
	}
}

// fairTime is how long a server gets before its silence is held against it. A
// caller that gave up earlier says nothing about the server.
const fairTime = time.Second

// failed counts a failure of the server, in an attempt that began at start, and
// leaves it alone for a while. A server that answered others meanwhile is only
// slow with this one, as with a password when many are to be hashed, and is not
// left alone for it. It returns err.
func (u *upstream) failed(ctx context.Context, start time.Time, err error) error {
	timedOut := ctx.Err() != nil || wire.IsTimeout(err)
	if timedOut && time.Since(start) < min(fairTime, u.opts.Attempt) {
		return err
	}
	u.mu.Lock()
	slow := timedOut && u.answered.After(start)
	u.mu.Unlock()
	if !slow {
		u.blame(err)
	}
	return err
}

// blame leaves the server alone for a while.
func (u *upstream) blame(err error) {
	u.mu.Lock()
	backoff := min(minBackoff<<min(u.failures, 16), u.opts.MaxBackoff)
	// Jitter keeps many proxies from coming back at the same moment.
	u.until = time.Now().Add(backoff/2 + rand.N(backoff/2+1))
	u.failures++
	u.reason = err
	first := u.failures == 1
	u.mu.Unlock()
	if first {
		u.opts.Logger.Warn("tcpauth server failed", zap.String("node", u.address), zap.Error(err))
	}
}

// dial connects to the server, shows the secret and asks for its extensions.
func (u *upstream) dial(ctx context.Context) (*conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", u.address)
	if err != nil {
		return nil, err
	}
	c := newConn(nc)
	if err := c.begin(ctx, u.tls, u.opts.Secret); err != nil {
		c.close()
		return nil, err
	}
	u.mu.Lock()
	u.heard = &c.ext
	if c.ext.tagged {
		// It may have been an older one before.
		u.old = false
	}
	u.mu.Unlock()
	return c, nil
}
