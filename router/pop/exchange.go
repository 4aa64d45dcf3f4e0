package pop

import (
	"context"
	"errors"
	"slices"
	"strings"

	"switchyard/internal/wire"
)

// auth answers AUTH (RFC 5034). Without arguments it lists the mechanisms, as
// clients from before RFC 2449 expect.
func (f *front) auth(ctx context.Context, args string) error {
	mechanism, initial, hasInitial := strings.Cut(args, " ")
	mechanism = strings.ToUpper(mechanism)
	switch {
	case mechanism == "":
		f.conn.WriteString("+OK\r\n")
		for _, mechanism := range f.s.Mechanisms() {
			f.conn.Printf("%s\r\n", mechanism)
		}
		return f.conn.Line(".")
	case !f.s.MayLogin():
		return f.private()
	case !slices.Contains(f.s.Mechanisms(), mechanism):
		return f.conn.Line("-ERR Mechanism is not supported")
	}
	x := exchange{f: f, initial: initial, hasInitial: hasInitial}
	l, err := f.s.Authenticate(ctx, mechanism, x.next)
	switch {
	case x.broken != nil:
		return x.broken
	case errors.Is(err, wire.ErrSASL):
		return f.wrong("Malformed %s message", mechanism)
	case err != nil:
		return f.refuse(ctx, err)
	}
	return f.enter(ctx, l, &x)
}

// exchange is one AUTH command's challenges and responses.
type exchange struct {
	f          *front
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
		if line, err = x.f.conn.ReadLine(maxLine); err != nil {
			return nil, err
		}
		if string(line) == "*" {
			return nil, x.f.wrong("AUTH cancelled")
		}
	}
	x.hasInitial = false
	message, err := wire.DecodeSASL(line)
	if err != nil {
		return nil, x.f.wrong("Malformed SASL message")
	}
	return message, nil
}
