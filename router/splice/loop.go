package splice

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
)

// LoopOptions for NewLoop. The zero value works.
type LoopOptions struct {
	// Workers is how many goroutines move bytes, each with an epoll descriptor
	// of its own. Zero means one for each processor that Go may use.
	Workers int

	// Pipes is how many pipes the workers may use together for splice(2) at
	// once; each has two descriptors and holds at most 1 MB of kernel memory.
	// Sessions that find none are copied. Zero means 48 (Linux lets a user have
	// 64 MB of pipes unless it is root), less than zero none.
	Pipes int
}

func (o *LoopOptions) fill() {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Pipes == 0 {
		o.Pipes = 48
	}
}

// Session is a joined session. It is safe for concurrent use, also when the
// session has ended: then the methods do nothing.
type Session interface {
	// Goodbye closes the backend's half, as the end of Join's ctx does: a
	// backend then finishes the answer in hand, says goodbye in its own words
	// and closes. Both sides are cut off after Options.Grace. The session ends
	// as Drained with cause as its error, unless it was ending already.
	Goodbye(cause error)

	// Cut closes both sides now. The session ends as Drained with cause.
	Cut(cause error)

	// Moved returns how many bytes went to the backend and to the client so
	// far.
	Moved() (in, out int64)
}

// Loop holds joined sessions. A session on which nothing moves costs it a few
// hundred bytes beside the two sockets (with TLS: and the *tls.Conn): no
// goroutine, no pipe, no buffer. It is safe for concurrent use.
type Loop struct {
	o      LoopOptions
	system system
	ctx    context.Context // of the sessions that a goroutine pair serves
	stop   context.CancelCauseFunc
	live   atomic.Int64

	mu     sync.Mutex
	cause  error // not nil: closed
	joined sync.WaitGroup
}

var errClosed = errors.New("the loop is closed")

// NewLoop starts a loop. Close ends it. It fails when the system has no
// descriptors left.
func NewLoop(o LoopOptions) (*Loop, error) {
	o.fill()
	l := &Loop{o: o}
	l.ctx, l.stop = context.WithCancelCause(context.Background())
	if err := l.system.start(l); err != nil {
		l.stop(err)
		return nil, err
	}
	return l, nil
}

// Join is the function Join as a session of the loop: it returns at once, and
// calls done when the session has ended, once, with what Join would have
// returned. Both connections are the loop's from now on, and nobody may use
// them again; closing a *net.TCPConn does nothing, nor does closing a wire.Conn
// that they were detached from.
//
// done is called by a goroutine that serves many sessions, maybe before Join
// has returned: it must not block, nor call Close.
//
// Connections that are neither from Listen or Dial, nor a *net.TCPConn, nor a
// *tls.Conn over one of these (by way of wire.Conn) are served by two goroutines, and so is everything where there
// is no epoll. A nil Loop serves all sessions so, and nobody waits for them.
func (l *Loop) Join(front, back net.Conn, o Options, done func(Result, error)) Session {
	o.fill()
	if l == nil {
		return l.serve(context.Background(), front, back, o, done)
	}
	l.mu.Lock()
	if l.cause != nil {
		l.mu.Unlock()
		cutOff(front)
		cutOff(back)
		done(Result{End: Drained}, l.cause)
		return ended{}
	}
	l.joined.Add(1)
	l.live.Add(1)
	l.mu.Unlock()
	if s := l.system.park(front, back, o, done); s != nil {
		return s
	}
	return l.serve(l.ctx, front, back, o, done)
}

// Listen returns a listener whose connections are fit for Join: on Linux they are
// a *Conn each, elsewhere what ln accepts. It is ln when that is not of TCP. The
// sockets of ln get keepalive, and send small writes at once. Closing the one
// closes the other.
func (l *Loop) Listen(ln net.Listener) (net.Listener, error) {
	if l == nil {
		return ln, nil
	}
	return l.system.listen(ln)
}

// Dial connects to host:port over TCP; the connection is fit for Join as Listen's
// are. The addresses of a name are tried one after the other. Keepalive is turned
// on when the connection has been joined for a while: before, the caller sets
// deadlines.
func (l *Loop) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if l == nil || network != "tcp" {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return l.system.dial(ctx, address)
}

// left counts a session that has ended, behind its done.
func (l *Loop) left() {
	if l == nil {
		return
	}
	l.live.Add(-1)
	l.joined.Done()
}

// Len is the number of sessions.
func (l *Loop) Len() int { return int(l.live.Load()) }

// Close says goodbye to all sessions, waits for them, and ends what NewLoop
// started. It takes no longer than the longest Options.Grace of a session.
// Sessions that are joined afterwards end at once. A nil cause stands for a
// general one.
func (l *Loop) Close(cause error) {
	if cause == nil {
		cause = errClosed
	}
	l.mu.Lock()
	first := l.cause == nil
	if first {
		l.cause = cause
	}
	l.mu.Unlock()
	if first {
		l.stop(cause)
		l.system.goodbye(cause)
	}
	l.joined.Wait()
	if first {
		l.system.close()
	}
}

// served is a session that goroutines serve.
type served struct {
	j    *joint
	stop context.CancelCauseFunc
}

// serve joins two connections by way of the portable Join.
func (l *Loop) serve(ctx context.Context, front, back net.Conn, o Options, done func(Result, error)) Session {
	ctx, stop := context.WithCancelCause(ctx)
	s := &served{j: newJoint(front, back, o), stop: stop}
	go func() {
		defer l.left()
		defer stop(nil)
		done(s.j.run(ctx))
	}()
	return s
}

func (s *served) Goodbye(cause error) { s.stop(cause) }

func (s *served) Cut(cause error) {
	s.j.ended(Drained, cause)
	s.j.closeBoth()
}

func (s *served) Moved() (in, out int64) { return s.j.in.n.Load(), s.j.out.n.Load() }

// ended is a session that never began.
type ended struct{}

func (ended) Goodbye(error)          {}
func (ended) Cut(error)              {}
func (ended) Moved() (in, out int64) { return 0, 0 }
