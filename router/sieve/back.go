package sieve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"switchyard/internal/origin"
	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/upstream"

	"go.uber.org/zap"
)

const (
	// maxResponse bounds a response of the backend before login, literals
	// included. The list of extensions is the longest that comes.
	maxResponse = 8 << 10

	// maxCapabilities bounds the lines of a capability list.
	maxCapabilities = 50
)

// login is one login on a backend for a user: as the proxy, with the user's own
// password, or by passing on what client and backend say to each other. Identity
// and login travel in one write.
type login struct {
	p       *Protocol
	s       *router.Session
	who     *router.Login
	welcome string // the text that greets the logged-in user

	b    *router.Back
	caps map[string]string // by upper-case name
}

// run implements router.LoginFunc.
func (l *login) run(ctx context.Context, b *router.Back, account lookup.Account) error {
	*l = login{p: l.p, s: l.s, who: l.who, b: b}
	if err := l.capabilities("greeting"); err != nil {
		return err
	}
	if b.WantsStartTLS() {
		if err := l.startTLS(ctx); err != nil {
			return err
		}
	}
	l.p.learn(b.Backend, readOffer(l.caps))
	b.Learn(maps.Clone(l.caps), false)
	if r := l.who.Relay(); r != nil {
		return l.relay(account, r)
	}
	// Pigeonhole lists no mechanism when it wants TLS.
	if !l.offers("PLAIN") {
		return l.blame("backend offers no SASL PLAIN: it wants TLS for it, so set the node's tls to starttls or implicit", "no SASL PLAIN")
	}
	return l.authenticate(account)
}

// startTLS upgrades the connection. The server sends its list anew behind the
// handshake (RFC 5804 §2.2); the one before counts for nothing.
func (l *login) startTLS(ctx context.Context) error {
	if _, offered := l.caps["STARTTLS"]; !offered {
		return l.blame("backend does not offer STARTTLS: give it a certificate, or change the node's tls", "no STARTTLS")
	}
	if err := l.b.Conn.Line("STARTTLS"); err != nil {
		return l.failed("STARTTLS", err)
	}
	r, err := l.response("STARTTLS")
	if err != nil {
		return err
	}
	if r.word != "OK" {
		return l.blame("backend refuses STARTTLS: give it a certificate, or change the node's tls", "STARTTLS refused")
	}
	if err := l.b.StartTLS(ctx); err != nil {
		return l.failed("TLS handshake", err)
	}
	return l.capabilities("list behind TLS")
}

// capabilities reads a list and the OK behind it.
func (l *login) capabilities(step string) error {
	l.caps = make(map[string]string)
	for range maxCapabilities {
		tokens, err := l.tokens(step)
		if err != nil {
			return err
		}
		if len(tokens) > 0 && tokens[0].kind == text {
			value := ""
			if len(tokens) > 1 {
				value = tokens[1].text
			}
			l.caps[strings.ToUpper(tokens[0].text)] = value
			continue
		}
		r, err := l.parse(step, tokens)
		if err == nil && r.word != "OK" {
			err = fmt.Errorf("%w: %s: %s %s", router.ErrBackend, step, r.word, clip(r.text))
		}
		return err
	}
	return fmt.Errorf("%w: %s: more than %d capabilities", router.ErrBackend, step, maxCapabilities)
}

// authenticate says who the client is and logs in, in the backend's way.
func (l *login) authenticate(account lookup.Account) error {
	plain, err := l.who.Credentials(l.b, account)
	switch {
	case errors.Is(err, upstream.ErrNoPassword):
		return l.blame("backend wants the client's own password, and the client has logged in without one: give the backend a master user, or the client's accounts another home", "no password to pass on")
	case err != nil:
		return l.blame("no proxy secret is configured: set it here and on the backends", "no proxy secret")
	}
	message, err := plain.Message()
	if err != nil {
		return fmt.Errorf("log in on the backend: %w", err)
	}
	if err := l.begin(account, "PLAIN", wire.EncodeSASL(message)); err != nil {
		return err
	}
	r, err := l.response("AUTHENTICATE")
	if err != nil {
		return err
	}
	return l.outcome(r)
}

// begin sends AUTHENTICATE, and who the client is in front of it, in one write.
func (l *login) begin(account lookup.Account, mechanism, response string) error {
	_, identify := l.caps["XCLIENT"]
	if identify {
		l.b.Conn.Printf("XCLIENT %s\r\n", l.s.Origin(account.Generation).XCLIENT(origin.POP3, nil))
	}
	if err := l.send(fmt.Sprintf("AUTHENTICATE %q ", mechanism), response); err != nil {
		return err
	}
	if identify {
		return l.identified()
	}
	return nil
}

// identified reads the answer to XCLIENT. A backend that does not want it gets no
// identity, which is worth a warning but no failure.
func (l *login) identified() error {
	r, err := l.response("XCLIENT")
	switch {
	case err != nil:
		return err
	case r.word == "BYE":
		return fmt.Errorf("%w: XCLIENT: BYE %s", router.ErrBackend, clip(r.text))
	case r.word != "OK":
		l.s.Log.Warn("backend refuses the client's identity", zap.String("node", l.b.Node), zap.String("reason", clip(r.text)))
	}
	return nil
}

// outcome reads the answer to the login.
func (l *login) outcome(r response) error {
	if r.word == "OK" {
		if l.welcome = r.text; l.welcome == "" {
			l.welcome = "Logged in"
		}
		return nil
	}
	switch r.code {
	case "TRYLATER/MOVED", "REFERRAL":
		// Where a referral leads is the directory's to say: it is looked up
		// again.
		return router.ErrMoved
	case "TRYLATER/OWNER":
		return &router.OwnerError{Node: r.text}
	case "":
		switch {
		case r.word == "BYE":
			return fmt.Errorf("%w: login: BYE %s", router.ErrBackend, clip(r.text))
		case l.who.Judged():
			return fmt.Errorf("%w: by the backend", lookup.ErrRejected)
		case l.b.Policy().Forward:
			return l.blame("backend refuses a password that the directory has found right: the two must know the same passwords, or leave them to the backend (unchecked)",
				"the client's password is refused: "+clip(r.text))
		}
		// It is the proxy that the backend does not know, not the user.
		fallthrough
	case "AUTH-TOO-WEAK", "ENCRYPT-NEEDED", "TRANSITION-NEEDED":
		return l.blame("backend refuses the proxy's login: proxy name and secret must be the same on both, the proxy's address must be in the backend's proxy networks, and the connection must use TLS",
			"the proxy's login is refused: "+clip(r.text))
	}
	return fmt.Errorf("%w: login: %s (%s) %s", router.ErrBackend, r.word, clip(r.code), clip(r.text))
}

// response is a line that begins with OK, NO or BYE.
type response struct {
	word string
	code string // the response code's name, upper case
	text string

	argument string // the code's first string
}

func (l *login) response(step string) (response, error) {
	tokens, err := l.tokens(step)
	if err != nil {
		return response{}, err
	}
	return l.parse(step, tokens)
}

func (l *login) tokens(step string) ([]token, error) {
	line, err := l.b.Conn.ReadLine(maxResponse)
	if err != nil {
		return nil, l.failed(step, err)
	}
	first := clip(string(line)) // before what is behind it is read
	tokens, err := readTokens(l.b.Conn, line, maxResponse, false)
	if errors.Is(err, errSyntax) {
		return nil, l.rubbish(step, first)
	}
	if err != nil {
		return nil, l.failed(step, err)
	}
	return tokens, nil
}

// parse takes a response apart (RFC 5804 §4, response-ok and its like).
func (l *login) parse(step string, tokens []token) (response, error) {
	var r response
	if len(tokens) == 0 || tokens[0].kind != word {
		return r, l.rubbish(step, "a line without OK, NO or BYE")
	}
	r.word, tokens = tokens[0].text, tokens[1:]
	switch r.word {
	case "OK", "NO", "BYE":
	default:
		return r, l.rubbish(step, r.word)
	}
	if len(tokens) > 0 && tokens[0].kind == opens {
		tokens = tokens[1:]
		if len(tokens) > 0 && tokens[0].kind == word {
			r.code = tokens[0].text
			if len(tokens) > 1 && tokens[1].kind == text {
				r.argument = tokens[1].text
			}
		}
		for len(tokens) > 0 && tokens[0].kind != closes {
			tokens = tokens[1:]
		}
		if len(tokens) == 0 {
			return r, l.rubbish(step, r.word+" with a code that does not end")
		}
		tokens = tokens[1:]
	}
	if len(tokens) > 0 && tokens[0].kind == text {
		r.text, tokens = tokens[0].text, tokens[1:]
	}
	if len(tokens) > 0 {
		return r, l.rubbish(step, r.word+" and more than a text")
	}
	return r, nil
}

func (l *login) failed(step string, err error) error {
	return fmt.Errorf("%w: %s: %w", router.ErrBackend, step, err)
}

func (l *login) rubbish(step, line string) error {
	return fmt.Errorf("%w: %s: unexpected answer %q", router.ErrBackend, step, clip(line))
}

// blame logs a mistake that only the operator can mend, with the way to mend it.
func (l *login) blame(message, reason string) error {
	l.s.Log.Error(message, zap.String("home", l.b.Backend), zap.String("node", l.b.Node), zap.String("reason", reason))
	return fmt.Errorf("%w: %w", router.ErrOperator, errors.New(reason))
}

// clip shortens a backend's words for an error text.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
