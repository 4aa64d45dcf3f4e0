package smtpd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"switchyard/internal/origin"
	"switchyard/internal/wire"
)

// fake is a Session that writes down what it is asked.
type fake struct {
	conn    *Conn
	log     []string
	bodies  []string
	replies func(n int) []Reply // nil: 250 for all
	early   bool                // Data returns without reading
	trusts  bool
	private bool
}

func (f *fake) note(format string, args ...any) { f.log = append(f.log, fmt.Sprintf(format, args...)) }

func (f *fake) Mail(_ context.Context, from Path, p MailParams) error {
	f.note("mail %q %+v", from, p)
	switch from.Local {
	case "refused":
		return NewReply(550, "5.7.1", "go away")
	case "broken":
		return errors.New("disk on fire: /var/secret")
	}
	return nil
}

func (f *fake) Rcpt(_ context.Context, to Path, p RcptParams) error {
	f.note("rcpt %q %+v", to, p)
	switch to.Local {
	case "nobody":
		return NewReply(550, "5.1.1", "no such user")
	case "slow":
		time.Sleep(2 * time.Second)
	case "later":
		return NewReply(451, "4.4.3", "not now")
	}
	return nil
}

func (f *fake) Data(_ context.Context, body io.Reader) []Reply {
	n := 1
	if f.conn.o.LMTP {
		n = f.conn.Recipients()
	}
	if !f.early {
		b, err := io.ReadAll(body)
		if err != nil {
			f.note("body failed: %v", err)
			return Repeat(NewReply(250, "2.0.0", "a lie"), n)
		}
		f.note("data %s %d", f.conn.With(), len(b))
		f.bodies = append(f.bodies, string(b))
	}
	if f.replies != nil {
		return f.replies(n)
	}
	return Repeat(NewReply(250, "2.0.0", "taken"), n)
}

func (f *fake) Reset() { f.note("reset") }

// loginFake is a fake that has logins, identities and private parameters.
type loginFake struct{ fake }

func (f *loginFake) Auth(_ context.Context, c Credentials) error {
	f.note("auth %s %q %q %q", c.Mechanism, c.Authzid, c.Username, c.Password)
	switch {
	case c.Username == "busy":
		return NewReply(454, "4.7.0", "not now")
	case c.Username == "proxied":
		return ErrTakeOver
	case c.Password != "secret":
		return NewReply(535, "5.7.8", "no")
	}
	return nil
}

func (f *loginFake) Trusts() bool        { return f.trusts }
func (f *loginFake) OffersPrivate() bool { return f.private && f.conn.Authenticated() }

func (f *loginFake) Identify(_ context.Context, o origin.Origin) error {
	f.note("identify %s %s ttl %d", o.Session, o.Client, o.TTL)
	if o.TTL == 1 {
		return NewReply(550, "5.4.6", "loop")
	}
	return nil
}

// peer is the client's side of a dialogue under test.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	done chan error // Serve's answer
	wc   *wire.Conn // the server's side
}

// testTimeout is how long a test waits for what must come.
const testTimeout = 10 * time.Second

// start runs a dialogue with f on loopback.
func start(t *testing.T, o Options, open func(*Conn) Session) *peer {
	t.Helper()
	return startContext(t, context.Background(), o, open)
}

func startContext(t *testing.T, ctx context.Context, o Options, open func(*Conn) Session) *peer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client.SetDeadline(time.Now().Add(testTimeout))
	return serve(t, ctx, client, server, o, open)
}

// startPipe runs a dialogue in memory, for tests with a clock of their own.
func startPipe(t *testing.T, o Options, open func(*Conn) Session) *peer {
	t.Helper()
	client, server := net.Pipe()
	return serve(t, context.Background(), client, server, o, open)
}

func serve(t *testing.T, ctx context.Context, client, server net.Conn, o Options, open func(*Conn) Session) *peer {
	wc := wire.NewConn(server)
	p := &peer{t: t, conn: client, r: bufio.NewReader(client), done: make(chan error, 1), wc: wc}
	if o.Hostname == "" {
		o.Hostname = "mx.test"
	}
	if o.StartTLS != nil {
		o.StartTLS = func(ctx context.Context) error { return wc.ServerTLS(ctx, testTLS(t)) }
	}
	release := wc.Bind(ctx)
	go func() {
		err := Serve(ctx, wc, o, open)
		if !errors.Is(err, ErrTakeOver) {
			wc.Close()
		}
		release()
		p.done <- err
	}()
	t.Cleanup(func() { client.Close() })
	return p
}

// run plays a script of C: and S: lines. Neighbouring C: lines are sent in one
// write. An S: line that ends in * is a prefix.
func (p *peer) run(script string) {
	p.t.Helper()
	var out strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(script), "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		side, text, _ := strings.Cut(line, ": ")
		switch side {
		case "C", "C:":
			out.WriteString(text + "\r\n")
		case "S":
			p.send(out.String())
			out.Reset()
			p.expect(text)
		default:
			p.t.Fatalf("bad script line %q", line)
		}
	}
	p.send(out.String())
}

func (p *peer) send(s string) {
	p.t.Helper()
	if s == "" {
		return
	}
	if _, err := io.WriteString(p.conn, s); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

func (p *peer) expect(want string) {
	p.t.Helper()
	got, err := p.r.ReadString('\n')
	if err != nil {
		p.t.Fatalf("got %q and %v, want %q", got, err, want)
	}
	line, ok := strings.CutSuffix(got, "\r\n")
	if !ok {
		p.t.Fatalf("line %q does not end in CRLF", got)
	}
	prefix, isPrefix := strings.CutSuffix(want, "*")
	if line != want && !(isPrefix && strings.HasPrefix(line, prefix)) {
		p.t.Fatalf("got %q, want %q", line, want)
	}
}

// end waits for the server to close and returns what Serve returned.
func (p *peer) end() error {
	p.t.Helper()
	rest, _ := io.ReadAll(p.r)
	if len(rest) > 0 {
		p.t.Errorf("behind the end came %q", rest)
	}
	return p.result()
}

func (p *peer) result() error {
	p.t.Helper()
	select {
	case err := <-p.done:
		return err
	case <-time.After(testTimeout):
		p.t.Fatal("Serve does not return")
		return nil
	}
}

func (p *peer) upgrade() {
	p.t.Helper()
	tc := tls.Client(p.conn, &tls.Config{InsecureSkipVerify: true})
	if err := tc.Handshake(); err != nil {
		p.t.Fatal(err)
	}
	p.conn, p.r = tc, bufio.NewReader(tc)
}

// plain serves a fake.
func plain(f *fake) func(*Conn) Session {
	return func(c *Conn) Session { f.conn = c; return f }
}

func withLogin(f *loginFake) func(*Conn) Session {
	return func(c *Conn) Session { f.conn = c; return f }
}

// wantLog compares what a fake wrote down.
func (f *fake) wantLog(t *testing.T, want ...string) {
	t.Helper()
	if got := strings.Join(f.log, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("session saw:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}
