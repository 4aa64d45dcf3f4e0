package splice

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// farewell is how long a client may take to read the last words and close,
	// once the backend has closed.
	farewell = 5 * time.Second

	// copySize is the buffer of a direction that the kernel cannot move by
	// itself.
	copySize = 16 << 10
)

// Join moves bytes both ways until both sides have ended, and closes both
// connections. A half-close of one side is carried over to the other (TCP FIN,
// TLS close_notify), so that a client that says all it has to say and shuts its
// half still gets its answers.
//
// When ctx ends, the backend's half is closed: a backend then finishes the
// answer in hand, says goodbye in its own words and closes. Both are cut off
// after Options.Grace.
//
// Both connections are Join's. The error is nil when a side closed in order,
// ErrIdle, the cause of ctx, or the connection's own. It returns when all that
// it started has ended.
func Join(ctx context.Context, front, back net.Conn, o Options) (Result, error) {
	o.fill()
	return newJoint(front, back, o).run(ctx)
}

func newJoint(front, back net.Conn, o Options) *joint {
	j := &joint{front: front, back: back, o: o}
	j.in = direction{joint: j, src: front, dst: back, rest: o.FrontRest}
	j.out = direction{joint: j, src: back, dst: front, rest: o.BackRest}
	return j
}

// run is Join.
func (j *joint) run(ctx context.Context) (Result, error) {
	j.touch()
	j.limitSilence(j.o.Idle)

	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		j.drain(context.Cause(ctx))
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		j.runIn()
	}()
	j.runOut()
	<-done
	if !stop() {
		<-drained
	}
	return j.finish()
}

// joint is a session while it is joined.
type joint struct {
	front, back net.Conn
	o           Options
	in, out     direction
	moved       atomic.Int64 // Unix nanoseconds: when bytes moved last

	mu    sync.Mutex
	end   End
	err   error
	over  bool
	limit time.Duration // how long silence may last; zero: for ever
	timer *time.Timer
	cut   *time.Timer // ends a drained session
}

// ended notes why the session ends, if it is the first reason.
func (j *joint) ended(end End, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.end == 0 {
		j.end, j.err = end, err
	}
}

// runIn moves what the client sends.
func (j *joint) runIn() {
	readErr, writeErr := j.in.run()
	switch {
	case writeErr != nil:
		// The backend takes no more. What it still has to say is runOut's.
		j.ended(BackFailed, writeErr)
		j.limitSilence(farewell)
	case readErr != nil:
		j.ended(FrontFailed, readErr)
		j.closeBoth()
	default:
		j.ended(FrontClosed, nil)
		j.limitSilence(j.o.Linger)
		closeWrite(j.back)
	}
}

// runOut moves what the backend sends.
func (j *joint) runOut() {
	readErr, writeErr := j.out.run()
	switch {
	case writeErr != nil:
		j.ended(FrontFailed, writeErr)
		j.closeBoth()
		return
	case readErr != nil:
		j.ended(BackFailed, readErr)
	default:
		j.ended(BackClosed, nil)
	}
	// The client is told by a half-close and not by closing, which could take
	// the last words from it when bytes of its own are still unread here.
	j.limitSilence(min(j.o.Linger, farewell))
	closeWrite(j.front)
}

// drain asks the backend to say goodbye.
func (j *joint) drain(cause error) {
	j.ended(Drained, cause)
	j.mu.Lock()
	j.cut = time.AfterFunc(j.o.Grace, j.closeBoth)
	j.mu.Unlock()
	closeWrite(j.back)
}

// finish closes what is left.
func (j *joint) finish() (Result, error) {
	j.mu.Lock()
	j.over = true
	for _, t := range []*time.Timer{j.timer, j.cut} {
		if t != nil {
			t.Stop()
		}
	}
	j.mu.Unlock()
	j.closeBoth()
	return Result{In: j.in.n.Load(), Out: j.out.n.Load(), End: j.end}, j.err
}

// closeBoth ends both directions at once. It does not block.
func (j *joint) closeBoth() {
	cutOff(j.front)
	cutOff(j.back)
}

func (j *joint) touch() { j.moved.Store(time.Now().UnixNano()) }

// limitSilence lets no silence last longer than d from now on.
func (j *joint) limitSilence(d time.Duration) {
	if d <= 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over || j.limit > 0 && j.limit <= d {
		return
	}
	j.limit = d
	if j.timer != nil {
		j.timer.Stop()
	}
	j.touch()
	j.timer = time.AfterFunc(d, j.watch)
	j.in.watch(d)
	j.out.watch(d)
}

// watch ends the session if it has been silent for too long.
func (j *joint) watch() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over {
		return
	}
	if left := j.limit - time.Since(time.Unix(0, j.moved.Load())); left > 0 {
		j.timer.Reset(left)
		return
	}
	if j.end == 0 {
		j.end, j.err = Idled, ErrIdle
	}
	j.closeBoth()
}

// direction is one way through a joint.
type direction struct {
	joint *joint
	src   net.Conn
	dst   net.Conn
	rest  []byte
	n     atomic.Int64
	tick  atomic.Int64 // nanoseconds; how often a raw copy shows what it moved; zero: never
}

// run moves bytes until src ends or something breaks. Both errors are nil when
// src ended in order.
func (d *direction) run() (readErr, writeErr error) {
	if len(d.rest) > 0 {
		n, err := d.dst.Write(d.rest)
		d.rest = nil
		d.count(int64(n))
		if err != nil {
			return nil, err
		}
	}
	src, rawSrc := d.src.(*net.TCPConn)
	dst, rawDst := d.dst.(*net.TCPConn)
	if rawSrc && rawDst {
		return d.runRaw(src, dst)
	}
	w := &counter{d: d}
	buf := make([]byte, copySize)
	_, err := io.CopyBuffer(w, struct{ io.Reader }{d.src}, buf)
	if w.err != nil {
		return nil, w.err
	}
	return orderly(err), nil
}

// runRaw lets the kernel move the bytes (splice(2) on Linux). A copy that runs
// shows nothing of its progress, so where silence is limited, it is interrupted
// now and then by a deadline on the reading side.
func (d *direction) runRaw(src, dst *net.TCPConn) (readErr, writeErr error) {
	for {
		tick := time.Duration(d.tick.Load())
		if tick > 0 {
			src.SetReadDeadline(time.Now().Add(tick))
		}
		n, err := dst.ReadFrom(src)
		d.count(n)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			// Also when watch interrupted a copy that had begun without.
		case errors.Is(err, syscall.EPIPE):
			return nil, err
		default:
			return orderly(err), nil
		}
	}
}

// watch makes the direction show its progress often enough for a limit of d.
func (d *direction) watch(limit time.Duration) {
	_, rawSrc := d.src.(*net.TCPConn)
	_, rawDst := d.dst.(*net.TCPConn)
	if !rawSrc || !rawDst {
		return // counter sees each write
	}
	d.tick.Store(int64(max(limit/4, time.Millisecond)))
	d.src.SetReadDeadline(time.Now())
}

func (d *direction) count(n int64) {
	if n > 0 {
		d.n.Add(n)
		d.joint.touch()
	}
}

// counter writes to a direction's destination and keeps its error apart from
// the source's.
type counter struct {
	d   *direction
	err error
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.d.dst.Write(p)
	c.d.count(int64(n))
	if err != nil {
		c.err = err
	}
	return n, err
}

// orderly takes the errors away that are an end in order. A TLS peer that
// closes TCP without close_notify is as common as it is harmless here: IMAP and
// POP3 end by their own commands.
func orderly(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// closeWrite ends our half of a connection, so that the peer reads an end of
// file. It may block as long as the peer does not read; cutOff ends that.
func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
		return
	}
	c.Close()
}

// cutOff closes a connection without a word, and without blocking.
func cutOff(c net.Conn) {
	if tc, ok := c.(*tls.Conn); ok {
		tc.NetConn().Close()
		return
	}
	c.Close()
}
