package splice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"switchyard/internal/wire"
)

// listened is a listener of the loop on loopback.
func listened(t testing.TB, l *Loop) net.Listener {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := l.Listen(inner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// ownPair is a connection of the loop with both its ends.
func ownPair(t testing.TB, l *Loop) (a, b *Conn) {
	t.Helper()
	ln := listened(t, l)
	dialled, err := l.Dial(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled.(*Conn), accepted.(*Conn)
}

// TestConnMovesBytes both ways at once, in pieces of all sizes.
func TestConnMovesBytes(t *testing.T) {
	const size = 8 << 20
	a, b := ownPair(t, newLoop(t, LoopOptions{Workers: 2}))
	for _, c := range []*Conn{a, b} {
		small(t, c)
		c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	failed := make(chan error, 4)
	for i, c := range []*Conn{a, b} {
		go func() { failed <- sendStream(c, size, uint64(i)) }()
		go func() { failed <- checkStream(c, size, uint64(1-i)) }()
	}
	for range 4 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if err := a.CloseWrite(); err != nil {
		t.Error(err)
	}
	hearEnd(t, b)
	say(t, b, "still")
	hear(t, a, "still")
}

// TestConnDeadlines: of the past, of now, and of later; each holds for its own
// direction, and a connection goes on when one is taken away.
func TestConnDeadlines(t *testing.T) {
	l := newLoop(t, LoopOptions{Workers: 1})
	junk := make([]byte, 8<<20) // more than the sockets take
	for name, way := range map[string]struct {
		set func(c *Conn, at time.Time) error
		do  func(c *Conn) (int, error)
	}{
		"read":  {(*Conn).SetReadDeadline, func(c *Conn) (int, error) { return c.Read(make([]byte, 1)) }},
		"write": {(*Conn).SetWriteDeadline, func(c *Conn) (int, error) { return c.Write(junk) }},
		"both":  {(*Conn).SetDeadline, func(c *Conn) (int, error) { return c.Read(make([]byte, 1)) }},
	} {
		for when, at := range map[string]time.Duration{"past": -time.Hour, "now": 0, "later": 30 * time.Millisecond} {
			a, _ := ownPair(t, l)
			way.set(a, time.Now().Add(at))
			_, err := way.do(a)
			if !errors.Is(err, os.ErrDeadlineExceeded) || !wire.IsTimeout(err) {
				t.Errorf("%s, %s: got %v", name, when, err)
			}
			if _, err = way.do(a); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s, %s, again: got %v", name, when, err)
			}
		}
		a, b := ownPair(t, l)
		result := make(chan error, 1)
		go func() {
			_, err := way.do(a)
			result <- err
		}()
		until(t, "waiting", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.waiting == 1 })
		way.set(a, time.Unix(1, 0))
		if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s, while it waits: got %v", name, err)
		}
		way.set(a, time.Time{})
		say(t, b, "on")
		hear(t, a, "on")
	}
}

// TestConnClose wakes readers and writers, and says no from then on.
func TestConnClose(t *testing.T) {
	a, _ := ownPair(t, newLoop(t, LoopOptions{Workers: 1}))
	results := make(chan error, 2)
	go func() {
		_, err := a.Read(make([]byte, 1))
		results <- err
	}()
	go func() {
		_, err := a.Write(make([]byte, 8<<20))
		results <- err
	}()
	until(t, "waiting", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.waiting == 2 })
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-results; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	for what, err := range map[string]error{
		"close": a.Close(), "half": a.CloseWrite(), "deadline": a.SetDeadline(time.Now()),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// TestConnReset: the error says what happened.
func TestConnReset(t *testing.T) {
	l := newLoop(t, LoopOptions{Workers: 1})
	client, front := accepted(t, l)
	reset(client)
	if _, err := front.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	if _, err := front.Write(make([]byte, 1)); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v", err)
	}
}

// TestConnAddresses: both ends, in IPv4's own form, on a socket for all addresses
// too.
func TestConnAddresses(t *testing.T) {
	l := newLoop(t, LoopOptions{Workers: 1})
	for _, address := range []string{"127.0.0.1:0", "[::]:0", "[::1]:0"} {
		inner, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err) // a machine without IPv6
			continue
		}
		ln, err := l.Listen(inner)
		if err != nil {
			t.Fatal(err)
		}
		host := "127.0.0.1"
		if address == "[::1]:0" {
			host = "::1"
		}
		port := uint16(ln.Addr().(*net.TCPAddr).Port)
		to := netip.AddrPortFrom(netip.MustParseAddr(host), port)
		a, err := l.Dial(t.Context(), "tcp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		aLocal, aRemote := a.(*Conn).LocalAddrPort(), a.(*Conn).RemoteAddrPort()
		bLocal, bRemote := b.(*Conn).LocalAddrPort(), b.(*Conn).RemoteAddrPort()
		if aRemote != to || bLocal != to || aLocal != bRemote || aLocal.Addr() != to.Addr() {
			t.Errorf("%s: %v to %v, %v from %v", address, aLocal, aRemote, bLocal, bRemote)
		}
		if b.LocalAddr().String() != to.String() || a.RemoteAddr().String() != to.String() || a.LocalAddr().String() != b.RemoteAddr().String() {
			t.Errorf("%s: %v to %v, %v from %v", address, a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr())
		}
		a.Close()
		b.Close()
		ln.Close()
	}
}

// TestDialByName resolves a name and tries its addresses.
func TestDialByName(t *testing.T) {
	l := newLoop(t, LoopOptions{Workers: 1})
	ln := listened(t, l)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	c, err := l.Dial(t.Context(), "tcp", "localhost:"+port)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if c, err := l.Dial(t.Context(), "tcp", "no port"); err == nil {
		c.Close()
		t.Error("an address without a port")
	}
}

// TestDialFails: at once where nobody listens, in time where nobody answers.
func TestDialFails(t *testing.T) {
	before := descriptors(t)
	l := newLoop(t, LoopOptions{Workers: 1})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	if _, err := l.Dial(t.Context(), "tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}

	deaf := fullQueue(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Dial(ctx, "tcp", deaf); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answers: %v", err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { stop(errStop) })
	if _, err := l.Dial(ctx, "tcp", deaf); !errors.Is(err, errStop) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := l.Dial(ctx, "tcp", address); !errors.Is(err, errStop) {
		t.Errorf("cancelled before: %v", err)
	}
	until(t, "without sockets", func() bool { return descriptors(t)["socket"] == before["socket"]+queued })
}

// queued is how many sockets fullQueue leaves open until the test ends.
const queued = 3

// fullQueue is an address at which connections are neither taken nor refused: the
// queue of the listening socket has room for one, and more than that are in it.
func fullQueue(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range queued - 1 {
		c, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Close(c) })
		syscall.Connect(c, name)
	}
	return address
}

// TestListenerThatIsGivenUp: when the socket is closed behind the listener's back,
// because another process has it, the word is the inner listener's, and no
// connection is taken away from the other process.
func TestListenerThatIsGivenUp(t *testing.T) {
	l := newLoop(t, LoopOptions{Workers: 1})
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := inner.(*net.TCPListener).File() // the other process
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	defer other.Close()
	ln, err := l.Listen(inner)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := ln.Accept()
		failed <- err
	}()
	inner.Close()
	c, err := net.Dial("tcp", other.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := other.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got.Close()
	ln.Close() // it waited until now, or has noticed
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestListenerClose wakes who accepts.
func TestListenerClose(t *testing.T) {
	l := newLoop(t, LoopOptions{Workers: 1})
	ln := listened(t, l)
	failed := make(chan error, 1)
	go func() {
		_, err := ln.Accept()
		failed <- err
	}()
	ln.Close()
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestConnBehindTheLoopsEnd: nobody waits for a loop that is closed.
func TestConnBehindTheLoopsEnd(t *testing.T) {
	before := descriptors(t)
	l := newLoop(t, LoopOptions{Workers: 1})
	client, front := accepted(t, l)
	failed := make(chan error, 1)
	go func() {
		_, err := front.Read(make([]byte, 1))
		failed <- err
	}()
	l.Close(errStop)
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if c, err := l.Dial(t.Context(), "tcp", "127.0.0.1:1"); err == nil {
		c.Close()
		t.Error("dialled")
	}
	front.Close()
	client.Close()
	until(t, "without sockets", func() bool { return descriptors(t)["socket"] == before["socket"] })
}

// TestConnBehindJoin: it is good for nothing, and closing it does nothing.
func TestConnBehindJoin(t *testing.T) {
	l := newLoop(t, LoopOptions{Workers: 1})
	r := &rig{done: make(chan struct{})}
	front, back := r.connect(t, l, shape{own: true})
	front.SetDeadline(time.Now().Add(50 * time.Millisecond))
	front.SetDeadline(time.Time{})
	l.Join(front, back, Options{}, func(result Result, err error) {
		r.result, r.err = result, err
		close(r.done)
	})
	for _, c := range []net.Conn{front, back} {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("close: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if _, err := c.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if err := c.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("deadline: %v", err)
		}
	}
	echo(t, r, 1024)
	r.client.Close()
	r.backend.Close()
	r.wait(t)
}

// TestJoinOfAClosedConn ends at once, and leaves nothing behind.
func TestJoinOfAClosedConn(t *testing.T) {
	before := descriptors(t)
	l := newLoop(t, LoopOptions{Workers: 2})
	for i := range 2 {
		r := &rig{done: make(chan struct{})}
		front, back := r.connect(t, l, shape{own: true})
		[]net.Conn{front, back}[i].Close()
		l.Join(front, back, Options{Grace: 50 * time.Millisecond, Linger: 50 * time.Millisecond}, func(result Result, err error) {
			r.result, r.err = result, err
			close(r.done)
		})
		r.wait(t)
		if r.result.End == 0 {
			t.Error("it ended without a reason")
		}
		r.client.Close()
		r.backend.Close()
	}
	until(t, "without sockets", func() bool { return descriptors(t)["socket"] == before["socket"] })
}

// TestConnsKeepToThemselves: connections that come and go at the same time, and
// are closed under their readers, get no byte of another's.
func TestConnsKeepToThemselves(t *testing.T) {
	const clients, each = 16, 40
	l := newLoop(t, LoopOptions{Workers: 2})
	ln := listened(t, l)
	var servers sync.WaitGroup
	servers.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			servers.Go(func() {
				defer c.Close()
				io.Copy(c, struct{ io.Reader }{c})
			})
		}
	})
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for j := range each {
				if err := keepsToItself(l, ln.Addr().String(), fmt.Sprintf("client %d, connection %d;", i, j)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	ln.Close()
	servers.Wait()
}

func keepsToItself(l *Loop, address, word string) error {
	c, err := l.Dial(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	failed := make(chan error, 1)
	go func() {
		got := make([]byte, len(word))
		for {
			if _, err := io.ReadFull(c, got); errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				failed <- nil
				return
			} else if err != nil || string(got) != word {
				failed <- fmt.Errorf("got %q, %v, want %q", got, err, word)
				return
			}
		}
	}()
	for range 5 {
		if _, err := io.WriteString(c, word); err != nil {
			return err
		}
	}
	c.Close()
	return <-failed
}

// TestDeadlineThatIsMoved: a timer that rings for a moment that has been pushed
// back ends nothing, and a deadline that is brought forward holds.
func TestDeadlineThatIsMoved(t *testing.T) {
	l := newLoop(t, LoopOptions{Workers: 1})
	client, front := accepted(t, l)
	c := front.(*Conn)
	state := func() (waiting int32, alarm int64) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.waiting, c.alarm
	}
	result := make(chan error, 1)
	read := func() {
		_, err := io.ReadFull(c, make([]byte, 1))
		result <- err
	}
	c.SetReadDeadline(time.Now().Add(time.Hour))
	go read()
	until(t, "waiting", func() bool { waiting, _ := state(); return waiting == 1 })
	_, before := state()
	c.SetReadDeadline(time.Now().Add(2 * time.Hour))
	c.rings()
	until(t, "armed again", func() bool { _, alarm := state(); return alarm > before })
	io.WriteString(client, "x")
	if err := <-result; err != nil {
		t.Errorf("pushed back: %v", err)
	}
	go read()
	until(t, "waiting", func() bool { waiting, _ := state(); return waiting == 1 })
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("brought forward: %v", err)
	}
}
