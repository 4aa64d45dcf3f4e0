package managesieve

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"switchyard/backend"
	"switchyard/backend/sieve"
	"switchyard/internal/origin"
	"switchyard/internal/probe"
	"switchyard/internal/server"
	"switchyard/internal/wire"

	"go.uber.org/zap"
)

const (
	maxBadLogins   = 3  // failed logins, then the connection ends
	maxBadCommands = 10 // mistakes, before login, then the connection ends
	maxBadAfter    = 100
)

// session is one connection. Everything runs in one goroutine.
type session struct {
	srv  *Server
	conn *wire.Conn
	from time.Time

	origin   origin.Origin // Session and Client always; the rest when a proxy said so
	identity bool          // an XCLIENT with ADDR was believed: no further one is

	badLogins, badCommands int

	user    backend.User // nil before login
	proxied bool
	probed  bool // a proxy has asked how this node is
	changes int
}

func newSession(srv *Server, nc net.Conn) *session {
	conn, now := wire.NewConn(nc), time.Now()
	return &session{
		srv: srv, conn: conn, from: now,
		origin: origin.Origin{Session: origin.NewSession(now), Client: conn.RemoteAddr()},
	}
}

// The ways in which a session ends, beside the connection's own errors.
var (
	errLogout  = errors.New("logout")
	errTooMany = errors.New("too many mistakes")
)

// run serves the session and logs its one line.
func (s *session) run(ctx context.Context, implicit bool) {
	defer s.conn.Close()
	err := s.serve(ctx, implicit)
	s.farewell(err)
	user := ""
	if s.user != nil {
		user = s.user.Account()
	}
	level := zap.InfoLevel
	if s.probed && s.user == nil {
		level = zap.DebugLevel // there is one every few seconds
	}
	s.srv.o.Logger.Log(level, "session",
		zap.String("session", s.origin.Session), zap.String("protocol", "managesieve"), zap.String("user", user),
		zap.Stringer("client", s.origin.Client), zap.String("node", s.srv.o.Node),
		zap.Bool("proxied", s.proxied), zap.Bool("tls", s.secure()), zap.Int("changes", s.changes),
		zap.Duration("took", time.Since(s.from)),
		zap.Int64("bytes_in", s.conn.BytesRead()), zap.Int64("bytes_out", s.conn.BytesWritten()),
		zap.String("reason", reason(err)))
}

func reason(err error) string {
	switch {
	case err == nil, errors.Is(err, errLogout):
		return "logout"
	case wire.IsTimeout(err):
		return "timeout"
	}
	return err.Error()
}

// farewell says BYE where the client can still hear why (RFC 5804 §1.2).
func (s *session) farewell(err error) {
	why := ""
	switch {
	case errors.Is(err, errLogout):
	case wire.IsTimeout(err):
		why = "too long without a word"
	case errors.Is(err, errTooMany):
		why = "too many mistakes"
	case errors.Is(err, wire.ErrLineTooLong), errors.Is(err, errLost):
		why = "a line or a literal is too long"
	case errors.Is(err, wire.ErrBareLF):
		why = "lines end in CR LF"
	case errors.Is(err, wire.ErrBytesBehindStartTLS):
		why = "bytes behind STARTTLS"
	case isShutdown(err):
		why = "the server stops: try again later"
	default:
		return
	}
	s.conn.Resume()
	s.conn.SetDeadline(time.Now().Add(byeTimeout))
	if why != "" {
		code := ""
		if isShutdown(err) {
			code = "(TRYLATER) "
		}
		s.conn.Printf("BYE %s%s\r\n", code, quote(why))
	}
	s.conn.Flush()
}

// byeTimeout bounds the last write.
const byeTimeout = 2 * time.Second

func isShutdown(err error) bool { return errors.Is(err, server.ErrShutdown) }

// serve reads and answers commands until one of them or the connection ends the
// session.
func (s *session) serve(ctx context.Context, implicit bool) error {
	s.conn.SetDeadline(s.from.Add(s.srv.o.LoginTime))
	if implicit {
		if s.srv.o.TLS == nil {
			return errors.New("no TLS configured")
		}
		if err := s.conn.ServerTLS(ctx, s.srv.o.TLS); err != nil {
			return err
		}
	}
	s.capabilities("Switchyard is ready")
	for {
		q, err := s.request(ctx)
		var mistake *mistakeError
		var big tooBigError
		switch {
		case errors.As(err, &mistake):
			err = s.mistake(mistake.text)
		case errors.As(err, &big):
			s.no("QUOTA/MAXSIZE", sieve.ErrScriptTooBig.Error())
			err = nil
		case err == nil:
			err = s.command(ctx, q)
		}
		if err != nil {
			return err
		}
	}
}

func (s *session) secure() bool { return s.conn.TLS() != nil }

// quote writes a string: quoted where that is possible, else as a literal.
func quote(text string) string {
	if strings.ContainsAny(text, "\r\n\x00") || len(text) > 1000 {
		return literal(text)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// ok and no write a reply to the buffer.
func (s *session) ok(text string) { s.conn.Printf("OK %s\r\n", quote(text)) }

func (s *session) no(code, text string) {
	if code != "" {
		code = "(" + code + ") "
	}
	s.conn.Printf("NO %s%s\r\n", code, quote(text))
}

// mistake answers a command that cannot be understood or does not belong here.
func (s *session) mistake(text string) error {
	s.no("", text)
	limit := maxBadCommands
	if s.user != nil {
		limit = maxBadAfter
	}
	if s.badCommands++; s.badCommands >= limit {
		return errTooMany
	}
	return nil
}

// capabilities sends the list of RFC 5804 §1.7, and OK.
func (s *session) capabilities(text string) {
	line := func(name, value string) { s.conn.Printf("%s %s\r\n", quote(name), quote(value)) }
	line("IMPLEMENTATION", "Switchyard")
	switch {
	case s.user != nil:
		line("OWNER", s.user.Account())
		line("SASL", "")
	case s.mayLogin():
		line("SASL", "PLAIN LOGIN")
	default:
		line("SASL", "")
	}
	line("SIEVE", sieve.Extensions())
	if s.srv.o.TLS != nil && !s.secure() && s.user == nil {
		s.conn.Printf("\"STARTTLS\"\r\n")
	}
	if s.user == nil && s.trusted() {
		s.conn.Printf("\"XCLIENT\"\r\n%s\r\n", quote(probe.Capability))
	}
	line("MAXREDIRECTS", maxRedirects)
	line("VERSION", "1.0")
	s.ok(text)
}
