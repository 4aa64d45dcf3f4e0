package smtp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"switchyard/internal/smtpd"
	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/sasl"
	"switchyard/router/upstream"
)

const (
	// maxRounds bounds the challenges of a relayed exchange: SCRAM has two.
	maxRounds = 4

	// relayTimeout bounds a relayed exchange from the backend's first challenge
	// on. The client's own time before login is bounded too.
	relayTimeout = 30 * time.Second
)

// submissionLogin is one login on a backend for a user: as the proxy, with the
// user's own password, or by passing on what client and backend say to each
// other.
type submissionLogin struct {
	f     *submission
	login *router.Login
}

// run implements router.LoginFunc.
func (l *submissionLogin) run(ctx context.Context, rb *router.Back, account lookup.Account) error {
	b := &back{Back: rb, s: l.f.s, hail: "EHLO"}
	if err := b.greeting(ctx); err != nil {
		return err
	}
	o := l.f.s.Origin(account.Generation)
	o.HELO = l.f.conn.Hello()
	plain, line := l.credentials(b, account)
	r, err := b.identify(o, line)
	if err != nil {
		return err
	}
	b.Learn(b.offers, false)
	if r == nil {
		answer, err := l.authenticate(b, plain)
		if err != nil {
			return err
		}
		r = &answer
	}
	return l.outcome(b, *r)
}

// credentials is what to log in with, and a line that says all of it, where there
// can be one.
func (l *submissionLogin) credentials(b *back, account lookup.Account) (c credentials, line string) {
	if l.login.Relay() != nil {
		return credentials{}, ""
	}
	if c.plain, c.err = l.login.Credentials(b.Back, account); c.err != nil {
		return c, ""
	}
	if c.message, c.err = c.plain.Message(); c.err != nil {
		c.err = fmt.Errorf("log in on the backend: %w", c.err)
		return c, ""
	}
	if !containsWord(b.offers["AUTH"], "PLAIN") {
		return c, ""
	}
	return c, plainLine(c.message)
}

// credentials is what a login on a backend takes; not a relayed one.
type credentials struct {
	plain   wire.Plain
	message []byte // PLAIN's
	err     error  // why there are none
}

func (l *submissionLogin) authenticate(b *back, c credentials) (smtpd.Reply, error) {
	if r := l.login.Relay(); r != nil {
		return relay(b, r)
	}
	offered := b.offers["AUTH"]
	switch {
	case errors.Is(c.err, upstream.ErrNoPassword):
		return smtpd.Reply{}, b.blame("backend wants the client's own password, and the client has logged in without one: give the backend a master user, or the client's accounts another home", "no password to pass on")
	case errors.Is(c.err, upstream.ErrNoSecret):
		return smtpd.Reply{}, b.blame("no proxy secret is configured: set it here and on the backends", "no proxy secret")
	case c.err != nil:
		return smtpd.Reply{}, c.err
	case c.plain.Authzid == "" && !containsWord(offered, "PLAIN") && containsWord(offered, "LOGIN"):
		return stepwise(b, "AUTH LOGIN", c.plain.Authcid, c.plain.Password)
	}
	return b.authenticate(c.message)
}

// stepwise sends a command and, as long as it is asked for more, messages.
func stepwise(b *back, command string, messages ...string) (smtpd.Reply, error) {
	r, err := b.ask(command)
	for _, message := range messages {
		if err != nil || r.Code != 334 {
			return r, err
		}
		b.Conn.WriteString(wire.EncodeSASL([]byte(message)) + "\r\n")
		r, err = b.reply("AUTH") // the step must not name the secret
	}
	return r, err
}

// relay goes on with a client's exchange on the backend: each message is passed
// on as it is, and the backend judges.
func relay(b *back, r *sasl.Relay) (smtpd.Reply, error) {
	switch offered := b.offers["AUTH"]; {
	case r.Begun:
		return smtpd.Reply{}, fmt.Errorf("%w: an exchange that has begun cannot go on elsewhere", router.ErrBackend)
	case !containsWord(offered, r.Mechanism), containsWord(offered, r.Mechanism+"-PLUS"):
		return smtpd.Reply{}, b.blame("backend does not offer a mechanism any more that is relayed to it, or offers it with -PLUS too: give all nodes the same mechanisms", "cannot relay "+r.Mechanism)
	}
	reply, err := passOn(b, r)
	if err != nil && r.Begun {
		err = router.Final(err)
	}
	return reply, err
}

func passOn(b *back, r *sasl.Relay) (smtpd.Reply, error) {
	var reply smtpd.Reply
	var err error
	if line := "AUTH " + r.Mechanism + " " + wire.EncodeSASL(r.First); len(line) <= maxInitial {
		reply, err = b.ask(line)
	} else {
		reply, err = stepwise(b, "AUTH "+r.Mechanism, string(r.First))
	}
	for range maxRounds {
		if err != nil || reply.Code != 334 {
			return reply, err
		}
		challenge, err := wire.DecodeSASL([]byte(reply.Text))
		if err != nil {
			return reply, fmt.Errorf("%w: AUTH: a challenge that is not base64", router.ErrBackend)
		}
		if !r.Begun {
			// The backend has done its part, and must not be held to the
			// client's pace.
			b.Served()
			b.Conn.SetDeadline(time.Now().Add(relayTimeout))
		}
		response, err := r.Respond(challenge)
		if err != nil {
			return reply, err
		}
		line := ""
		if len(response) > 0 {
			line = wire.EncodeSASL(response)
		}
		b.Conn.WriteString(line + "\r\n")
		if reply, err = b.reply("AUTH"); err != nil {
			return reply, err
		}
	}
	return reply, fmt.Errorf("%w: AUTH: more than %d challenges", router.ErrBackend, maxRounds)
}

// outcome reads the answer to the login.
func (l *submissionLogin) outcome(b *back, r smtpd.Reply) error {
	switch {
	case r.Code == 235:
		return nil
	case r.Enhanced == "4.1.6":
		if node, owned := ownerIn(r.Text); owned {
			return &router.OwnerError{Node: node}
		}
		return router.ErrMoved
	case r.Enhanced == "5.7.13":
		return router.NewRefused(r.Text)
	case r.Code == 535 && l.login.Judged():
		return fmt.Errorf("%w: by the backend", lookup.ErrRejected)
	case r.Code == 535 && b.Policy().Forward:
		return b.blame("backend refuses a password that the directory has found right: the two must know the same passwords, or leave them to the backend (unchecked)",
			"the client's password is refused: "+clip(r.Error()))
	case r.Permanent():
		return b.noProxy(r)
	default:
		return fmt.Errorf("%w: AUTH: %s", router.ErrBackend, clip(r.Error()))
	}
}

// ownerIn reads [X-OWNER node] at the start of a reply's text.
func ownerIn(text string) (node string, found bool) {
	inner, _, found := strings.Cut(text, "]")
	if node, ok := strings.CutPrefix(inner, "[X-OWNER "); ok && found {
		return node, true
	}
	return "", false
}
