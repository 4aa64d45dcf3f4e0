package sieve

import (
	"context"
	"errors"

	"switchyard/internal/wire"
)

// exchange is one AUTHENTICATE command's challenges and responses.
type exchange struct {
	f       *front
	initial []token // none or one
}

// plain is the mechanism PLAIN (RFC 4616).
func (x *exchange) plain(ctx context.Context) error {
	message, err := x.next("")
	if err != nil {
		return err
	}
	p, err := wire.ParsePlain(message)
	if err != nil {
		return x.f.wrong("Malformed PLAIN message")
	}
	return x.f.enter(ctx, p.Authzid, p.Authcid, p.Password)
}

// login is the mechanism LOGIN, which no standard describes: the server asks
// for the name and for the password.
func (x *exchange) login(ctx context.Context) error {
	user, err := x.next("Username:")
	if err != nil {
		return err
	}
	password, err := x.next("Password:")
	if err != nil {
		return err
	}
	return x.f.enter(ctx, "", string(user), string(password))
}

// next sends a challenge and reads the response, or takes the initial response,
// once. Both are strings, quoted or literal (RFC 5804 §2.1).
func (x *exchange) next(challenge string) ([]byte, error) {
	if len(x.initial) == 0 {
		encoded := ""
		if challenge != "" {
			encoded = wire.EncodeSASL([]byte(challenge))
		}
		if err := x.f.conn.Line("%s", quote(encoded)); err != nil {
			return nil, err
		}
		line, err := x.f.conn.ReadLine(maxCommand)
		if err != nil {
			return nil, err
		}
		x.initial, err = readTokens(x.f.conn, line, maxCommand, true)
		switch {
		case errors.Is(err, errSyntax), err == nil && (len(x.initial) != 1 || x.initial[0].kind != text):
			return nil, x.f.wrong("A response is one string")
		case err != nil:
			return nil, err
		case x.initial[0].text == "*":
			return nil, x.f.wrong("AUTHENTICATE cancelled")
		}
	}
	encoded := x.initial[0].text
	x.initial = nil
	message, err := wire.DecodeSASL([]byte(encoded))
	if err != nil {
		return nil, x.f.wrong("Malformed SASL message")
	}
	return message, nil
}
