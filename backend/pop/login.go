package pop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"switchyard/backend"
	"switchyard/backend/access"
	"switchyard/internal/origin"
	"switchyard/internal/wire"
	"switchyard/lookup"

	"go.uber.org/zap"
)

// mayLogin reports whether a password may be sent over this connection.
func (s *session) mayLogin() bool { return s.secure() || s.srv.o.AllowClear }

// stls begins TLS (RFC 2595 §4).
func (s *session) stls(ctx context.Context, args string) error {
	switch {
	case args != "":
		return s.mistake("STLS takes no argument")
	case s.srv.o.TLS == nil:
		return s.mistake("STLS is not available")
	case s.secure():
		return s.mistake("TLS is active already")
	case s.conn.Buffered() > 0:
		s.err("bytes behind STLS")
		return errBehind
	}
	s.ok("begin TLS")
	if err := s.conn.ServerTLS(ctx, s.srv.o.TLS); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	s.name = "" // what came in clear counts for nothing
	return nil
}

// xclient takes a client's identity from a trusted proxy.
func (s *session) xclient(args string) error {
	if !s.trusted() {
		return s.mistake("XCLIENT is for trusted proxies")
	}
	if s.identity {
		return s.mistake("XCLIENT was sent already")
	}
	o, hasAddr, err := origin.ParseXCLIENT(origin.POP3, args)
	if err != nil {
		return s.mistake("XCLIENT is malformed")
	}
	if o.Session != "" {
		s.origin.Session = o.Session
	}
	if o.Client.IsValid() {
		s.origin.Client = o.Client
	}
	s.origin.Generation = max(s.origin.Generation, o.Generation)
	s.identity = hasAddr
	s.ok("Updated")
	return nil
}

// trusted reports whether the peer is where proxies are.
func (s *session) trusted() bool {
	return s.srv.gate.Trusted(s.conn.RemoteAddr().Addr(), s.secure())
}

const clearRefused = "no login without TLS: use STLS first"

func (s *session) userName(name string) error {
	switch {
	case !s.mayLogin():
		return s.mistake(clearRefused)
	case name == "":
		return s.mistake("USER takes a name")
	}
	s.name = name
	s.ok("send PASS")
	return nil
}

// pass logs in. Everything behind the one space is the password, spaces too
// (RFC 1939 §7).
func (s *session) pass(ctx context.Context, password string) error {
	name := s.name
	s.name = ""
	switch {
	case !s.mayLogin():
		return s.mistake(clearRefused)
	case name == "":
		return s.mistake("send USER first")
	}
	return s.login(ctx, access.Login{Authcid: name, Password: password})
}

// auth runs a SASL exchange (RFC 5034 §4).
func (s *session) auth(ctx context.Context, args string) error {
	mechanism, initial, hasInitial := strings.Cut(args, " ")
	if mechanism == "" {
		return s.mistake("AUTH takes a mechanism")
	}
	if !s.mayLogin() {
		return s.mistake(clearRefused)
	}
	var l access.Login
	var err error
	switch strings.ToUpper(mechanism) {
	case "PLAIN":
		l, err = s.authPlain(ctx, initial, hasInitial)
	case "LOGIN":
		l, err = s.authLogin(ctx, initial, hasInitial)
	default:
		return s.mistake("unknown mechanism")
	}
	switch {
	case errors.Is(err, errCancelled):
		return s.mistake("cancelled")
	case errors.Is(err, wire.ErrSASL):
		return s.mistake(err.Error())
	case err != nil:
		return s.farewell(err)
	}
	return s.login(ctx, l)
}

func (s *session) authPlain(ctx context.Context, initial string, hasInitial bool) (l access.Login, err error) {
	message, err := s.response(ctx, "", initial, hasInitial)
	if err != nil {
		return l, err
	}
	p, err := wire.ParsePlain(message)
	return access.Login{Authzid: p.Authzid, Authcid: p.Authcid, Password: p.Password}, err
}

// authLogin runs the old LOGIN mechanism, which some clients still prefer.
func (s *session) authLogin(ctx context.Context, initial string, hasInitial bool) (l access.Login, err error) {
	name, err := s.response(ctx, "Username:", initial, hasInitial)
	if err != nil {
		return l, err
	}
	password, err := s.response(ctx, "Password:", "", false)
	return access.Login{Authcid: string(name), Password: string(password)}, err
}

var errCancelled = errors.New("cancelled")

// response gets one SASL message: the initial response, or the answer to a
// challenge. "*" cancels the exchange.
func (s *session) response(ctx context.Context, challenge, initial string, hasInitial bool) ([]byte, error) {
	if hasInitial {
		return wire.DecodeSASL([]byte(initial))
	}
	encoded := ""
	if challenge != "" {
		encoded = wire.EncodeSASL([]byte(challenge))
	}
	s.conn.Printf("+ %s\r\n", encoded)
	line, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	if string(line) == "*" {
		return nil, errCancelled
	}
	return wire.DecodeSASL(line)
}

// login asks the gate, and opens the maildrop of who may.
func (s *session) login(ctx context.Context, l access.Login) error {
	l.Peer, l.Client = s.conn.RemoteAddr().Addr(), s.origin.Client.Addr()
	l.TLS, l.Generation, l.Protocol = s.secure(), s.origin.Generation, "pop3"
	granted, err := s.srv.gate.Login(ctx, l)
	if answer := (*access.ProbeError)(nil); errors.As(err, &answer) {
		s.probed = true
		s.err(answer.String())
		return nil
	}
	if err != nil {
		return s.refused(err)
	}
	account := granted.User.Account()
	if !s.srv.take(account) {
		s.err("[IN-USE] another session has this maildrop")
		return nil
	}
	drop, err := openMaildrop(ctx, granted.User, s.srv.lengths)
	if err != nil {
		s.srv.release(account)
		return s.refused(fmt.Errorf("open maildrop of %s: %w", account, err))
	}
	s.user, s.proxied, s.drop = granted.User, granted.Proxied, drop
	s.conn.SetDeadline(time.Time{})
	s.conn.SetIdle(s.srv.o.Idle)
	s.ok(fmt.Sprintf("%d messages", drop.count()))
	return nil
}

// refused answers a failed login. "No" and "not now" are kept apart (RFC 3206,
// RFC 2449 §8); only "no" counts towards the end of the session.
func (s *session) refused(err error) error {
	var status *access.StatusError
	if errors.As(err, &status) && s.trusted() {
		// The peer is a proxy, whose own login was right: [AUTH] would tell
		// it otherwise.
		s.err(fmt.Sprintf("[SYS/PERM] account is %s", status.Status))
		return nil
	}
	s.err(refusal(err))
	switch {
	case lookup.AnswerOf(err) == lookup.AnswerRejected, errors.As(err, &status):
		if s.badLogins++; s.badLogins >= maxBadLogins {
			return errTooMany
		}
	case errors.Is(err, backend.ErrMoved), errors.Is(err, lookup.ErrUnavailable), errors.Is(err, backend.ErrBusy):
	default:
		s.log.Error("login failed", zap.String("session", s.origin.Session), zap.Error(err))
	}
	return nil
}

// refusal words a failed login.
func refusal(err error) string {
	var status *access.StatusError
	switch {
	case errors.As(err, &status):
		return fmt.Sprintf("[AUTH] account is %s", status.Status)
	case errors.Is(err, backend.ErrMoved):
		return "[SYS/TEMP/MOVED] account lives elsewhere"
	case lookup.AnswerOf(err) == lookup.AnswerRejected:
		return "[AUTH] wrong name or password"
	default:
		return "[SYS/TEMP] try again later"
	}
}
