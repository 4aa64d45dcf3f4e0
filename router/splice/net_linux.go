package splice

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Keepalive finds dead peers of idle sessions in some four minutes. More often
// would wake telephones.
const (
	keepIdle     = 2 * time.Minute
	keepInterval = 30 * time.Second
	keepCount    = 4
)

// keepAlive turns it on. A socket that does not know an option does without.
func keepAlive(fd int32) {
	setNow(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	setNow(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepIdle/time.Second))
	setNow(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepInterval/time.Second))
	setNow(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepCount)
}

// listen implements Loop.Listen.
func (y *system) listen(ln net.Listener) (net.Listener, error) {
	addr, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return ln, nil
	}
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return ln, nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	l := &listener{Listener: ln, system: y, raw: raw}
	// Accepted sockets inherit the options.
	fd, failed := int32(-1), error(nil)
	err = raw.Control(func(old uintptr) {
		keepAlive(int32(old))
		setNow(int32(old), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		var n int
		n, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
		fd = int32(n)
	})
	if err = errors.Join(err, os.NewSyscallError("fcntl", failed)); err != nil {
		return nil, err
	}
	l.bell = &Conn{worker: y.next(), fd: fd}
	if err := l.bell.watch(); err != nil {
		return nil, err
	}
	if a := addr.AddrPort(); !a.Addr().IsUnspecified() {
		l.local = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	return l, nil
}

// listener accepts connections as Conns. The listening socket stays the other
// listener's, which may give it up to another process: then nothing is accepted
// here any more.
type listener struct {
	net.Listener
	system *system
	raw    syscall.RawConn
	bell   *Conn          // the socket once more: rings when a connection comes
	local  netip.AddrPort // zero: each connection has its own
	fresh  bool           // connections come after the socket got its options
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		if !l.bell.rang() {
			return l.Listener.Accept() // which says why
		}
		var c *Conn
		var failed error
		err := l.raw.Control(func(socket uintptr) { c, failed = l.accept(int32(socket)) })
		switch {
		case err != nil:
			l.bell.Close()
		case failed == unix.EAGAIN:
			l.fresh = true // those of before have all been taken
			continue
		}
		l.bell.ring() // there may be more
		switch {
		case failed == unix.ECONNABORTED, err != nil:
		case failed != nil:
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: os.NewSyscallError("accept4", failed)}
		default:
			return c, nil
		}
	}
}

func (l *listener) accept(socket int32) (*Conn, error) {
	fd, remote, err := acceptNow(socket)
	if err != nil {
		return nil, err
	}
	c := &Conn{worker: l.system.next(), fd: fd, remote: remote, local: l.local}
	if l.fresh {
		c.kept, c.nagle = true, prompt
	}
	return c, c.watch()
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.bell.Close()
	return l.Listener.Close()
}

// rang waits until there may be a connection to accept, and reports false when
// the listener is closed.
func (c *Conn) rang() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.dead && !c.readable {
		c.waiting++
		c.ready.Wait()
		c.waiting--
	}
	c.readable = false
	return !c.dead
}

func (c *Conn) ring() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readable = true
}

// dial implements Loop.Dial.
func (y *system) dial(ctx context.Context, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err == nil {
		return y.connect(ctx, to)
	}
	all, err := resolve(ctx, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	var failures []error
	for i, to := range all {
		c, err := y.attempt(ctx, to, len(all)-i)
		if err == nil {
			return c, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failures...)
}

// resolve asks for the addresses of a name and a port.
func resolve(ctx context.Context, address string) (all []netip.AddrPort, err error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for _, ip := range ips {
		all = append(all, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return all, err
}

// attempt tries one of the addresses that are left, with its share of the time.
func (y *system) attempt(ctx context.Context, to netip.AddrPort, left int) (net.Conn, error) {
	if limit, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(limit)/time.Duration(left))
		defer cancel()
	}
	return y.connect(ctx, to)
}

// connect connects a socket.
func (y *system) connect(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	failed := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	if ctx.Err() != nil {
		return nil, failed(context.Cause(ctx))
	}
	fd, err := connectNow(to)
	if err != nil && err != unix.EINPROGRESS {
		if fd >= 0 {
			closeNow(fd)
		}
		return nil, failed(os.NewSyscallError("connect", err))
	}
	c := &Conn{worker: y.next(), fd: fd, remote: to}
	if err := c.watch(); err != nil {
		return nil, failed(err)
	}
	if err := c.connected(ctx); err != nil {
		c.Close()
		return nil, failed(err)
	}
	return c, nil
}

// connected waits until the connection stands. Errors: the cause of ctx, the
// socket's own.
func (c *Conn) connected(ctx context.Context) error {
	if limit, ok := ctx.Deadline(); ok {
		c.SetDeadline(limit)
		defer c.SetDeadline(time.Time{})
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.writable {
		err := c.usable(c.writeBy)
		if err == nil {
			err = c.wait(c.writeBy)
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case err == os.ErrDeadlineExceeded:
			return context.DeadlineExceeded // its timer is a little late
		case err != nil:
			return err
		}
	}
	if c.hup {
		return failure("connect", c.fd)
	}
	return nil
}
