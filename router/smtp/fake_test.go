package smtp

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/internal/origin"
	"switchyard/internal/smtpd"
	"switchyard/internal/tlsconf"
	"switchyard/internal/wire"
	"switchyard/router/upstream"
)

// store is a backend that takes mail by LMTP and does as it is told.
type store struct {
	name    string
	foreign bool // no XTRACELEN, no login

	rcpt func(address string) error
	data func(conn *wire.Conn, body io.Reader, n int) []smtpd.Reply // nil: accept

	ln net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	conns int
	log   []string
	got   []letter
	open  map[*wire.Conn]struct{}
}

// letter is a message as a store got it.
type letter struct {
	from  string
	to    []string
	trace string
	body  string // without the trace
}

func newStore(t *testing.T, name string) *store {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &store{name: name, ln: ln, open: make(map[*wire.Conn]struct{})}
	t.Cleanup(func() {
		ln.Close()
		s.wg.Wait()
	})
	return s
}

// backend starts the store, with the orders that it has got.
func (s *store) backend() upstream.Backend {
	s.wg.Go(s.accept)
	return upstream.Backend{Name: s.name, Nodes: []upstream.Node{{
		Name:     s.name + "a",
		Services: map[upstream.Service]upstream.Endpoint{upstream.LMTP: {Address: s.ln.Addr().String(), TLS: tlsconf.Off}},
	}}}
}

func (s *store) accept() {
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			return
		}
		conn := wire.NewConn(nc)
		s.mu.Lock()
		s.conns++
		s.open[conn] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			defer conn.Close()
			o := smtpd.Options{Hostname: s.name, LMTP: true, RequireAuth: !s.foreign, AllowCleartextAuth: true, MaxRecipients: 1000}
			smtpd.Serve(context.Background(), conn, o, func(c *smtpd.Conn) smtpd.Session {
				in := &storeSession{s: s, wire: conn, conn: c}
				if s.foreign {
					return in
				}
				return ownSession{in}
			})
		})
	}
}

// cut closes all connections, as a restart does.
func (s *store) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.open {
		conn.Close()
		delete(s.open, conn)
	}
}

func (s *store) note(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, line)
}

func (s *store) letters() []letter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]letter(nil), s.got...)
}

func (s *store) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.log, "\n")
}

func (s *store) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

type storeSession struct {
	s     *store
	wire  *wire.Conn
	conn  *smtpd.Conn
	from  string
	trace int64
	to    []string
}

func (in *storeSession) Mail(_ context.Context, from smtpd.Path, p smtpd.MailParams) error {
	in.from, in.trace = from.String(), p.Trace
	if from.Local == "huge" {
		return smtpd.NewReply(552, "5.3.4", "too big")
	}
	return nil
}

func (in *storeSession) Rcpt(_ context.Context, to smtpd.Path, p smtpd.RcptParams) error {
	if in.s.rcpt != nil {
		if err := in.s.rcpt(to.String()); err != nil {
			if err == io.EOF {
				in.wire.Close()
			}
			return err
		}
	}
	address := to.String()
	if p.Relay {
		address += "!" // in the queue
	}
	in.to = append(in.to, address)
	return nil
}

func (in *storeSession) Data(_ context.Context, body io.Reader) []smtpd.Reply {
	if in.s.data != nil {
		if r := in.s.data(in.wire, body, len(in.to)); r != nil {
			return r
		}
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return nil
	}
	in.s.mu.Lock()
	in.s.got = append(in.s.got, letter{in.from, in.to, string(b[:in.trace]), string(b[in.trace:])})
	in.s.mu.Unlock()
	return smtpd.Repeat(smtpd.NewReply(250, "2.0.0", "stored on "+in.s.name), len(in.to))
}

func (in *storeSession) Reset() { in.to = nil }

// ownSession is one of our own backends'.
type ownSession struct{ *storeSession }

func (in ownSession) Auth(_ context.Context, c smtpd.Credentials) error {
	if c.Username != "proxy" || c.Password != "proxy-secret" || c.Authzid != "" {
		return smtpd.NewReply(535, "5.7.8", "no")
	}
	return nil
}

func (in ownSession) OffersPrivate() bool { return in.conn.Authenticated() }
func (in ownSession) Trusts() bool        { return true }

func (in ownSession) Identify(_ context.Context, o origin.Origin) error {
	in.s.note("from " + o.Client.Addr().String() + " helo " + o.HELO)
	return nil
}

func (in ownSession) Rcpt(ctx context.Context, to smtpd.Path, p smtpd.RcptParams) error {
	if p.Generation > 0 {
		in.s.note("generation of " + to.String())
	}
	if p.Notify != "" {
		in.s.note(to.String() + " NOTIFY=" + p.Notify)
	}
	return in.storeSession.Rcpt(ctx, to, p)
}

// outcomes are what may become of a message at one backend.
var outcomes = map[string]func(conn *wire.Conn, body io.Reader, n int) []smtpd.Reply{
	"2xx": nil,
	"4xx": func(_ *wire.Conn, body io.Reader, n int) []smtpd.Reply {
		io.Copy(io.Discard, body)
		return smtpd.Repeat(smtpd.NewReply(452, "4.2.2", "mailbox full"), n)
	},
	"5xx": func(_ *wire.Conn, body io.Reader, n int) []smtpd.Reply {
		io.Copy(io.Discard, body)
		return smtpd.Repeat(smtpd.NewReply(554, "5.6.0", "do not like it"), n)
	},
	"lost before": func(conn *wire.Conn, body io.Reader, n int) []smtpd.Reply {
		conn.Close()
		return smtpd.Repeat(smtpd.Reply{}, n)
	},
	"lost after": func(conn *wire.Conn, body io.Reader, n int) []smtpd.Reply {
		io.Copy(io.Discard, body)
		conn.Close()
		return smtpd.Repeat(smtpd.Reply{}, n)
	},
	"slow": func(conn *wire.Conn, body io.Reader, n int) []smtpd.Reply {
		io.Copy(io.Discard, body)
		conn.SetIdle(10 * time.Second)
		conn.Peek(1) // until the proxy gives up
		return smtpd.Repeat(smtpd.NewReply(250, "2.0.0", "too late"), n)
	},
}
