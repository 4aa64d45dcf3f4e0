package imap

import (
	"context"
	"errors"
	"slices"
	"strings"

	"switchyard/internal/wire"
)

// authenticate answers AUTHENTICATE (RFC 9051 §6.2.2, RFC 4959).
func (f *front) authenticate(ctx context.Context, c *command) error {
	mechanism, ok := c.args.atom()
	initial, hasInitial := c.args.spaceWord()
	if !ok || !c.args.end() {
		return c.wrong("AUTHENTICATE takes a mechanism and at most an initial response")
	}
	mechanism = strings.ToUpper(mechanism)
	switch {
	case !f.s.MayLogin():
		return f.private(c)
	case !slices.Contains(f.s.Mechanisms(), mechanism):
		return f.conn.Line("%s NO Mechanism is not supported", c.tag)
	}
	x := exchange{f: f, c: c, initial: initial, hasInitial: hasInitial}
	l, err := f.s.Authenticate(ctx, mechanism, x.next)
	switch {
	case x.broken != nil:
		return x.broken
	case errors.Is(err, wire.ErrSASL):
		return c.wrong("Malformed " + mechanism + " message")
	case err != nil:
		return f.refuse(ctx, c, err)
	}
	return f.enter(ctx, c, l, &x)
}

// exchange is one AUTHENTICATE command's challenges and responses.
type exchange struct {
	f          *front
	c          *command
	initial    string
	hasInitial bool
	broken     error // why the exchange came to no end: the client's mistake, or the connection's
}

// next is a sasl.Next.
func (x *exchange) next(challenge []byte) ([]byte, error) {
	message, err := x.read(challenge)
	if err != nil {
		x.broken = err
	}
	return message, err
}

func (x *exchange) read(challenge []byte) ([]byte, error) {
	line := []byte(x.initial)
	if !x.hasInitial {
		encoded := ""
		if len(challenge) > 0 {
			encoded = wire.EncodeSASL(challenge)
		}
		if err := x.f.conn.Line("+ %s", encoded); err != nil {
			return nil, err
		}
		var err error
		if line, err = x.f.conn.ReadLine(maxCommand); err != nil {
			return nil, err
		}
		if string(line) == "*" {
			return nil, x.c.wrong("AUTHENTICATE cancelled")
		}
	}
	x.hasInitial = false
	message, err := wire.DecodeSASL(line)
	if err != nil {
		return nil, x.c.wrong("Malformed SASL message")
	}
	return message, nil
}
