package imap

import (
	"fmt"
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

// relay goes on with a client's exchange on the backend: each message is passed
// on as it is, and the backend judges.
func (l *backLogin) relay(account lookup.Account, r *sasl.Relay) error {
	switch {
	case r.Begun:
		return fmt.Errorf("%w: an exchange that has begun cannot go on elsewhere", router.ErrBackend)
	case !l.caps.Has("AUTH=" + r.Mechanism), l.caps.Has("AUTH=" + r.Mechanism + "-PLUS"):
		return l.blame("backend does not offer a mechanism any more that is relayed to it, or offers it with -PLUS too: give all nodes the same mechanisms", "cannot relay "+r.Mechanism)
	}
	err := l.exchange(account, r)
	if err != nil && r.Begun {
		return router.Final(err)
	}
	return err
}

func (l *backLogin) exchange(account lookup.Account, r *sasl.Relay) error {
	conn := l.b.Conn
	l.identify(account)
	if l.caps.Has("SASL-IR") {
		conn.Printf("L AUTHENTICATE %s %s\r\n", r.Mechanism, wire.EncodeSASL(r.First))
	}
	if err := l.identified(); err != nil {
		return err
	}
	if !l.caps.Has("SASL-IR") {
		conn.Printf("L AUTHENTICATE %s\r\n", r.Mechanism)
		if err := conn.Flush(); err != nil {
			return l.failed("AUTHENTICATE", err)
		}
		if _, done, err := l.challenge(); done {
			return err
		}
		conn.Printf("%s\r\n", wire.EncodeSASL(r.First))
	}
	l.caps = nil
	for range maxRounds {
		if err := conn.Flush(); err != nil {
			return l.failed("AUTHENTICATE", err)
		}
		text, done, err := l.challenge()
		if done {
			return err
		}
		challenge, err := wire.DecodeSASL([]byte(text))
		if err != nil {
			return l.rubbish("AUTHENTICATE", "a challenge that is not base64")
		}
		if !r.Begun {
			// The backend has done its part, and must not be held to the
			// client's pace.
			l.b.Served()
			conn.SetDeadline(time.Now().Add(relayTimeout))
		}
		response, err := r.Respond(challenge)
		if err != nil {
			return err
		}
		line := ""
		if len(response) > 0 {
			line = wire.EncodeSASL(response)
		}
		conn.Printf("%s\r\n", line)
	}
	return fmt.Errorf("%w: AUTHENTICATE: more than %d challenges", router.ErrBackend, maxRounds)
}
