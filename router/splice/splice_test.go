package splice

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/bits"
	mrand "math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"

	"switchyard/internal/wire"
)

// rig is a joint with a client and a backend at its ends.
type rig struct {
	name            string
	client, backend net.Conn
	stop            func(cause error) // goodbye
	done            chan struct{}
	result          Result
	err             error
}

// shape says how two connections are joined.
type shape struct {
	name              string
	loop              bool // by a Loop, not by the function Join
	own               bool // the loop's own connections, from Listen and Dial
	frontTLS, backTLS bool
	small             bool // sockets with small buffers
}

func shapes() []shape {
	var all []shape
	for i, name := range []string{"join", "loop", "own"} {
		loop, own := i > 0, i > 1
		all = append(all,
			shape{name: name + "/raw", loop: loop, own: own},
			shape{name: name + "/tls-raw", loop: loop, own: own, frontTLS: true})
		if loop && !own {
			continue // differs in how a session enters the loop only
		}
		all = append(all,
			shape{name: name + "/raw-tls", loop: loop, own: own, backTLS: true},
			shape{name: name + "/tls-tls", loop: loop, own: own, frontTLS: true, backTLS: true})
	}
	return all
}

// every runs a test on every kind of joint; short tests leave out those that
// differ least from others.
func every(t *testing.T, f func(t *testing.T, k shape)) {
	for _, k := range shapes() {
		if testing.Short() && (k.backTLS && (!k.loop || !k.frontTLS) || k.loop && !k.own) {
			continue
		}
		t.Run(k.name, func(t *testing.T) { f(t, k) })
	}
}

var errStop = errors.New("stop")

// pair connects two sockets over loopback.
func pair(t testing.TB) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, b := connected(t, ln)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// connected connects two sockets by way of a listener. They are the caller's.
func connected(t testing.TB, ln net.Listener) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// secured puts TLS over a pair, the inner end by way of wire.Conn, as a router
// does it: its deadlines do not work.
func secured(t testing.TB, outer, inner net.Conn, innerServes bool) (net.Conn, net.Conn) {
	t.Helper()
	server, client := testTLS(t)
	w := wire.NewConn(inner)
	tc, inside := tls.Server(outer, server), w.ClientTLS
	config := client
	if innerServes {
		tc, inside, config = tls.Client(outer, client), w.ServerTLS, server
	}
	shaken := make(chan error, 1)
	go func() { shaken <- tc.Handshake() }()
	if err := inside(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	nc, _, err := w.Detach()
	if err != nil {
		t.Fatal(err)
	}
	return tc, nc
}

func testTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	server, client, err := newTLS()
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}

func newTLS() (server, client *tls.Config, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{InsecureSkipVerify: true}, nil
}

// join joins two pairs.
func join(t *testing.T, k shape, o Options) *rig {
	t.Helper()
	r := &rig{done: make(chan struct{})}
	var l *Loop
	if k.loop {
		var err error
		if l, err = NewLoop(LoopOptions{Workers: 1}); err != nil {
			t.Fatal(err)
		}
	}
	front, back := r.connect(t, l, k)
	ended := func(result Result, err error) {
		r.result, r.err = result, err
		close(r.done)
	}
	if k.loop {
		s := l.Join(front, back, o, ended)
		if _, ok := s.(*served); ok && runtime.GOOS == "linux" {
			t.Error("the session was not parked")
		}
		r.stop = s.Goodbye
		t.Cleanup(func() { l.Close(errStop) })
	} else {
		ctx, cancel := context.WithCancelCause(context.Background())
		r.stop = cancel
		go func() { ended(Join(ctx, front, back, o)) }()
	}
	t.Cleanup(func() { r.stop(errStop); r.client.Close(); r.backend.Close(); r.wait(t) })
	for _, conn := range []net.Conn{r.client, r.backend} {
		conn.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return r
}

// connect makes the four ends, and returns the two that are to be joined.
func (r *rig) connect(t testing.TB, l *Loop, k shape) (front, back net.Conn) {
	t.Helper()
	var c, e *net.TCPConn
	if k.own {
		c, front = accepted(t, l)
		back, e = dialled(t, l)
	} else {
		var f, b *net.TCPConn
		c, f = pair(t)
		b, e = pair(t)
		front, back = f, b
	}
	r.client, r.backend = c, e
	if k.small {
		for _, s := range []net.Conn{c, front, back, e} {
			small(t, s)
		}
	}
	if k.frontTLS {
		r.client, front = secured(t, c, front, true)
	}
	if k.backTLS {
		r.backend, back = secured(t, e, back, false)
	}
	return front, back
}

// accepted connects a client to a listener of the loop.
func accepted(t testing.TB, l *Loop) (client *net.TCPConn, front net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := l.Listen(inner)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a.(*net.TCPConn), b
}

// dialled connects the loop to a backend.
func dialled(t testing.TB, l *Loop) (back net.Conn, backend *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := l.Dial(context.Background(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b.(*net.TCPConn)
}

func (r *rig) wait(t *testing.T) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(10 * time.Second):
		t.Fatal("the splice does not end")
	}
}

func say(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatalf("write %q: %v", s, err)
	}
}

func hear(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Fatalf("got %q, %v, want %q", b[:n], err, want)
	}
}

func hearEnd(t *testing.T, r io.Reader) {
	t.Helper()
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Fatalf("got %q, %v, want the end", rest, err)
	}
}

func halfClose(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

func TestRestsComeFirst(t *testing.T) {
	every(t, func(t *testing.T, k shape) {
		r := join(t, k, Options{FrontRest: []byte("b SELECT"), BackRest: []byte("* OK"), Idle: time.Hour})
		say(t, r.client, " INBOX\r\n")
		hear(t, r.backend, "b SELECT INBOX\r\n")
		say(t, r.backend, " hello\r\n")
		hear(t, r.client, "* OK hello\r\n")
		r.backend.Close()
		hearEnd(t, r.client)
		r.client.Close()
		r.wait(t)
		want := Result{In: 16, Out: 12, End: BackClosed}
		if r.result != want || r.err != nil {
			t.Errorf("got %+v, %v, want %+v", r.result, r.err, want)
		}
	})
}

// TestHalfCloseOfClient: a client that has said all and shut its half gets its
// answers to the end.
func TestHalfCloseOfClient(t *testing.T) {
	every(t, func(t *testing.T, k shape) {
		r := join(t, k, Options{})
		say(t, r.client, "QUIT\r\n")
		halfClose(t, r.client)
		hear(t, r.backend, "QUIT\r\n")
		hearEnd(t, r.backend)
		say(t, r.backend, "+OK Bye\r\n")
		hear(t, r.client, "+OK Bye\r\n")
		r.backend.Close()
		hearEnd(t, r.client)
		r.wait(t)
		if r.result.End != FrontClosed || r.err != nil {
			t.Errorf("got %v, %v", r.result.End, r.err)
		}
	})
}

// TestLastWordsSurviveUnreadInput: a client that goes on sending when the
// backend has closed still reads the backend's last words.
func TestLastWordsSurviveUnreadInput(t *testing.T) {
	every(t, func(t *testing.T, k shape) {
		r := join(t, k, Options{})
		say(t, r.backend, "* BYE\r\n")
		halfClose(t, r.backend)
		say(t, r.client, "c NOOP\r\n")
		hear(t, r.client, "* BYE\r\n")
		hearEnd(t, r.client)
		r.client.Close()
		r.wait(t)
		if r.result.End != BackClosed || r.err != nil {
			t.Errorf("got %v, %v", r.result.End, r.err)
		}
	})
}

func TestHalfOpenClientIsNotWaitedForForEver(t *testing.T) {
	every(t, func(t *testing.T, k shape) {
		r := join(t, k, Options{Linger: 50 * time.Millisecond})
		halfClose(t, r.client)
		hearEnd(t, r.backend) // and the backend says nothing at all
		r.wait(t)
		if r.result.End != FrontClosed {
			t.Errorf("got %v", r.result.End)
		}
	})
}

// TestIdle: as long as something moves a session lives, and no longer. All kinds
// of joints wait at the same time.
func TestIdle(t *testing.T) {
	t.Parallel()
	all := joints(t, Options{Idle: 2 * time.Second})
	for started := time.Now(); time.Since(started) < 3*time.Second; {
		for _, r := range all {
			say(t, r.client, "x")
			hear(t, r.backend, "x")
		}
	}
	for _, r := range all {
		r.wait(t)
		if r.result.End != Idled || r.err != ErrIdle || !wire.IsTimeout(r.err) {
			t.Errorf("%s: got %v, %v", r.name, r.result.End, r.err)
		}
	}
}

// TestLingerDoesNotCutAnAnswer: the limit on silence that a half-close brings
// does not end a transfer that was running before.
func TestLingerDoesNotCutAnAnswer(t *testing.T) {
	t.Parallel()
	all := joints(t, Options{Linger: 2 * time.Second})
	for _, r := range all {
		say(t, r.backend, "a")
		hear(t, r.client, "a")
		halfClose(t, r.client)
		hearEnd(t, r.backend)
	}
	for started := time.Now(); time.Since(started) < 3*time.Second; {
		for _, r := range all {
			say(t, r.backend, "b")
			hear(t, r.client, "b")
		}
	}
	for _, r := range all {
		r.backend.Close()
		hearEnd(t, r.client)
		r.wait(t)
		if r.result.End != FrontClosed || r.err != nil {
			t.Errorf("%s: got %v, %v", r.name, r.result.End, r.err)
		}
	}
}

// joints joins one pair of each kind.
func joints(t *testing.T, o Options) (all []*rig) {
	t.Helper()
	for _, k := range shapes() {
		r := join(t, k, o)
		r.name = k.name
		all = append(all, r)
	}
	return all
}

// TestDrain: the backend is asked to say goodbye, and the client hears it.
func TestDrain(t *testing.T) {
	every(t, func(t *testing.T, k shape) {
		r := join(t, k, Options{})
		say(t, r.client, "a NOOP\r\n")
		hear(t, r.backend, "a NOOP\r\n")
		r.stop(errStop)
		hearEnd(t, r.backend)
		say(t, r.backend, "a OK\r\n* BYE\r\n")
		r.backend.Close()
		hear(t, r.client, "a OK\r\n* BYE\r\n")
		hearEnd(t, r.client)
		r.client.Close()
		r.wait(t)
		if r.result.End != Drained || r.err != errStop {
			t.Errorf("got %v, %v", r.result.End, r.err)
		}
	})
}

// TestDrainEndsWithoutABackendsHelp: neither side moves a finger.
func TestDrainEndsWithoutABackendsHelp(t *testing.T) {
	every(t, func(t *testing.T, k shape) {
		r := join(t, k, Options{Grace: 50 * time.Millisecond})
		r.stop(errStop)
		r.wait(t)
		if r.result.End != Drained || r.err != errStop {
			t.Errorf("got %v, %v", r.result.End, r.err)
		}
	})
}

// TestDrainWithFullPipes: both sides have stopped reading, so that every write
// blocks.
func TestDrainWithFullPipes(t *testing.T) {
	every(t, func(t *testing.T, k shape) {
		t.Parallel()
		r := join(t, k, Options{Grace: 50 * time.Millisecond})
		for _, c := range []net.Conn{r.client, r.backend} {
			c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			junk := make([]byte, 1<<20)
			for {
				if _, err := c.Write(junk); err != nil {
					break
				}
			}
		}
		r.stop(errStop)
		r.wait(t)
		if r.result.End != Drained || r.err != errStop {
			t.Errorf("got %v, %v", r.result.End, r.err)
		}
	})
}

// reset breaks a connection.
func reset(c net.Conn) {
	if tc, ok := c.(*tls.Conn); ok {
		c = tc.NetConn()
	}
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

func TestReset(t *testing.T) {
	every(t, func(t *testing.T, k shape) {
		t.Run("client", func(t *testing.T) {
			r := join(t, k, Options{})
			reset(r.client)
			hearEnd(t, r.backend)
			r.wait(t)
			if r.result.End != FrontFailed || r.err == nil {
				t.Errorf("got %v, %v", r.result.End, r.err)
			}
		})
		t.Run("backend", func(t *testing.T) {
			r := join(t, k, Options{})
			reset(r.backend)
			hearEnd(t, r.client)
			r.client.Close()
			r.wait(t)
			if r.result.End != BackFailed || r.err == nil {
				t.Errorf("got %v, %v", r.result.End, r.err)
			}
		})
	})
}

// TestBulk sends a lot both ways at once, in pieces of all sizes, to readers that
// read in pieces of all sizes.
func TestBulk(t *testing.T) {
	every(t, func(t *testing.T, k shape) {
		size := int64(4 << 20)
		if k.loop && k.frontTLS == k.backTLS && !testing.Short() && !raceEnabled {
			size = 64 << 20
		}
		r := join(t, k, Options{Idle: time.Minute})
		failed := make(chan error, 4)
		ends := []net.Conn{r.client, r.backend}
		for i, c := range ends {
			go func() { failed <- sendStream(c, size, uint64(i)) }()
			go func() { failed <- checkStream(c, size, uint64(1-i)) }()
		}
		for range 4 {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		halfClose(t, r.client)
		halfClose(t, r.backend)
		r.wait(t)
		if r.result.In != size || r.result.Out != size {
			t.Errorf("counted %d in, %d out, want %d", r.result.In, r.result.Out, size)
		}
	})
}

// sendStream writes size bytes that follow from the seed, in pieces of random
// sizes.
func sendStream(w io.Writer, size int64, seed uint64) error {
	data := mrand.NewChaCha8([32]byte{byte(seed)})
	random := mrand.New(mrand.NewPCG(seed, 1))
	buf := make([]byte, 256<<10)
	for size > 0 {
		n := min(size, int64(pieceSize(random, len(buf))))
		data.Read(buf[:n])
		if _, err := w.Write(buf[:n]); err != nil {
			return fmt.Errorf("%d bytes before the end: %w", size, err)
		}
		size -= n
	}
	return nil
}

// checkStream reads what sendStream writes.
func checkStream(r io.Reader, size int64, seed uint64) error {
	data := mrand.NewChaCha8([32]byte{byte(seed)})
	random := mrand.New(mrand.NewPCG(seed, 2))
	buf, want := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := int64(0); at < size; {
		n, err := r.Read(buf[:min(size-at, int64(pieceSize(random, len(buf))))])
		data.Read(want[:n])
		if !bytes.Equal(buf[:n], want[:n]) {
			return fmt.Errorf("the bytes differ behind byte %d", at)
		}
		if at += int64(n); err != nil && at < size {
			return fmt.Errorf("behind byte %d: %w", at, err)
		}
	}
	return nil
}

// pieceSize is small as often as large.
func pieceSize(r *mrand.Rand, limit int) int { return 1 + r.IntN(1<<r.IntN(bits.Len(uint(limit)))) }

func TestContextThatEndedBefore(t *testing.T) {
	c, front := pair(t)
	back, b := pair(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errStop)
	b.Close()
	defer c.Close()
	r, err := Join(ctx, front, back, Options{Grace: 50 * time.Millisecond})
	if r.End == 0 || err != nil && err != errStop {
		t.Errorf("got %+v, %v", r, err)
	}
}
