package pop

import (
	"context"

	"switchyard/internal/wire"
)

// exchange is one AUTH command's challenges and responses.
type exchange struct {
	f          *front
	initial    string
	hasInitial bool
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
// once.
func (x *exchange) next(challenge string) ([]byte, error) {
	line := []byte(x.initial)
	if !x.hasInitial {
		encoded := ""
		if challenge != "" {
			encoded = wire.EncodeSASL([]byte(challenge))
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
