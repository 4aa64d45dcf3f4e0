package wire

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
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// pair connects a Conn to a plain net.Conn over loopback.
func pair(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := NewConn(nc)
	t.Cleanup(func() { c.Close(); peer.Close() })
	return c, peer
}

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", 10000)
	for name, c := range map[string]struct {
		in    string
		limit int
		want  string
		err   error
	}{
		"plain":                  {"NOOP\r\n", 100, "NOOP", nil},
		"empty":                  {"\r\n", 100, "", nil},
		"at the limit":           {"abcd\r\n", 4, "abcd", nil},
		"over the limit":         {"abcde\r\n", 4, "", ErrLineTooLong},
		"longer than the buffer": {long + "\r\n", 10000, long, nil},
		"never ending":           {long + long, 10000, "", ErrLineTooLong},
		"bare LF":                {"NOOP\n", 100, "", ErrBareLF},
		"only LF":                {"\n", 100, "", ErrBareLF},
		"cut":                    {"NO", 100, "", io.ErrUnexpectedEOF},
		"closed":                 {"", 100, "", io.EOF},
		"CR inside":              {"a\rb\r\n", 100, "a\rb", nil},
	} {
		t.Run(name, func(t *testing.T) {
			conn, peer := pair(t)
			go func() {
				io.WriteString(peer, c.in)
				peer.(*net.TCPConn).CloseWrite()
			}()
			got, err := conn.ReadLine(c.limit)
			if string(got) != c.want || !errors.Is(err, c.err) || (c.err == nil) != (err == nil) {
				t.Errorf("got %.20q, %v, want %.20q, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestIdleDeadline(t *testing.T) {
	c, _ := pair(t)
	c.SetIdle(10 * time.Millisecond)
	if _, err := c.ReadLine(10); !IsTimeout(err) {
		t.Errorf("got %v, want a time-out", err)
	}
}

// TestDeadlineOutlivesDrips holds the time before login against a client that
// sends a byte now and then.
func TestDeadlineOutlivesDrips(t *testing.T) {
	c, peer := pair(t)
	c.SetIdle(time.Minute)
	c.SetDeadline(time.Now().Add(50 * time.Millisecond))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := peer.Write([]byte("x")); err != nil {
				return
			}
		}
	}()
	if _, err := c.ReadLine(1 << 30); !IsTimeout(err) {
		t.Errorf("got %v, want a time-out", err)
	}
	c.Close()
	peer.Close()
	<-done
}

func TestBindInterrupts(t *testing.T) {
	c, peer := pair(t)
	cause := errors.New("stop")
	ctx, cancel := context.WithCancelCause(context.Background())
	c.Bind(ctx)
	go cancel(cause)
	if _, err := c.ReadLine(10); err != cause {
		t.Errorf("got %v, want the cause", err)
	}
	if _, err := c.ReadLine(10); err != cause {
		t.Errorf("again: got %v, want the cause", err)
	}
	c.Resume()
	if err := c.Line("BYE"); err != nil {
		t.Errorf("goodbye: %v", err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(peer, b); err != nil || string(b) != "BYE\r\n" {
		t.Errorf("peer got %q, %v", b, err)
	}
}

func TestStartTLS(t *testing.T) {
	server, client := testTLS(t)
	t.Run("good", func(t *testing.T) {
		c, peer := pair(t)
		done := make(chan error, 1)
		go func() {
			tc := tls.Client(peer, client)
			_, err := io.WriteString(tc, "inside\r\n")
			done <- err
		}()
		if err := c.ServerTLS(context.Background(), server); err != nil {
			t.Fatal(err)
		}
		if line, err := c.ReadLine(100); err != nil || string(line) != "inside" {
			t.Errorf("got %q, %v", line, err)
		}
		if c.TLS() == nil {
			t.Error("no TLS state")
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("bytes behind", func(t *testing.T) {
		c, peer := pair(t)
		io.WriteString(peer, "STARTTLS\r\nLOGIN a b\r\n")
		if _, err := c.ReadLine(100); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Peek(1); err != nil {
			t.Fatal(err)
		}
		if err := c.ServerTLS(context.Background(), server); !errors.Is(err, ErrBytesBehindStartTLS) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("silent", func(t *testing.T) {
		c, _ := pair(t)
		c.SetDeadline(time.Now().Add(20 * time.Millisecond))
		if err := c.ServerTLS(context.Background(), server); !IsTimeout(err) {
			t.Errorf("got %v, want a time-out", err)
		}
	})
}

func TestDetachGivesTheSocketAndTheRest(t *testing.T) {
	c, peer := pair(t)
	io.WriteString(peer, "LOGIN\r\nrest")
	if _, err := c.ReadLine(10); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Peek(4); err != nil {
		t.Fatal(err)
	}
	nc, rest, err := c.Detach()
	if err != nil || string(rest) != "rest" {
		t.Fatalf("got %q, %v", rest, err)
	}
	if _, ok := nc.(*net.TCPConn); !ok {
		t.Errorf("got a %T", nc)
	}
	c.Close() // has no say any more
	if _, err := io.WriteString(nc, "on"); err != nil {
		t.Error(err)
	}
	got := make([]byte, 2)
	if _, err := io.ReadFull(peer, got); err != nil || string(got) != "on" {
		t.Errorf("got %q, %v", got, err)
	}
	nc.Close()
}

// TestRebase: what lies under TLS can be exchanged behind Detach; the bytes are
// counted as before, and Conn has no more say over the socket.
func TestRebase(t *testing.T) {
	c, peer := pair(t)
	server, client := testTLS(t)
	tc := tls.Client(peer, client)
	shaken := make(chan error, 1)
	go func() { shaken <- tc.Handshake() }()
	if err := c.ServerTLS(t.Context(), server); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.Bind(ctx)
	nc, rest, err := c.Detach()
	if err != nil || rest != nil {
		t.Fatalf("got %q, %v", rest, err)
	}
	seat := nc.(*tls.Conn).NetConn().(interface {
		Base() net.Conn
		Rebase(net.Conn)
	})
	under := &recorded{Conn: seat.Base()}
	seat.Rebase(under)
	cancel()
	c.Close()
	before := c.BytesRead()
	go io.WriteString(tc, "hello")
	got := make([]byte, 5)
	if _, err := io.ReadFull(nc, got); err != nil || string(got) != "hello" {
		t.Fatalf("got %q, %v", got, err)
	}
	if under.read.Load() == 0 || c.BytesRead() == before {
		t.Error("the bytes went another way")
	}
}

// recorded counts what is read.
type recorded struct {
	net.Conn
	read atomic.Int64
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.read.Add(int64(n))
	return n, err
}

// testTLS makes a certificate for one test.
func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"test"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: pool, ServerName: "test"}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]Plain{
		"\x00user\x00pw":      {"", "user", "pw"},
		"who\x00proxy\x00pw ": {"who", "proxy", "pw "},
	} {
		got, err := ParsePlain([]byte(in))
		if err != nil || got != want {
			t.Errorf("%q: got %v, %v", in, got, err)
		}
		if back, err := got.Message(); err != nil || string(back) != in {
			t.Errorf("back: got %q, %v", back, err)
		}
	}
	for _, in := range []string{"", "user", "a\x00b", "a\x00b\x00c\x00d"} {
		if _, err := ParsePlain([]byte(in)); !errors.Is(err, ErrSASL) {
			t.Errorf("%q: got %v", in, err)
		}
	}
	if _, err := (Plain{Password: "a\x00b"}).Message(); !errors.Is(err, ErrSASL) {
		t.Errorf("NUL: got %v", err)
	}
}

func FuzzDecodeSASL(f *testing.F) {
	f.Add([]byte("AHVzZXIAcHc="))
	f.Add([]byte("="))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := DecodeSASL(line)
		if err != nil {
			if !errors.Is(err, ErrSASL) {
				t.Fatal(err)
			}
			return
		}
		again, err := DecodeSASL([]byte(EncodeSASL(m)))
		if err != nil || !bytes.Equal(m, again) {
			t.Fatalf("%q became %q, %v", m, again, err)
		}
		if p, err := ParsePlain(m); err == nil {
			if back, err := p.Message(); err != nil || !bytes.Equal(back, m) {
				t.Fatalf("PLAIN %q became %q, %v", m, back, err)
			}
		}
	})
}
