package pop

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"switchyard/backend"
	"switchyard/internal/origin"
	"switchyard/internal/probe"
	"switchyard/internal/wire"

	"go.uber.org/zap"
)

// The bounds of a command line. With them a session holds before login at most
// the connection's two buffers of 4 KiB and one line of 16 KiB.
const (
	maxLine    = 512 // RFC 2449 §4 allows 255; names and passwords may be longer
	maxXCLIENT = 1024
	maxAUTH    = wire.MaxSASL + 64
)

const (
	maxBadLogins   = 3  // failed logins, then the connection ends
	maxBadCommands = 10 // mistakes before login, then the connection ends
)

// session is one connection. Everything runs in one goroutine.
type session struct {
	srv  *Server
	conn *wire.Conn
	log  *zap.Logger
	from time.Time

	origin   origin.Origin // Session and Client always; the rest when a proxy said so
	identity bool          // an XCLIENT with ADDR was believed: no further one is

	name        string // USER's argument
	badLogins   int
	badCommands int

	user    backend.User // nil before login
	proxied bool
	probed  bool // a proxy has asked how this node is
	drop    *maildrop

	retrieved, deleted int
}

func newSession(srv *Server, nc net.Conn) *session {
	conn := wire.NewConn(nc)
	now := time.Now()
	return &session{
		srv: srv, conn: conn, from: now, log: srv.o.Logger,
		origin: origin.Origin{Session: origin.NewSession(now), Client: conn.RemoteAddr()},
	}
}

// The ways in which a session ends, beside the connection's own errors.
var (
	errQuit      = errors.New("quit")
	errTooMany   = errors.New("too many mistakes")
	errBehind    = wire.ErrBytesBehindStartTLS
	errBodyFails = errors.New("message cannot be read to its end")
)

// run serves the session and logs its one line.
func (s *session) run(ctx context.Context, implicit bool) {
	defer s.conn.Close()
	defer s.leave()
	err := s.serve(ctx, implicit)
	s.leave() // before QUIT is answered: the client may be back at once
	s.conn.Flush()
	user := ""
	if s.user != nil {
		user = s.user.Account()
	}
	level := zap.InfoLevel
	if s.probed && s.user == nil {
		level = zap.DebugLevel // there is one every few seconds
	}
	s.log.Log(level, "session",
		zap.String("session", s.origin.Session), zap.String("protocol", "pop3"), zap.String("user", user),
		zap.Stringer("client", s.origin.Client), zap.String("node", s.srv.o.Node),
		zap.Bool("proxied", s.proxied), zap.Bool("tls", s.conn.TLS() != nil),
		zap.Int("retrieved", s.retrieved), zap.Int("deleted", s.deleted),
		zap.Duration("took", time.Since(s.from)),
		zap.Int64("bytes_in", s.conn.BytesRead()), zap.Int64("bytes_out", s.conn.BytesWritten()),
		zap.String("reason", reason(err)))
}

// leave gives the maildrop back, also when a handler panics.
func (s *session) leave() {
	if s.drop != nil {
		s.srv.release(s.user.Account())
		s.drop = nil
	}
}

// serve reads and answers commands until one of them or the connection ends
// the session.
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
	s.greet()
	for {
		line, err := s.read(ctx)
		if err != nil {
			return s.farewell(err)
		}
		if err := s.command(ctx, line); err != nil {
			return err
		}
	}
}

// greet says hello. [XCLIENT] is for those who are trusted now or will be once
// they used STLS, since there is no second greeting behind it.
func (s *session) greet() {
	text := "POP3 ready"
	if s.srv.gate.Trusted(s.conn.RemoteAddr().Addr(), s.secure() || s.srv.o.TLS != nil) {
		text = "[XCLIENT] " + text
	}
	s.ok(text)
}

func (s *session) secure() bool { return s.conn.TLS() != nil }

// read returns the next line. Replies are sent before it waits, and not while
// more commands are there: pipelined ones are answered together. Only the wait
// for a command is interrupted when ctx ends: an answer is finished.
func (s *session) read(ctx context.Context) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ahead, _ := s.conn.Peek(s.conn.Buffered())
	if bytes.IndexByte(ahead, '\n') < 0 {
		if err := s.conn.Flush(); err != nil {
			return nil, err
		}
	}
	release := s.conn.Bind(ctx)
	line, err := s.conn.ReadLine(maxAUTH)
	if !release() && err == nil {
		err = context.Cause(ctx)
	}
	return line, err
}

// farewell answers an unreadable line. Nothing is said when the connection is
// dead, a deadline passed (RFC 1939 §3) or the server stops: a word that the
// client did not ask for would be taken for the answer to its next command.
func (s *session) farewell(err error) error {
	switch {
	case errors.Is(err, wire.ErrLineTooLong):
		s.err("line too long")
	case errors.Is(err, wire.ErrBareLF):
		s.err("lines end in CRLF")
	}
	return err
}

// ok and err write a reply to the buffer.
func (s *session) ok(text string)  { s.conn.Printf("+OK %s\r\n", text) }
func (s *session) err(text string) { s.conn.Printf("-ERR %s\r\n", text) }

// mistake answers a command that cannot be understood or does not belong here.
func (s *session) mistake(text string) error {
	s.err(text)
	if s.user != nil {
		return nil
	}
	if s.badCommands++; s.badCommands >= maxBadCommands {
		return errTooMany
	}
	return nil
}

// command runs one line. It returns an error when the session ends.
func (s *session) command(ctx context.Context, line []byte) error {
	verb, args, _ := strings.Cut(string(line), " ")
	verb = strings.ToUpper(verb)
	limit := maxLine
	switch verb {
	case "AUTH":
		limit = maxAUTH
	case "XCLIENT":
		limit = maxXCLIENT
	}
	if len(line) > limit {
		return s.mistake("line too long")
	}
	switch verb {
	case "CAPA":
		s.capa()
		return nil
	case "QUIT":
		if args != "" {
			return s.mistake("QUIT takes no argument")
		}
		return s.quit(ctx)
	}
	if s.user == nil {
		return s.beforeLogin(ctx, verb, args)
	}
	return s.transaction(ctx, verb, args)
}

// beforeLogin runs a command of the AUTHORIZATION state.
func (s *session) beforeLogin(ctx context.Context, verb, args string) error {
	switch verb {
	case "STLS":
		return s.stls(ctx, args)
	case "XCLIENT":
		return s.xclient(args)
	case "USER":
		return s.userName(args)
	case "PASS":
		return s.pass(ctx, args)
	case "AUTH":
		return s.auth(ctx, args)
	case "STAT", "LIST", "RETR", "DELE", "NOOP", "RSET", "TOP", "UIDL":
		return s.mistake("log in first")
	}
	return s.mistake("unknown command")
}

// capa lists what is possible now (RFC 2449 §5).
func (s *session) capa() {
	s.ok("capabilities")
	for _, line := range []string{"TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER", "IMPLEMENTATION Switchyard"} {
		s.conn.Printf("%s\r\n", line)
	}
	if s.user == nil && s.trusted() {
		s.conn.Printf("%s\r\n", probe.Capability)
	}
	if s.mayLogin() {
		// RFC 2595 §2.2 of its POP3 part: not where they would be refused.
		s.conn.Printf("USER\r\nSASL PLAIN LOGIN\r\n")
	}
	if s.user == nil && !s.secure() && s.srv.o.TLS != nil {
		s.conn.Printf("STLS\r\n")
	}
	s.conn.Printf(".\r\n")
}

// reason words the end of a session for the log.
func reason(err error) string {
	switch {
	case errors.Is(err, errQuit):
		return "quit"
	case wire.IsTimeout(err):
		return "timeout"
	case err == nil:
		return "end"
	}
	return err.Error()
}
