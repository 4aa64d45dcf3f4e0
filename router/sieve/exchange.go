package sieve

import (
	"context"
	"errors"
	"slices"
	"strings"

	"switchyard/internal/wire"
	"switchyard/router"
	"switchyard/router/upstream"
)

// authenticate answers AUTHENTICATE (RFC 5804 §2.1).
func (f *front) authenticate(ctx context.Context, args []token) error {
	if len(args) < 1 || len(args) > 2 {
		return f.wrong("AUTHENTICATE takes a mechanism and perhaps a response")
	}
	mechanism := strings.ToUpper(args[0].text)
	switch {
	case !f.s.MayLogin():
		return f.conn.Line(`NO (ENCRYPT-NEEDED) "Passwords need TLS here"`)
	case !slices.Contains(f.s.Mechanisms(), mechanism):
		return f.wrong("Mechanism is not supported")
	}
	x := exchange{f: f, initial: args[1:]}
	l, err := f.s.Authenticate(ctx, mechanism, x.next)
	switch {
	case x.broken != nil:
		return x.broken
	case errors.Is(err, wire.ErrSASL):
		return f.wrong("Malformed " + mechanism + " message")
	case err != nil:
		return f.refuse(ctx, err)
	}
	return f.enter(ctx, l, &x)
}

// enter opens the session on the backend and joins it. x is the exchange that the
// backend may go on with.
func (f *front) enter(ctx context.Context, who *router.Login, x *exchange) error {
	l := &login{p: f.p, s: f.s, who: who}
	b, err := f.s.Enter(ctx, who, upstream.ManageSieve, l.run)
	switch {
	case x.broken != nil:
		return x.broken
	case err != nil:
		return f.refuse(ctx, err)
	}
	defer b.Close()
	f.conn.Printf("OK %s\r\n", quote(l.welcome))
	f.quiet = true
	if err := f.s.Join(ctx, b); err != nil {
		return err
	}
	return errOver
}

// exchange is one AUTHENTICATE command's challenges and responses.
type exchange struct {
	f       *front
	initial []token // none or one
	broken  error   // why the exchange came to no end: the client's mistake, or the connection's
}

// next is a sasl.Next.
func (x *exchange) next(challenge []byte) ([]byte, error) {
	message, err := x.read(challenge)
	if err != nil {
		x.broken = err
	}
	return message, err
}

// read sends a challenge and reads the response, or takes the initial response,
// once. Both are strings, quoted or literal (RFC 5804 §2.1).
func (x *exchange) read(challenge []byte) ([]byte, error) {
	if len(x.initial) == 0 {
		encoded := ""
		if len(challenge) > 0 {
			encoded = wire.EncodeSASL(challenge)
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
