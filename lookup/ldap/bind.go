package ldap

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"

	"switchyard/lookup"
)

// binders are a server's connections for verifying passwords. A bind changes
// who its connection is, so no search ever runs on one of them, and each has
// one bind at a time (RFC 4511 §4.2.1).
type binders struct {
	places chan struct{} // one for each bind that goes on

	mu     sync.Mutex
	closed bool
	idle   []*connection        // the last used is the last
	busy   map[*connection]bool // those with a bind on them
}

// verify binds as dn. Errors: nil, lookup.ErrRejected, or why the server
// cannot tell.
func (s *server) verify(ctx context.Context, dn, password string) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.BindTimeout)
	defer cancel()
	select {
	case s.binders.places <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for a connection to bind on: %w", ctx.Err())
	}
	// The bind goes on without the caller, so that one who leaves costs no
	// connection.
	answer := make(chan error, 1)
	err := s.dir.start(func() {
		defer func() { <-s.binders.places }()
		answer <- s.bindAs(dn, password)
	})
	if err != nil {
		<-s.binders.places
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the answer: %w", ctx.Err())
	}
}

// bindAs binds on an idle connection or a new one.
func (s *server) bindAs(dn, password string) error {
	for {
		c, fresh, err := s.binder()
		if err != nil {
			return err
		}
		start := time.Now()
		err = c.bind(c.simpleBind(dn, password), s.opts.BindTimeout)
		over := c.line.isOver()
		s.binders.release(c)
		switch {
		case err == nil:
			return nil
		case ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials):
			return lookup.ErrRejected
		case over && !fresh && time.Since(start) < s.opts.BindTimeout/2 && s.dir.life.Err() == nil:
			continue // the server had closed it while it was idle
		}
		return err
	}
}

// binder returns a connection to bind on, and whether it is a new one.
func (s *server) binder() (*connection, bool, error) {
	if c := s.binders.take(); c != nil {
		return c, false, nil
	}
	c, err := s.dial(s.dir.life)
	if err != nil {
		return nil, false, err
	}
	if !s.binders.add(c) {
		c.close()
		return nil, false, errClosed
	}
	return c, true, nil
}

// take returns an idle connection, or nil.
func (b *binders) take() *connection {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.idle) > 0 {
		c := b.idle[len(b.idle)-1]
		b.idle = b.idle[:len(b.idle)-1]
		if !c.line.isOver() {
			b.setBusy(c)
			return c
		}
	}
	return nil
}

// add counts a new connection in, unless the binders are closed.
func (b *binders) add(c *connection) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.setBusy(c)
	}
	return !b.closed
}

func (b *binders) setBusy(c *connection) {
	if b.busy == nil {
		b.busy = make(map[*connection]bool)
	}
	b.busy[c] = true
}

// release makes a connection idle, or ends it when it is of no more use.
func (b *binders) release(c *connection) {
	b.mu.Lock()
	delete(b.busy, c)
	keep := !b.closed && !c.line.isOver()
	if keep {
		b.idle = append(b.idle, c)
	}
	b.mu.Unlock()
	if !keep {
		c.close()
	}
}

// close ends the idle connections, and the busy ones' lines.
func (b *binders) close() {
	b.mu.Lock()
	b.closed = true
	idle := b.idle
	b.idle = nil
	for c := range b.busy {
		c.line.Close()
	}
	b.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
}

// simpleBind is the bind of dn with a password, or nobody's when dn is empty.
func (c *connection) simpleBind(dn, password string) func() error {
	return func() error {
		if dn != "" && password == "" {
			return errors.New("bind without a password") // RFC 4513 §5.1.2
		}
		request := ldap.NewSimpleBindRequest(dn, password, nil)
		request.AllowEmptyPassword = dn == ""
		_, err := c.SimpleBind(request)
		return err
	}
}

// bind runs a bind, and ends the connection when there is no answer.
func (c *connection) bind(request func() error, timeout time.Duration) error {
	if err := c.line.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	err := request()
	if err != nil && c.line.isOver() && !ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials) {
		return fmt.Errorf("no answer: %w", err)
	}
	if e := c.line.SetReadDeadline(time.Time{}); err == nil && e != nil {
		return e
	}
	return err
}
