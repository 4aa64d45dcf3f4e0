package managesieve

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

// trusted reports whether the peer is where proxies are.
func (s *session) trusted() bool {
	return s.srv.gate.Trusted(s.conn.RemoteAddr().Addr(), s.secure())
}

// startTLS begins TLS, and says behind it what is possible now (RFC 5804 §2.2).
func (s *session) startTLS(ctx context.Context, q *request) error {
	switch {
	case len(q.args) > 0:
		return s.mistake("STARTTLS takes no argument")
	case s.srv.o.TLS == nil || s.user != nil:
		return s.mistake("STARTTLS is not available")
	case s.secure():
		return s.mistake("TLS is active already")
	case s.conn.Buffered() > 0:
		return wire.ErrBytesBehindStartTLS
	}
	s.ok("begin TLS")
	if err := s.conn.ServerTLS(ctx, s.srv.o.TLS); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	s.capabilities("TLS is active")
	return nil
}

// xclient takes a client's identity from a trusted proxy.
func (s *session) xclient(q *request) error {
	switch {
	case s.user != nil || !s.trusted():
		return s.mistake("XCLIENT is for trusted proxies")
	case s.identity:
		return s.mistake("XCLIENT was sent already")
	}
	_, args, _ := strings.Cut(q.line, " ")
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

var errCancelled = errors.New("cancelled")

// authenticate runs a SASL exchange (RFC 5804 §2.1).
func (s *session) authenticate(ctx context.Context, q *request) error {
	args, err := q.strings(1, 2)
	switch {
	case err != nil:
		return s.mistake("AUTHENTICATE takes a mechanism and perhaps a response")
	case s.user != nil:
		return s.mistake("logged in already")
	case !s.mayLogin():
		s.no("ENCRYPT-NEEDED", "passwords are taken over TLS only: use STARTTLS first")
		return nil
	}
	var l access.Login
	switch strings.ToUpper(args[0]) {
	case "PLAIN":
		var message []byte
		if message, err = s.response(ctx, "", args[1:]); err == nil {
			var p wire.Plain
			p, err = wire.ParsePlain(message)
			l = access.Login{Authzid: p.Authzid, Authcid: p.Authcid, Password: p.Password}
		}
	case "LOGIN":
		var name, password []byte
		if name, err = s.response(ctx, "Username:", args[1:]); err == nil {
			password, err = s.response(ctx, "Password:", nil)
		}
		l = access.Login{Authcid: string(name), Password: string(password)}
	default:
		return s.mistake("unknown mechanism")
	}
	var mistake *mistakeError
	switch {
	case errors.Is(err, errCancelled):
		return s.mistake("cancelled")
	case errors.Is(err, wire.ErrSASL), errors.As(err, &mistake):
		return s.mistake(err.Error())
	case err != nil:
		return err
	}
	return s.login(ctx, l)
}

// response gets one SASL message: the initial response, or the answer to a
// challenge. "*" cancels the exchange.
func (s *session) response(ctx context.Context, challenge string, initial []string) ([]byte, error) {
	if len(initial) > 0 {
		return wire.DecodeSASL([]byte(initial[0]))
	}
	encoded := ""
	if challenge != "" {
		encoded = wire.EncodeSASL([]byte(challenge))
	}
	s.conn.Printf("%s\r\n", quote(encoded))
	line, err := s.line(ctx)
	if err != nil {
		return nil, err
	}
	args, err := s.arguments(ctx, line)
	switch {
	case err != nil:
		return nil, err
	case len(args) != 1 || args[0].number:
		return nil, &mistakeError{"a response is one string"}
	case args[0].text == "*":
		return nil, errCancelled
	}
	return wire.DecodeSASL([]byte(args[0].text))
}

// login asks the gate.
func (s *session) login(ctx context.Context, l access.Login) error {
	l.Peer, l.Client = s.conn.RemoteAddr().Addr(), s.origin.Client.Addr()
	l.TLS, l.Generation, l.Protocol = s.secure(), s.origin.Generation, "managesieve"
	granted, err := s.srv.gate.Login(ctx, l)
	if answer := (*access.ProbeError)(nil); errors.As(err, &answer) {
		s.probed = true
		s.no("", answer.String())
		return nil
	}
	if err != nil {
		return s.refused(err)
	}
	s.user, s.proxied, s.badCommands = granted.User, granted.Proxied, 0
	s.conn.SetDeadline(time.Time{})
	s.conn.SetIdle(s.srv.o.Idle)
	s.ok("logged in")
	return nil
}

// refused answers a failed login. "No" and "not now" are kept apart; only "no"
// counts towards the end of the session.
func (s *session) refused(err error) error {
	var status *access.StatusError
	switch {
	case errors.As(err, &status):
		s.no("", fmt.Sprintf("account is %s", status.Status))
	case errors.Is(err, backend.ErrMoved):
		s.no(movedCode, "account lives elsewhere")
		return nil
	case lookup.AnswerOf(err) == lookup.AnswerRejected, lookup.AnswerOf(err) == lookup.AnswerAbsent:
		s.no("", "wrong name or password")
	default:
		s.no("TRYLATER", "not possible now")
		if !errors.Is(err, lookup.ErrUnavailable) && !errors.Is(err, backend.ErrBusy) {
			s.srv.o.Logger.Error("login failed", zap.String("session", s.origin.Session), zap.Error(err))
		}
		return nil
	}
	if s.badLogins++; s.badLogins >= maxBadLogins {
		return errTooMany
	}
	return nil
}

// movedCode tells a proxy to look the account up again. Others read the part
// before the slash (RFC 5804 §1.3).
const movedCode = "TRYLATER/MOVED"
