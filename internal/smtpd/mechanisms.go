package smtpd

import (
	"context"
	"errors"
	"slices"

	"switchyard/internal/wire"
)

// Mechanist is an Authenticator with mechanisms of its own, in the place of PLAIN
// and LOGIN.
type Mechanist interface {
	Authenticator

	// Mechanisms are those that a client may use now, in the order in which they
	// are offered. It is asked at EHLO and at each AUTH.
	Mechanisms() []string

	// Exchange goes through one of them; next sends a challenge and returns the
	// response, and the initial response first, if there was one. What it
	// returns is taken as Auth's; an error of next's own is next's to answer. An
	// error for which errors.Is(err, wire.ErrSASL) holds is a message that makes
	// no sense (501).
	Exchange(ctx context.Context, mechanism string, next func(challenge []byte) ([]byte, error)) error
}

// Offerer is a Session that knows better than this package what may be offered
// behind the login: because another server will answer then.
type Offerer interface {
	// Offers returns the keywords of EHLO, with their parameters, without
	// STARTTLS, AUTH and XCLIENT.
	Offers() []string
}

// offered is what AUTH offers now.
func (c *Conn) offered() []string {
	if c.mechanist != nil {
		return c.mechanist.Mechanisms()
	}
	return mechanisms[:]
}

// mechanisms lets the session go through a mechanism. broken is why the exchange
// came to no end.
func (c *Conn) mechanisms(ctx context.Context, mechanism, initial string, hasInitial bool) (broken, err error) {
	if !slices.Contains(c.mechanist.Mechanisms(), mechanism) {
		return errMechanism, nil
	}
	err = c.mechanist.Exchange(ctx, mechanism, func(challenge []byte) ([]byte, error) {
		var message []byte
		message, broken = c.message(ctx, string(challenge), initial, hasInitial)
		initial, hasInitial = "", false
		return message, broken
	})
	if broken == nil && errors.Is(err, wire.ErrSASL) {
		broken = err
	}
	return broken, err
}
