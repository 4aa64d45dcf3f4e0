package sieve

import (
	"fmt"
	"strings"
	"time"

	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/sasl"
)

const (
	// maxRounds bounds the challenges of a relayed exchange: SCRAM has two.
	maxRounds = 4

	// relayTimeout bounds a relayed exchange from the backend's first challenge
	// on. The client's own time before login is bounded too.
	relayTimeout = 30 * time.Second
)

// offers reports whether the backend offers a mechanism.
func (l *login) offers(mechanism string) bool {
	return strings.Contains(" "+strings.ToUpper(l.caps["SASL"])+" ", " "+mechanism+" ")
}

// relay goes on with a client's exchange on the backend: each message is passed
// on as it is, and the backend judges.
func (l *login) relay(account lookup.Account, r *sasl.Relay) error {
	switch {
	case r.Begun:
		return fmt.Errorf("%w: an exchange that has begun cannot go on elsewhere", router.ErrBackend)
	case !l.offers(r.Mechanism), l.offers(r.Mechanism + "-PLUS"):
		return l.blame("backend does not offer a mechanism any more that is relayed to it, or offers it with -PLUS too: give all nodes the same mechanisms", "cannot relay "+r.Mechanism)
	}
	err := l.passOn(account, r)
	if err != nil && r.Begun {
		return router.Final(err)
	}
	return err
}

func (l *login) passOn(account lookup.Account, r *sasl.Relay) error {
	if err := l.begin(account, r.Mechanism, wire.EncodeSASL(r.First)); err != nil {
		return err
	}
	for range maxRounds {
		tokens, err := l.tokens("AUTHENTICATE")
		if err != nil {
			return err
		}
		if len(tokens) != 1 || tokens[0].kind != text {
			answer, err := l.parse("AUTHENTICATE", tokens)
			if err != nil {
				return err
			}
			if answer.code == "SASL" && answer.word == "OK" && r.Begun {
				// The last challenge comes with the OK (RFC 5804 §2.1); to the
				// client it goes as any other.
				if err := l.last(r, answer.argument); err != nil {
					return err
				}
			}
			return l.outcome(answer)
		}
		challenge, err := wire.DecodeSASL([]byte(tokens[0].text))
		if err != nil {
			return l.failed("AUTHENTICATE", wire.ErrSASL)
		}
		if !r.Begun {
			// The backend has done its part, and must not be held to the
			// client's pace.
			l.b.Served()
			l.b.Conn.SetDeadline(time.Now().Add(relayTimeout))
		}
		answer, err := r.Respond(challenge)
		if err != nil {
			return err
		}
		line := ""
		if len(answer) > 0 {
			line = wire.EncodeSASL(answer)
		}
		if err := l.send("", line); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: AUTHENTICATE: more than %d challenges", router.ErrBackend, maxRounds)
}

// last passes the server's proof on.
func (l *login) last(r *sasl.Relay, encoded string) error {
	proof, err := wire.DecodeSASL([]byte(encoded))
	if err != nil {
		return l.failed("AUTHENTICATE", wire.ErrSASL)
	}
	_, err = r.Respond(proof)
	return err
}

// send writes a command's beginning, and a SASL message as a string: quoted, or as
// a literal when it is too long for that.
func (l *login) send(command, message string) error {
	form := "%s\"%s\""
	args := []any{command, message}
	if len(message) > maxQuoted {
		form, args = "%s{%d+}\r\n%s", []any{command, len(message), message}
	}
	if err := l.b.Conn.Line(form, args...); err != nil {
		return l.failed("AUTHENTICATE", err)
	}
	return nil
}
