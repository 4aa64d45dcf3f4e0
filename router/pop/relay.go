package pop

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

// relay goes on with a client's exchange on the backend: each message is passed
// on as it is, and the backend judges.
func (l *login) relay(account lookup.Account, r *sasl.Relay) error {
	if r.Begun {
		return fmt.Errorf("%w: an exchange that has begun cannot go on elsewhere", router.ErrBackend)
	}
	err := l.exchange(account, r)
	if err != nil && r.Begun {
		return router.Final(err)
	}
	return err
}

func (l *login) exchange(account lookup.Account, r *sasl.Relay) error {
	response := wire.EncodeSASL(r.First)
	command := "AUTH " + r.Mechanism + " " + response
	stepwise := len(command) > maxInitial
	if stepwise {
		command = "AUTH " + r.Mechanism
	}
	if err := l.begin(account, command); err != nil {
		return err
	}
	if stepwise {
		if _, done, err := l.challenge(); done {
			return err
		}
		if err := l.b.Conn.Line("%s", response); err != nil {
			return l.failed("AUTH", err)
		}
	}
	for range maxRounds {
		text, done, err := l.challenge()
		if done {
			return err
		}
		challenge, err := wire.DecodeSASL([]byte(text))
		if err != nil {
			return l.rubbish("AUTH", "a challenge that is not base64")
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
		if err := l.b.Conn.Line("%s", line); err != nil {
			return l.failed("AUTH", err)
		}
	}
	return fmt.Errorf("%w: AUTH: more than %d challenges", router.ErrBackend, maxRounds)
}

// challenge reads a request to go on and returns its text. done says that the
// answer to the login came instead: it has ended as err says.
func (l *login) challenge() (text string, done bool, err error) {
	line, err := l.readLine("AUTH")
	if err != nil {
		return "", true, err
	}
	if strings.HasPrefix(line, "+") && !strings.HasPrefix(line, "+OK") {
		return strings.TrimPrefix(line[1:], " "), false, nil
	}
	r, err := l.parse("AUTH", line)
	if err != nil {
		return "", true, err
	}
	return "", true, l.outcome(r)
}
