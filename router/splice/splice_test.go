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
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"switchyard/internal/wire"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a joint with a client and a backend at its ends.
type rig struct {
	client, backend net.Conn
	cancel          context.CancelCauseFunc
	done            chan struct{}
	result          Result
	err             error
}

var errStop = errors.New("stop")

// pair connects two sockets over loopback.
func pair(t *testing.T) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
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
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// secured puts TLS over a pair, the inner end by way of wire.Conn, as a router
// does it: its deadlines do not work.
func secured(t *testing.T, outer, inner net.Conn) (net.Conn, net.Conn) {
	t.Helper()
	server, client := testTLS(t)
	tc := tls.Client(outer, client)
	shaken := make(chan error, 1)
	go func() { shaken <- tc.Handshake() }()
	w := wire.NewConn(inner)
	if err := w.ServerTLS(t.Context(), server); err != nil {
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

func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{InsecureSkipVerify: true}
}

// join joins two pairs; withTLS puts TLS on the client's.
func join(t *testing.T, withTLS bool, o Options) *rig {
	t.Helper()
	c, front := pair(t)
	back, b := pair(t)
	r := &rig{client: c, backend: b, done: make(chan struct{})}
	var frontConn net.Conn = front
	if withTLS {
		r.client, frontConn = secured(t, c, front)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.done)
		r.result, r.err = Join(ctx, frontConn, back, o)
	}()
	t.Cleanup(func() { cancel(errStop); c.Close(); b.Close(); r.wait(t) })
	for _, conn := range []net.Conn{c, b} {
		conn.SetDeadline(time.Now().Add(10 * time.Second))
	}
	return r
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

// both runs a test on raw connections and with TLS on the client's.
func both(t *testing.T, f func(t *testing.T, withTLS bool)) {
	t.Run("raw", func(t *testing.T) { f(t, false) })
	t.Run("tls", func(t *testing.T) { f(t, true) })
}

func TestRestsComeFirst(t *testing.T) {
	both(t, func(t *testing.T, withTLS bool) {
		r := join(t, withTLS, Options{FrontRest: []byte("b SELECT"), BackRest: []byte("* OK"), Idle: time.Hour})
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
	both(t, func(t *testing.T, withTLS bool) {
		r := join(t, withTLS, Options{})
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
	both(t, func(t *testing.T, withTLS bool) {
		r := join(t, withTLS, Options{})
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
	both(t, func(t *testing.T, withTLS bool) {
		r := join(t, withTLS, Options{Linger: 50 * time.Millisecond})
		halfClose(t, r.client)
		hearEnd(t, r.backend) // and the backend says nothing at all
		r.wait(t)
		if r.result.End != FrontClosed {
			t.Errorf("got %v", r.result.End)
		}
	})
}

func TestIdle(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, withTLS bool) {
		r := join(t, withTLS, Options{Idle: 400 * time.Millisecond})
		started := time.Now()
		for time.Since(started) < 900*time.Millisecond {
			say(t, r.client, "x")
			hear(t, r.backend, "x") // as long as something moves it lives
		}
		r.wait(t)
		if r.result.End != Idled || r.err != ErrIdle || !wire.IsTimeout(r.err) {
			t.Errorf("got %v, %v", r.result.End, r.err)
		}
	})
}

// TestLingerDoesNotCutAnAnswer: the limit on silence that a half-close brings
// does not end a transfer that was running before.
func TestLingerDoesNotCutAnAnswer(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, withTLS bool) {
		r := join(t, withTLS, Options{Linger: 400 * time.Millisecond})
		say(t, r.backend, "a")
		hear(t, r.client, "a")
		halfClose(t, r.client)
		hearEnd(t, r.backend)
		started := time.Now()
		for time.Since(started) < 900*time.Millisecond {
			say(t, r.backend, "b")
			hear(t, r.client, "b")
		}
		r.backend.Close()
		hearEnd(t, r.client)
		r.wait(t)
		if r.result.End != FrontClosed || r.err != nil {
			t.Errorf("got %v, %v", r.result.End, r.err)
		}
	})
}

// TestDrain: the backend is asked to say goodbye, and the client hears it.
func TestDrain(t *testing.T) {
	both(t, func(t *testing.T, withTLS bool) {
		r := join(t, withTLS, Options{})
		say(t, r.client, "a NOOP\r\n")
		hear(t, r.backend, "a NOOP\r\n")
		r.cancel(errStop)
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
	both(t, func(t *testing.T, withTLS bool) {
		r := join(t, withTLS, Options{Grace: 50 * time.Millisecond})
		r.cancel(errStop)
		r.wait(t)
		if r.result.End != Drained || r.err != errStop {
			t.Errorf("got %v, %v", r.result.End, r.err)
		}
	})
}

// TestDrainWithFullPipes: both sides have stopped reading, so that every write
// blocks.
func TestDrainWithFullPipes(t *testing.T) {
	both(t, func(t *testing.T, withTLS bool) {
		r := join(t, withTLS, Options{Grace: 50 * time.Millisecond})
		for _, c := range []net.Conn{r.client, r.backend} {
			c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			junk := make([]byte, 1<<20)
			for {
				if _, err := c.Write(junk); err != nil {
					break
				}
			}
		}
		r.cancel(errStop)
		r.wait(t)
		if r.result.End != Drained || r.err != errStop {
			t.Errorf("got %v, %v", r.result.End, r.err)
		}
	})
}

func TestReset(t *testing.T) {
	both(t, func(t *testing.T, withTLS bool) {
		t.Run("client", func(t *testing.T) {
			r := join(t, withTLS, Options{})
			raw := r.client
			if tc, ok := raw.(*tls.Conn); ok {
				raw = tc.NetConn()
			}
			raw.(*net.TCPConn).SetLinger(0)
			raw.Close()
			hearEnd(t, r.backend)
			r.wait(t)
			if r.result.End != FrontFailed || r.err == nil {
				t.Errorf("got %v, %v", r.result.End, r.err)
			}
		})
		t.Run("backend", func(t *testing.T) {
			r := join(t, withTLS, Options{})
			r.backend.(*net.TCPConn).SetLinger(0)
			r.backend.Close()
			hearEnd(t, r.client)
			r.client.Close()
			r.wait(t)
			if r.result.End != BackFailed || r.err == nil {
				t.Errorf("got %v, %v", r.result.End, r.err)
			}
		})
	})
}

func TestBulk(t *testing.T) {
	both(t, func(t *testing.T, withTLS bool) {
		const size = 4 << 20
		r := join(t, withTLS, Options{Idle: time.Minute})
		data := make([]byte, size)
		rand.Read(data)
		sent := make(chan error, 2)
		send := func(c net.Conn) {
			_, err := c.Write(data)
			sent <- err
		}
		go send(r.client)
		go send(r.backend)
		got := make(chan []byte, 2)
		receive := func(c net.Conn) {
			b := make([]byte, size)
			io.ReadFull(c, b)
			got <- b
		}
		go receive(r.client)
		go receive(r.backend)
		for range 2 {
			if err := <-sent; err != nil {
				t.Error(err)
			}
			if !bytes.Equal(<-got, data) {
				t.Error("the bytes differ")
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
