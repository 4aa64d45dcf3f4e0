package imap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/router"

	"go.uber.org/zap"
)

const (
	// maxResponse bounds a line of the backend before login. CAPABILITY is the
	// longest that comes.
	maxResponse = 8 << 10

	// maxUntagged bounds the untagged lines in front of a tagged one.
	maxUntagged = 50
)

// welcome is what a backend says to a login that it accepts.
type welcome struct {
	untagged []string // whole lines for the client
	ok       string   // the tagged line without its tag
}

// login is one login on a backend, as the proxy, for a user.
//
// RFC 9051 lets a client pipeline, so identity and login travel in one write
// when the backend offers what that takes. Nothing of worth is said before TLS,
// and what the backend said before it is forgotten.
type login struct {
	s       *router.Session
	welcome welcome

	b     *router.Back
	caps  capabilities
	alert []string // untagged lines worth the client's attention
}

// capabilities is a backend's list, upper case; nil when it is not known.
type capabilities map[string]bool

// run implements router.LoginFunc.
func (l *login) run(ctx context.Context, b *router.Back, account lookup.Account) error {
	*l = login{s: l.s, b: b}
	if err := l.greeting(); err != nil {
		return err
	}
	if b.WantsStartTLS() {
		if err := l.startTLS(ctx); err != nil {
			return err
		}
	}
	if l.caps == nil {
		if err := l.askCapabilities(); err != nil {
			return err
		}
	}
	if !l.caps["AUTH=PLAIN"] {
		return l.blame("backend offers no AUTH=PLAIN: a backendd wants TLS for it, so set the node's tls to starttls or implicit", "no AUTH=PLAIN")
	}
	return l.authenticate(account)
}

// greeting reads the first line. PREAUTH is refused: nobody has logged in, so
// what would follow is somebody else's mail, or an attacker's words before TLS.
func (l *login) greeting() error {
	line, err := l.readLine("greeting")
	if err != nil {
		return err
	}
	word, text, _ := strings.Cut(strings.TrimPrefix(line, "* "), " ")
	switch {
	case !strings.HasPrefix(line, "* "):
	case strings.EqualFold(word, "OK"):
		l.caps = capabilityCode(text)
		return nil
	case strings.EqualFold(word, "BYE"):
		return fmt.Errorf("%w: greeting: BYE %s", router.ErrBackend, clip(text))
	case strings.EqualFold(word, "PREAUTH"):
		return fmt.Errorf("%w: greeting: PREAUTH is refused", router.ErrBackend)
	}
	return l.rubbish("greeting", line)
}

func (l *login) startTLS(ctx context.Context) error {
	if err := l.b.Conn.Line("S STARTTLS"); err != nil {
		return l.failed("STARTTLS", err)
	}
	r, err := l.tagged("STARTTLS", "S")
	if err != nil {
		return err
	}
	if r.word != "OK" {
		return l.blame("backend refuses STARTTLS: give it a certificate, or change the node's tls", "STARTTLS refused")
	}
	if err := l.b.StartTLS(ctx); err != nil {
		return l.failed("TLS handshake", err)
	}
	l.caps, l.alert = nil, nil
	return nil
}

func (l *login) askCapabilities() error {
	if err := l.b.Conn.Line("C CAPABILITY"); err != nil {
		return l.failed("CAPABILITY", err)
	}
	r, err := l.tagged("CAPABILITY", "C")
	if err != nil {
		return err
	}
	if r.word != "OK" || l.caps == nil {
		return l.rubbish("CAPABILITY", r.word+" "+r.text)
	}
	return nil
}

// authenticate says who the client is and logs in. The name of the account is
// the authorisation identity, the proxy's own name the one that logs in.
func (l *login) authenticate(account lookup.Account) error {
	name, secret := l.b.Login()
	if secret == "" {
		return l.blame("no proxy secret is configured: set it here and on the backends", "no proxy secret")
	}
	message, err := wire.Plain{Authzid: account.Name, Authcid: name, Password: secret}.Message()
	if err != nil {
		return fmt.Errorf("log in as the proxy: %w", err)
	}
	response := wire.EncodeSASL(message)
	conn := l.b.Conn
	if l.caps["ID"] {
		conn.Printf("I ID (%s)\r\n", idList(l.s.Origin(account.Generation).ID()))
		if !l.caps["SASL-IR"] {
			if err := conn.Flush(); err != nil {
				return l.failed("ID", err)
			}
		}
	}
	if l.caps["SASL-IR"] {
		if err := conn.Line("L AUTHENTICATE PLAIN %s", response); err != nil {
			return l.failed("AUTHENTICATE", err)
		}
	}
	if l.caps["ID"] {
		if err := l.identified(); err != nil {
			return err
		}
	}
	if !l.caps["SASL-IR"] {
		if err := l.challenge(response); err != nil {
			return err
		}
	}
	l.caps = nil
	r, err := l.tagged("AUTHENTICATE", "L")
	if err != nil {
		return err
	}
	return l.outcome(r)
}

// identified reads the answer to ID. A backend that does not want it gets no
// identity, which is worth a warning but no failure.
func (l *login) identified() error {
	r, err := l.tagged("ID", "I")
	if err == nil && r.word != "OK" {
		l.s.Log.Warn("backend refuses the client's identity", zap.String("node", l.b.Node), zap.String("reason", clip(r.text)))
	}
	return err
}

// challenge is AUTHENTICATE without an initial response.
func (l *login) challenge(response string) error {
	if err := l.b.Conn.Line("L AUTHENTICATE PLAIN"); err != nil {
		return l.failed("AUTHENTICATE", err)
	}
	line, err := l.readLine("AUTHENTICATE")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "+") {
		if tag, _, _ := strings.Cut(line, " "); tag == "L" {
			return l.outcome(parseTagged(line))
		}
		return l.rubbish("AUTHENTICATE", line)
	}
	if err := l.b.Conn.Line("%s", response); err != nil {
		return l.failed("AUTHENTICATE", err)
	}
	return nil
}

// outcome reads the answer to the login.
func (l *login) outcome(r tagged) error {
	if r.word == "OK" {
		l.welcome = welcome{untagged: l.alert, ok: "OK " + r.text}
		return nil
	}
	if r.word != "NO" {
		return l.rubbish("AUTHENTICATE", r.word+" "+r.text)
	}
	switch r.code() {
	case "X-MOVED":
		return router.ErrMoved
	case "LIMIT", "INUSE", "EXPIRED", "CONTACTADMIN", "AUTHORIZATIONFAILED":
		return router.NewRefused(r.text)
	case "AUTHENTICATIONFAILED", "AUTHFAILED", "PRIVACYREQUIRED", "":
		// It is the proxy that the backend does not know, not the user.
		return l.blame("backend refuses the proxy's login: proxy name and secret must be the same on both, the proxy's address must be in the backend's proxy networks, and the connection must use TLS",
			"the proxy's login is refused: "+clip(r.text))
	default:
		return fmt.Errorf("%w: login: NO %s", router.ErrBackend, clip(r.text))
	}
}

// tagged is a tagged response without its tag.
type tagged struct{ word, text string }

func parseTagged(line string) tagged {
	_, rest, _ := strings.Cut(line, " ")
	word, text, _ := strings.Cut(rest, " ")
	return tagged{strings.ToUpper(word), text}
}

// code returns the response code, upper case, without arguments; "" without
// one.
func (t tagged) code() string {
	inner, found := strings.CutPrefix(t.text, "[")
	if !found {
		return ""
	}
	end := strings.IndexAny(inner, " ]")
	if end < 0 {
		return ""
	}
	return strings.ToUpper(inner[:end])
}

// tagged reads up to the response with the tag. On the way it keeps CAPABILITY
// and alerts; the rest is the proxy's business and goes no further.
func (l *login) tagged(step, tag string) (tagged, error) {
	for range maxUntagged {
		line, err := l.readLine(step)
		if err != nil {
			return tagged{}, err
		}
		if strings.HasPrefix(line, tag+" ") {
			return parseTagged(line), nil
		}
		text, found := strings.CutPrefix(line, "* ")
		if !found {
			return tagged{}, l.rubbish(step, line)
		}
		if err := l.untagged(step, text); err != nil {
			return tagged{}, err
		}
	}
	return tagged{}, fmt.Errorf("%w: %s: more than %d untagged lines", router.ErrBackend, step, maxUntagged)
}

func (l *login) untagged(step, text string) error {
	word, rest, _ := strings.Cut(text, " ")
	switch strings.ToUpper(word) {
	case "BYE":
		return fmt.Errorf("%w: %s: BYE %s", router.ErrBackend, step, clip(rest))
	case "CAPABILITY":
		l.caps = parseCapabilities(rest)
		if step == "AUTHENTICATE" {
			l.alert = append(l.alert, "* "+text)
		}
	case "OK", "NO":
		if (tagged{text: rest}).code() == "ALERT" {
			l.alert = append(l.alert, "* "+text)
		}
	}
	return nil
}

// readLine reads a response. Literals in it (some servers' ID) are read over.
func (l *login) readLine(step string) (string, error) {
	var text []byte
	for {
		line, err := l.b.Conn.ReadLine(maxResponse)
		if err != nil {
			return "", l.failed(step, err)
		}
		text = append(text, line...)
		lit, isLiteral := literalAtEnd(line)
		if !isLiteral {
			break
		}
		if lit.size > maxResponse-len(text) {
			return "", l.failed(step, wire.ErrLineTooLong)
		}
		if err := l.b.Conn.Discard(int64(lit.size)); err != nil {
			return "", l.failed(step, err)
		}
	}
	if bytes.ContainsAny(text, "\r\x00") {
		return "", l.rubbish(step, string(text))
	}
	return string(text), nil
}

func (l *login) failed(step string, err error) error {
	return fmt.Errorf("%w: %s: %w", router.ErrBackend, step, err)
}

func (l *login) rubbish(step, line string) error {
	return fmt.Errorf("%w: %s: unexpected answer %q", router.ErrBackend, step, clip(line))
}

// blame logs a mistake that only the operator can mend, with the way to mend
// it.
func (l *login) blame(message, reason string) error {
	l.s.Log.Error(message, zap.String("home", l.b.Backend), zap.String("node", l.b.Node), zap.String("reason", reason))
	return fmt.Errorf("%w: %w", router.ErrOperator, errors.New(reason))
}

// capabilityCode reads [CAPABILITY …] at the start of a response's text; nil
// when it is not there.
func capabilityCode(text string) capabilities {
	const code = "[CAPABILITY "
	if len(text) < len(code) || !strings.EqualFold(text[:len(code)], code) {
		return nil
	}
	list, _, found := strings.Cut(text[len(code):], "]")
	if !found {
		return nil
	}
	return parseCapabilities(list)
}

func parseCapabilities(list string) capabilities {
	c := make(capabilities)
	for name := range strings.FieldsSeq(list) {
		c[strings.ToUpper(name)] = true
	}
	return c
}

// idList writes the pairs of an ID command. The values are typed ones: nothing
// in them needs more than quoting, and what does is left out.
func idList(pairs [][2]string) string {
	var out strings.Builder
	for _, kv := range pairs {
		if strings.ContainsAny(kv[0]+kv[1], "\"\\\r\n\x00") {
			continue
		}
		if out.Len() > 0 {
			out.WriteByte(' ')
		}
		fmt.Fprintf(&out, `"%s" "%s"`, kv[0], kv[1])
	}
	return out.String()
}

// clip shortens a backend's words for an error text.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
