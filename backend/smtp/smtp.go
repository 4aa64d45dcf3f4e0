// Package smtp is how mail comes into a store: by LMTP from the proxies
// (RFC 2033), and by submission from users (RFC 6409), through the proxies or
// straight. The dialogue itself is internal/smtpd's.
//
//	C: LHLO proxy.example                    (over TLS, from a named network)
//	C: XCLIENT SESSION=… ADDR=192.0.2.7      who the client is
//	C: AUTH PLAIN <proxy's name and secret>
//	C: MAIL FROM:<a@x.example> XTRACELEN=122 so long is the proxy's own header
//	C: RCPT TO:<anna@here.example> XRCPTFORWARD=…
//	S: 250, or 550 no such, 451 not now, 451 4.1.6 lives elsewhere
//	C: DATA …
//	S: one 250 or 4xx for each recipient
//
// What it promises:
//
//   - A recipient that was answered 250 has the message on disk.
//   - LMTP refuses for good only at RCPT. Behind the message there is only 250
//     or 4xx, so that no report has to be written for what was accepted, and a
//     sender that repeats the message is recognised by its delivery id.
//   - A sender who asks for it (NOTIFY=SUCCESS) hears that the message is there.
//   - LMTP takes nothing from anybody but a proxy that proved it is one.
//   - A submitted message is in the node's queue, on disk, when it is answered
//     250, and from there it reaches its recipients or comes back.
//   - Users send as themselves only.
package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"switchyard/backend/access"
	"switchyard/internal/origin"
	"switchyard/internal/server"
	"switchyard/internal/smtpd"
	"switchyard/internal/spool"
	"switchyard/internal/wire"

	"go.uber.org/zap"
)

// Options for NewLMTP and NewSubmission. The zero value works: no TLS, and so
// no logins either.
type Options struct {
	// Hostname is what the server calls itself, also in the fields that it
	// adds. Empty means "localhost".
	Hostname string

	// Node names this node in the log.
	Node string

	// TLS is the configuration of STARTTLS and of ServeTLS. Nil: neither.
	TLS *tls.Config

	// AllowClear lets users submit without TLS. LMTP and a proxy's secret need
	// it whatever this says.
	AllowClear bool

	// MaxSize bounds a message in bytes. Zero means 50 MiB less 4 KiB: the
	// store, which by default takes 50 MiB, gets the message with a few fields
	// more.
	MaxSize int64

	// MaxRecipients bounds the recipients of a message. Zero means 1,000.
	MaxRecipients int

	// LoginTime bounds the time from the connection to the login.
	// Zero means one minute.
	LoginTime time.Duration

	// Idle is how long a logged-in client may take for a command, and for each
	// piece of a message. Zero means five minutes (RFC 5321 §4.5.3.2.7).
	Idle time.Duration

	// Spool is where messages are kept while they come in. The zero value is
	// spool's own default.
	Spool spool.Options

	Logger *zap.Logger // nil: none
}

func (o Options) withDefaults() Options {
	if o.Hostname == "" {
		o.Hostname = "localhost"
	}
	if o.MaxSize == 0 {
		o.MaxSize = 50<<20 - 4<<10
	}
	if o.MaxRecipients == 0 {
		o.MaxRecipients = 1000
	}
	if o.LoginTime == 0 {
		o.LoginTime = time.Minute
	}
	if o.Idle == 0 {
		o.Idle = 5 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// listener is what both servers share.
type listener struct {
	gate *access.Gate
	o    Options
	lmtp bool
	name string // of the protocol, for the log
	open func(*session) smtpd.Session
}

// Serve serves one connection that begins in clear, until its session ends,
// and closes it. It is a server.Handler. When ctx ends, the session finishes
// the answer in hand, says 421 and closes.
func (l *listener) Serve(ctx context.Context, nc net.Conn) { l.serve(ctx, nc, false) }

// ServeTLS is Serve for a connection that begins with TLS (port 465).
func (l *listener) ServeTLS(ctx context.Context, nc net.Conn) { l.serve(ctx, nc, true) }

func (l *listener) serve(ctx context.Context, nc net.Conn, implicit bool) {
	conn := wire.NewConn(nc)
	defer conn.Close()
	defer conn.Bind(ctx)()
	now := time.Now()
	s := &session{
		gate: l.gate, o: l.o, log: l.o.Logger, from: now,
		origin: origin.Origin{Session: origin.NewSession(now), Client: conn.RemoteAddr()},
	}
	conn.SetDeadline(now.Add(l.o.LoginTime))
	err := l.dialogue(ctx, conn, s, implicit)
	level := zap.InfoLevel
	if s.probed && s.user == "" {
		level = zap.DebugLevel // there is one every few seconds
	}
	s.log.Log(level, "session",
		zap.String("session", s.origin.Session), zap.String("protocol", l.name), zap.String("user", s.user),
		zap.Stringer("client", s.origin.Client), zap.String("node", l.o.Node),
		zap.Bool("proxied", s.proxied), zap.Bool("tls", conn.TLS() != nil), zap.Int("messages", s.messages),
		zap.Duration("took", time.Since(now)),
		zap.Int64("bytes_in", conn.BytesRead()), zap.Int64("bytes_out", conn.BytesWritten()),
		zap.String("reason", reason(err)))
}

func (l *listener) dialogue(ctx context.Context, conn *wire.Conn, s *session, implicit bool) error {
	o := smtpd.Options{
		Hostname: l.o.Hostname, LMTP: l.lmtp, RequireAuth: true, LoginTimeout: l.o.LoginTime,
		AllowCleartextAuth: l.o.AllowClear && !l.lmtp, MaxSize: l.o.MaxSize, MaxRecipients: l.o.MaxRecipients,
		CommandTimeout: l.o.Idle, DataTimeout: l.o.Idle, Logger: l.o.Logger,
	}
	if l.o.TLS != nil {
		o.StartTLS = func(ctx context.Context) error { return conn.ServerTLS(ctx, l.o.TLS) }
	}
	if implicit {
		if l.o.TLS == nil {
			return errors.New("no TLS configured")
		}
		if err := conn.ServerTLS(ctx, l.o.TLS); err != nil {
			return err
		}
	}
	return smtpd.Serve(ctx, conn, o, func(c *smtpd.Conn) smtpd.Session {
		s.conn = c
		return l.open(s)
	})
}

// session is what both kinds of sessions share: who the client is.
type session struct {
	gate *access.Gate
	o    Options
	log  *zap.Logger
	from time.Time
	conn *smtpd.Conn

	origin   origin.Origin // Session and Client always; the rest when a proxy said so
	user     string        // who logged in
	proxied  bool
	probed   bool // a proxy has asked how this node is
	messages int
}

// OffersProbe implements smtpd.Prober.
func (s *session) OffersProbe() bool { return s.Trusts() }

// answer is the answer to a proxy that asks how this node is.
func (s *session) answer(a *access.ProbeError) smtpd.Reply {
	s.probed = true
	return smtpd.NewReply(454, "4.7.0", a.String())
}

// peer is the socket's own address.
func (s *session) peer() netip.Addr { return s.conn.Peer().Addr() }

// Trusts implements smtpd.Identifier.
func (s *session) Trusts() bool { return s.gate.Trusted(s.peer(), s.conn.TLS()) }

// Identify implements smtpd.Identifier.
func (s *session) Identify(_ context.Context, o origin.Origin) error {
	if o.Session == "" {
		o.Session = s.origin.Session
	}
	s.origin = o
	return nil
}

// received is the field that this server adds to a message.
func (s *session) received(client netip.Addr, hello string) string {
	return smtpd.Trace{Hello: hello, Client: client, By: s.o.Hostname, With: s.conn.With(),
		ID: s.origin.Session, Time: time.Now()}.Field()
}

// failed logs what should not happen.
func (s *session) failed(step string, err error) {
	s.log.Error("message not taken", zap.String("session", s.origin.Session), zap.String("step", step), zap.Error(err))
}

// source remembers whether it was the client's message that could not be read:
// then smtpd gives the answer.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// reason words the end of a session for the log.
func reason(err error) string {
	switch {
	case err == nil:
		return "quit"
	case wire.IsTimeout(err):
		return "timeout"
	case errors.Is(err, server.ErrShutdown):
		return "shutdown"
	}
	return err.Error()
}
