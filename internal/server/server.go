// Package server accepts connections and looks after the sessions they become:
// it bounds how many there are, keeps one session's panic from ending the
// others, and ends them in order when the daemon stops.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// ErrShutdown is the cause of a session's context when the daemon stops. The
// session finishes the answer in hand, says goodbye and returns.
var ErrShutdown = errors.New("server is shutting down")

// Options for Run. The zero value works.
type Options struct {
	// MaxSessions bounds the sessions of this listener; more connections
	// wait in the kernel's queue. Zero means 20,000.
	MaxSessions int

	// Grace is how long sessions may take to say goodbye before their
	// connections are closed. Zero means 5 seconds.
	Grace time.Duration

	// Stop tells the sessions that have outlived their handlers (Place.Keep)
	// that the daemon stops. It is called once, when the sessions' contexts have
	// ended. Nil: there are none.
	Stop func()

	Logger *zap.Logger // nil: none
}

// Handler serves one connection until its session ends. It closes the
// connection. When ctx ends it must come to an end within the grace period.
type Handler func(ctx context.Context, conn net.Conn)

// Place is a session's place among those of its listener.
type Place struct {
	s    *sessions
	conn net.Conn
	kept bool
}

// Keep lets the session outlive its handler: it counts, and Run waits for it,
// until leave is called, once. Its connection is not the server's to close any
// more; Options.Stop has to end the session.
func (p *Place) Keep() (leave func()) {
	p.kept = true
	p.s.forget(p.conn)
	return p.s.leave
}

// acceptPause is how long Run waits before it accepts again when the system
// has run out of something (descriptors, memory).
const acceptPause = 50 * time.Millisecond

// maxIdle is how many goroutines of a listener wait for the next connection.
const maxIdle = 16

// Run accepts connections from ln until ctx ends, then closes ln, tells the
// sessions (their contexts end with the cause ErrShutdown), waits for them,
// and returns nil. It returns an error only if ln fails for good. When it
// returns, every session has ended.
func Run(ctx context.Context, ln net.Listener, o Options, handle Handler) error {
	return RunPlaces(ctx, ln, o, func(ctx context.Context, conn net.Conn, _ *Place) { handle(ctx, conn) })
}

// RunPlaces is Run for sessions that may outlive their handler, which gets the
// session's place.
func RunPlaces(ctx context.Context, ln net.Listener, o Options, handle func(context.Context, net.Conn, *Place)) error {
	if o.MaxSessions == 0 {
		o.MaxSessions = 20000
	}
	if o.Grace == 0 {
		o.Grace = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	s := &sessions{room: make(chan struct{}, o.MaxSessions), conns: make(map[net.Conn]struct{}), next: make(chan net.Conn), done: make(chan struct{})}
	s.leave = s.left
	sessionCtx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(ErrShutdown)
	release := context.AfterFunc(ctx, func() { ln.Close() })
	defer release()

	err := s.accept(ctx, ln, o, func(conn net.Conn) {
		p := &Place{s: s, conn: conn}
		defer p.end()
		defer contain(conn, o.Logger)
		handle(sessionCtx, conn, p)
	})
	ln.Close()
	stop(ErrShutdown)
	if o.Stop != nil {
		o.Stop()
	}
	cut := time.AfterFunc(o.Grace, s.closeAll)
	defer cut.Stop()
	s.wg.Wait()
	close(s.done)
	s.crew.Wait()
	return err
}

// accept starts a session for each connection, while there is room.
func (s *sessions) accept(ctx context.Context, ln net.Listener, o Options, run func(net.Conn)) error {
	for {
		select {
		case s.room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := ln.Accept()
		if err == nil {
			s.add(conn)
			select {
			case s.next <- conn:
			default:
				s.crew.Go(func() { s.work(conn, run) })
			}
			continue
		}
		<-s.room
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		}
		o.Logger.Warn("cannot accept connections", zap.Stringer("listener", ln.Addr()), zap.Error(err))
		select {
		case <-time.After(acceptPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// work runs a session, and others after it: a goroutine whose stack has grown is
// cheaper than a new one.
func (s *sessions) work(conn net.Conn, run func(net.Conn)) {
	for {
		run(conn)
		if s.idle.Add(1) > maxIdle {
			s.idle.Add(-1)
			return
		}
		select {
		case conn = <-s.next:
			s.idle.Add(-1)
		case <-s.done:
			return
		}
	}
}

// contain ends a session whose handler panicked, and nothing else.
func contain(conn net.Conn, log *zap.Logger) {
	if p := recover(); p != nil {
		log.Error("session panicked", zap.Any("panic", p), zap.Stringer("peer", conn.RemoteAddr()), zap.ByteString("stack", debug.Stack()))
		conn.Close()
	}
}

// sessions are those of one listener, and the connections of those that are in
// their handlers.
type sessions struct {
	room  chan struct{} // as many as there may be
	wg    sync.WaitGroup
	leave func() // left, made once
	mu    sync.Mutex
	conns map[net.Conn]struct{}

	crew sync.WaitGroup // goroutines
	idle atomic.Int32   // of them
	next chan net.Conn  // to one that is idle
	done chan struct{}  // closed when there is nothing left for them to do
}

func (s *sessions) add(conn net.Conn) {
	s.wg.Add(1)
	s.mu.Lock()
	s.conns[conn] = struct{}{}
	s.mu.Unlock()
}

func (s *sessions) forget(conn net.Conn) {
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
}

// left gives a session's place back.
func (s *sessions) left() {
	<-s.room
	s.wg.Done()
}

// end is the end of the handler.
func (p *Place) end() {
	if p.kept {
		return
	}
	p.s.forget(p.conn)
	p.s.left()
}

func (s *sessions) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		conn.Close()
	}
}
