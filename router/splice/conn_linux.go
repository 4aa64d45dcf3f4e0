package splice

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a socket of a loop while a goroutine talks on it: a net.Conn like
// another, for any number of goroutines. What it saves is system calls, of which
// a login is made: its socket is in the loop's epoll from the beginning and never
// in Go's, nothing is read before there is something to read, and Join takes it
// over without a call.
type Conn struct {
	worker *worker
	remote netip.AddrPort
	seat   int32
	age    int32

	// Held while the socket is used, which never blocks: a descriptor that is
	// closed meanwhile could be another's.
	mu       sync.Mutex
	ready    sync.Cond
	fd       int32 // less than zero: not ours any more
	readable bool  // until it is tried; so is writable
	writable bool
	hup      bool  // an end or an error waits behind what can be read
	nagle    nagle // whether small writes wait for the peer
	kept     bool  // TCP keepalive is on
	dead     bool  // closed, taken over, or the loop is closed
	waiting  int32 // goroutines
	local    netip.AddrPort

	// Nanoseconds on the worker's clock; zero: none; less than zero: in the past.
	readBy, writeBy int64
	alarm           int64 // when timer rings
	timer           *time.Timer
}

// watch takes the socket into its worker's epoll. When that fails, the descriptor
// is closed.
func (c *Conn) watch() error {
	c.ready.L = &c.mu
	err := c.worker.meet(c)
	if err == nil {
		if err = watchNow(c.worker.fd, c.fd, c.seat, c.age); err == nil {
			return nil
		}
		err = os.NewSyscallError("epoll_ctl", err)
		c.worker.part(c)
	}
	closeNow(c.fd)
	return err
}

// note keeps what an event says.
func (c *Conn) note(events uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, wr, hup := meaning(events)
	c.readable, c.writable, c.hup = c.readable || r, c.writable || wr, c.hup || hup
	c.wake()
}

// wake lets the goroutines that wait look again. The caller holds mu.
func (c *Conn) wake() {
	if c.waiting > 0 {
		c.ready.Broadcast()
	}
}

// wait waits for something to change. The caller holds mu. Errors:
// os.ErrDeadlineExceeded.
func (c *Conn) wait(by int64) error {
	if by > 0 {
		now := c.worker.clockNow()
		if now >= by {
			return os.ErrDeadlineExceeded
		}
		c.arm(by, now)
	}
	c.waiting++
	c.ready.Wait()
	c.waiting--
	return nil
}

// arm sets the timer for a moment, unless it rings before that anyway: most
// deadlines are pushed back long before they pass.
func (c *Conn) arm(by, now int64) {
	switch {
	case c.alarm != 0 && c.alarm <= by:
		return
	case c.timer == nil:
		c.timer = time.AfterFunc(time.Duration(by-now), c.rings)
	default:
		c.timer.Reset(time.Duration(by - now))
	}
	c.alarm = by
}

func (c *Conn) rings() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm = 0
	c.wake()
}

// usable is why nothing can be read or written now. The caller holds mu.
func (c *Conn) usable(by int64) error {
	switch {
	case c.dead:
		return net.ErrClosed
	case by < 0:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		err := c.usable(c.readBy)
		if err == nil && !c.readable {
			if err = c.wait(c.readBy); err == nil {
				continue
			}
		}
		if err != nil {
			return 0, c.failed("read", err)
		}
		n, err := readNow(c.fd, p)
		switch {
		case err == unix.EAGAIN:
			c.readable = false
			continue
		case err != nil:
			return 0, c.failed("read", os.NewSyscallError("read", err))
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		if n < len(p) && !c.hup {
			c.readable = false // what comes later is a new event
		}
		c.nagle.heard()
		return n, nil
	}
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := 0; ; {
		err := c.usable(c.writeBy)
		if err == nil && !c.writable {
			if err = c.wait(c.writeBy); err == nil {
				continue
			}
		}
		if err != nil {
			return n, c.failed("write", err)
		}
		c.nagle.said(c.fd)
		m, err := writeNow(c.fd, p[n:])
		switch {
		case err == unix.EAGAIN:
			c.writable = false
			continue
		case err != nil:
			return n, c.failed("write", os.NewSyscallError("write", err))
		}
		if n += m; n == len(p) {
			return n, nil
		}
		c.writable = false
	}
}

// failed is the error as package net words it.
func (c *Conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: net.TCPAddrFromAddrPort(c.remote), Err: err}
}

// CloseWrite ends our half: the peer reads an end of file.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return c.failed("close", net.ErrClosed)
	}
	if err := shutdownNow(c.fd); err != nil {
		return c.failed("close", os.NewSyscallError("shutdown", err))
	}
	return nil
}

// Close implements net.Conn. It does nothing when the session was joined: the
// socket is the loop's.
func (c *Conn) Close() error {
	c.mu.Lock()
	fd := c.release()
	c.mu.Unlock()
	if fd < 0 {
		return c.failed("close", net.ErrClosed)
	}
	c.worker.part(c)
	closeNow(fd)
	return nil
}

// release takes the socket from whoever uses c, and returns its descriptor. The
// caller holds mu.
func (c *Conn) release() int32 {
	fd := c.fd
	c.fd, c.dead = -1, true
	if c.timer != nil {
		c.timer.Stop()
	}
	c.wake()
	return fd
}

// abandon is for a loop that is closed: nobody waits any more for events that
// will not come.
func (c *Conn) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	c.wake()
}

// take hands the socket over to a session of worker w. c is good for nothing any
// more; where w is its own worker, it goes on keeping what events say until the
// session has its seat. It reports false when there is no socket.
func (c *Conn) take(w *worker) (fd int32, ok bool) {
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return -1, false
	}
	fd = c.release()
	c.mu.Unlock()
	if c.worker != w {
		c.worker.part(c)
		unwatchNow(c.worker.fd, fd)
	}
	return fd, true
}

// LocalAddrPort is LocalAddr without its allocation. It asks the system once, where
// the listener did not know.
func (c *Conn) LocalAddrPort() netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.local.IsValid() && c.fd >= 0 {
		c.local = localOf(c.fd)
	}
	return c.local
}

// RemoteAddrPort is RemoteAddr without its allocation.
func (c *Conn) RemoteAddrPort() netip.AddrPort { return c.remote }

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.LocalAddrPort()) }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadline(t, &c.readBy, &c.writeBy) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(t, &c.readBy) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, &c.writeBy) }

func (c *Conn) setDeadline(t time.Time, which ...*int64) error {
	var by int64
	if !t.IsZero() {
		if by = int64(t.Sub(c.worker.start)); by <= 0 {
			by = -1
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return net.ErrClosed
	}
	for _, w := range which {
		*w = by
	}
	c.wake()
	return nil
}

// nagle says how far TCP may hold small writes back to make larger ones (RFC
// 896). It does so only behind a write that the peer has not answered, so the
// option that forbids it is set by the first such write: most sessions ask and
// are answered in turn, and never need it.
type nagle uint8

const (
	asked  nagle = 1 << iota // the latest word is ours
	prompt                   // TCP_NODELAY is set
)

func (n *nagle) heard() { *n &^= asked }

func (n *nagle) said(fd int32) {
	if *n == asked {
		setNow(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		*n |= prompt
	}
	*n |= asked
}
