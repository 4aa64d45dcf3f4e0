package smtpd

import (
	"context"
	"errors"
	"strings"
	"time"

	"switchyard/internal/wire"
)

// mechanisms are what AUTH offers (RFC 4616; LOGIN is an expired draft that
// many clients speak).
var mechanisms = [...]string{"PLAIN", "LOGIN"}

var (
	errCancelled = errors.New("authentication cancelled")
	errLongSASL  = errors.New("authentication line too long")
)

// mayAuth reports whether a password may be sent on this connection.
func (c *Conn) mayAuth() bool {
	return c.authenticator != nil && (c.TLS() || c.o.AllowCleartextAuth) && len(c.offered()) > 0
}

func (c *Conn) auth(ctx context.Context, arg string) error {
	switch {
	case c.authenticator == nil:
		return c.mistake(502, "5.5.1", "AUTH is not offered")
	case c.hello == "":
		return c.mistake(503, "5.5.1", "say "+c.hailing()+" first")
	case c.authed:
		return c.mistake(503, "5.5.1", "authenticated already")
	case c.open:
		return c.mistake(503, "5.5.1", "not within a transaction")
	case !c.mayAuth():
		return c.mistake(538, "5.7.11", "encryption required, say STARTTLS first") // RFC 4954 §4
	}
	mechanism, initial, hasInitial := strings.Cut(arg, " ")
	mechanism = strings.ToUpper(mechanism)
	if c.mechanist != nil {
		broken, err := c.mechanisms(ctx, mechanism, initial, hasInitial)
		if broken != nil {
			return c.unclear(broken)
		}
		return c.settle(ctx, err)
	}
	cred, err := c.exchange(ctx, mechanism, initial, hasInitial)
	if err != nil {
		return c.unclear(err)
	}
	return c.settle(ctx, c.authenticator.Auth(ctx, cred))
}

// unclear answers an exchange that came to no end. It returns the connection's
// own error as it is.
func (c *Conn) unclear(err error) error {
	switch {
	case errors.Is(err, errMechanism):
		return c.mistake(504, "5.5.4", "mechanism is not offered")
	case errors.Is(err, errCancelled):
		return c.mistake(501, "5.7.0", errCancelled.Error())
	case errors.Is(err, errLongSASL):
		return c.mistake(500, "5.5.6", errLongSASL.Error())
	case errors.Is(err, wire.ErrSASL):
		return c.mistake(501, "5.5.2", err.Error())
	}
	return err
}

// settle answers a login.
func (c *Conn) settle(ctx context.Context, err error) error {
	if errors.Is(err, ErrTakeOver) {
		return ErrTakeOver
	}
	if ctx.Err() != nil && err != nil {
		return context.Cause(ctx)
	}
	if c.decide(err, Reply{235, "2.7.0", "authentication succeeded"}) {
		c.authed = true
		if c.o.RequireAuth && c.o.LoginTimeout > 0 {
			c.wire.SetDeadline(time.Time{})
		}
		return nil
	}
	if errors.Is(err, ErrAuthFailures) {
		return ErrAuthFailures
	}
	if ReplyOf(err).Permanent() {
		if c.failures++; c.failures >= c.o.MaxAuthFailures {
			return ErrAuthFailures
		}
	}
	return nil
}

var errMechanism = errors.New("unknown mechanism")

// exchange speaks a mechanism's part of the dialogue.
func (c *Conn) exchange(ctx context.Context, mechanism, initial string, hasInitial bool) (cred Credentials, err error) {
	cred.Mechanism = mechanism
	switch mechanism {
	case "PLAIN":
		message, err := c.message(ctx, "", initial, hasInitial)
		if err != nil {
			return cred, err
		}
		p, err := wire.ParsePlain(message)
		cred.Authzid, cred.Username, cred.Password = p.Authzid, p.Authcid, p.Password
		return cred, err
	case "LOGIN":
		name, err := c.message(ctx, "Username:", initial, hasInitial)
		if err != nil {
			return cred, err
		}
		password, err := c.message(ctx, "Password:", "", false)
		cred.Username, cred.Password = string(name), string(password)
		return cred, err
	default:
		return cred, errMechanism
	}
}

// message returns the client's next SASL message: the initial response, or
// what it answers to a challenge.
func (c *Conn) message(ctx context.Context, challenge, initial string, hasInitial bool) ([]byte, error) {
	if hasInitial {
		return wire.DecodeSASL([]byte(initial))
	}
	encoded := ""
	if challenge != "" {
		encoded = wire.EncodeSASL([]byte(challenge))
	}
	c.wire.WriteString("334 " + encoded + "\r\n")
	if err := c.flush(ctx); err != nil {
		return nil, err
	}
	line, err := c.wire.ReadLine(maxInput)
	switch {
	case err != nil:
		return nil, err
	case string(line) == "*":
		return nil, errCancelled
	case len(line) > wire.MaxSASL:
		return nil, errLongSASL
	}
	return wire.DecodeSASL(line)
}
