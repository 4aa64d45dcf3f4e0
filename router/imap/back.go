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
	"switchyard/router/upstream"

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

// backLogin is one login on a backend for a user: as the proxy, with the user's
// own password, or by passing on what client and backend say to each other.
//
// RFC 9051 lets a client pipeline, so identity and login travel in one write
// when the backend offers what that takes. Nothing of worth is said before TLS,
// and what the backend said before it is forgotten.
type backLogin struct {
	s       *router.Session
	login   *router.Login
	welcome welcome

	b     *router.Back
	caps  upstream.Offer // what it offers; nil when that is not known. Shared: read only
	alert []string       // untagged lines worth the client's attention
}

// run implements router.LoginFunc.
func (l *backLogin) run(ctx context.Context, b *router.Back, account lookup.Account) error {
	*l = backLogin{s: l.s, login: l.login, b: b}
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
	l.b.Learn(l.caps, false)
	if r := l.login.Relay(); r != nil {
		return l.relay(account, r)
	}
	return l.authenticate(account)
}

// greeting reads the first line. PREAUTH is refused: nobody has logged in, so
// what would follow is somebody else's mail, or an attacker's words before TLS.
func (l *backLogin) greeting() error {
	line, err := l.readLine("greeting")
	if err != nil {
		return err
	}
	word, text, _ := strings.Cut(strings.TrimPrefix(line, "* "), " ")
	switch {
	case !strings.HasPrefix(line, "* "):
	case strings.EqualFold(word, "OK"):
		l.caps = l.capabilityCode(text)
		return nil
	case strings.EqualFold(word, "BYE"):
		return fmt.Errorf("%w: greeting: BYE %s", router.ErrBackend, clip(text))
	case strings.EqualFold(word, "PREAUTH"):
		return fmt.Errorf("%w: greeting: PREAUTH is refused", router.ErrBackend)
	}
	return l.rubbish("greeting", line)
}

func (l *backLogin) startTLS(ctx context.Context) error {
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

func (l *backLogin) askCapabilities() error {
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

// authenticate says who the client is and logs in, in the backend's way.
func (l *backLogin) authenticate(account lookup.Account) error {
	plain, err := l.login.Credentials(l.b, account)
	if err != nil {
		return l.unable(err)
	}
	switch {
	case l.caps.Has("AUTH=PLAIN"):
		return l.plain(account, plain)
	case plain.Authzid == "" && !l.caps.Has("LOGINDISABLED"):
		return l.loginCommand(account, plain)
	case plain.Authzid == "":
		return l.blame("backend offers neither AUTH=PLAIN nor LOGIN: it wants TLS for them, so set the node's tls to starttls or implicit", "no way to log in")
	}
	return l.blame("backend offers no AUTH=PLAIN: a backendd wants TLS for it, so set the node's tls to starttls or implicit", "no AUTH=PLAIN")
}

// unable says why there is nothing to log in with.
func (l *backLogin) unable(err error) error {
	if errors.Is(err, upstream.ErrNoPassword) {
		return l.blame("backend wants the client's own password, and the client has logged in without one: give the backend a master user, or the client's accounts another home", "no password to pass on")
	}
	return l.blame("no proxy secret is configured: set it here and on the backends", "no proxy secret")
}

// plain logs in with SASL PLAIN.
func (l *backLogin) plain(account lookup.Account, plain wire.Plain) error {
	message, err := plain.Message()
	if err != nil {
		return fmt.Errorf("log in on the backend: %w", err)
	}
	response := wire.EncodeSASL(message)
	conn := l.b.Conn
	l.identify(account)
	if l.caps.Has("SASL-IR") {
		if err := conn.Say("L AUTHENTICATE PLAIN ", response); err != nil {
			return l.failed("AUTHENTICATE", err)
		}
	}
	if err := l.identified(); err != nil {
		return err
	}
	if !l.caps.Has("SASL-IR") {
		if err := conn.Line("L AUTHENTICATE PLAIN"); err != nil {
			return l.failed("AUTHENTICATE", err)
		}
		if _, done, err := l.challenge(); done {
			return err
		}
		if err := conn.Line("%s", response); err != nil {
			return l.failed("AUTHENTICATE", err)
		}
	}
	l.caps = nil
	r, err := l.tagged("AUTHENTICATE", "L")
	if err != nil {
		return err
	}
	return l.outcome(r)
}

// loginCommand logs in with LOGIN, which servers without SASL have (Courier,
// Exchange in some configurations).
func (l *backLogin) loginCommand(account lookup.Account, plain wire.Plain) error {
	l.identify(account)
	if err := l.identified(); err != nil {
		return err
	}
	l.b.Conn.WriteString("L LOGIN")
	for _, text := range []string{plain.Authcid, plain.Password} {
		if err := l.argument(text); err != nil {
			return err
		}
	}
	if err := l.b.Conn.Line(""); err != nil {
		return l.failed("LOGIN", err)
	}
	l.caps = nil
	r, err := l.tagged("AUTHENTICATE", "L")
	if err != nil {
		return err
	}
	return l.outcome(r)
}

// argument writes a string: quoted where that can hold it, else as a literal. No
// NUL can be said at all, and an account that has one does not exist.
func (l *backLogin) argument(text string) error {
	conn := l.b.Conn
	switch {
	case strings.IndexByte(text, 0) >= 0:
		return fmt.Errorf("%w: NUL in a name or password", lookup.ErrRejected)
	case strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f }) < 0:
		conn.Printf(" \"%s\"", strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text))
		return nil
	case l.caps.Has("LITERAL+") || l.caps.Has("LITERAL-") && len(text) <= 4096:
		conn.Printf(" {%d+}\r\n%s", len(text), text)
		return nil
	}
	if err := conn.Line(" {%d}", len(text)); err != nil {
		return l.failed("LOGIN", err)
	}
	if _, done, err := l.challenge(); done {
		return err
	}
	conn.WriteString(text)
	return nil
}

// identify says who the client is, where the backend wants to hear it. It is sent
// along with what follows when that needs no waiting.
func (l *backLogin) identify(account lookup.Account) {
	if l.caps.Has("ID") {
		out := append(l.b.Conn.AvailableBuffer(), "I ID ("...)
		out = appendID(out, l.s.Origin(account.Generation).ID())
		l.b.Conn.Write(append(out, ")\r\n"...))
	}
}

// identified reads the answer to ID, if it was sent. A backend that does not want
// it gets no identity, which is worth a warning but no failure.
func (l *backLogin) identified() error {
	if !l.caps.Has("ID") {
		return nil
	}
	if err := l.b.Conn.Flush(); err != nil {
		return l.failed("ID", err)
	}
	r, err := l.tagged("ID", "I")
	if err == nil && r.word != "OK" {
		l.s.Log.Warn("backend refuses the client's identity", zap.String("node", l.b.Node), zap.String("reason", clip(r.text)))
	}
	return err
}

// challenge reads up to a request to go on, and returns its text. done says that
// the tagged answer came instead: the login has ended as err says.
func (l *backLogin) challenge() (text string, done bool, err error) {
	for range maxUntagged {
		line, err := l.readLine("AUTHENTICATE")
		switch {
		case err != nil:
			return "", true, err
		case strings.HasPrefix(line, "+"):
			return strings.TrimPrefix(line[1:], " "), false, nil
		case strings.HasPrefix(line, "L "):
			return "", true, l.outcome(parseTagged(line))
		case !strings.HasPrefix(line, "* "):
			return "", true, l.rubbish("AUTHENTICATE", line)
		}
		if err := l.untagged("AUTHENTICATE", line[2:]); err != nil {
			return "", true, err
		}
	}
	return "", true, fmt.Errorf("%w: AUTHENTICATE: more than %d untagged lines", router.ErrBackend, maxUntagged)
}

// outcome reads the answer to the login.
func (l *backLogin) outcome(r tagged) error {
	if r.word == "OK" {
		l.welcome = welcome{untagged: l.alert, ok: "OK " + r.text}
		if l.caps == nil {
			l.caps = l.capabilityCode(r.text)
		}
		l.b.Learn(l.caps, true)
		return nil
	}
	if r.word != "NO" {
		return l.rubbish("AUTHENTICATE", r.word+" "+r.text)
	}
	switch code := r.code(); code {
	case "X-MOVED":
		return router.ErrMoved
	case "X-OWNER":
		return &router.OwnerError{Node: r.argument()}
	case "LIMIT", "INUSE", "EXPIRED", "CONTACTADMIN", "AUTHORIZATIONFAILED":
		return router.NewRefused(r.text)
	case "AUTHENTICATIONFAILED", "AUTHFAILED", "PRIVACYREQUIRED", "":
		switch {
		case l.login.Judged() && code != "PRIVACYREQUIRED":
			return fmt.Errorf("%w: by the backend", lookup.ErrRejected)
		case l.b.Policy().Forward:
			return l.blame("backend refuses a password that the directory has found right: the two must know the same passwords, or leave them to the backend (unchecked)",
				"the client's password is refused: "+clip(r.text))
		}
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

// argument returns the first word behind the response code's name.
func (t tagged) argument() string {
	inner, _, _ := strings.Cut(strings.TrimPrefix(t.text, "["), "]")
	words := strings.Fields(inner)
	if len(words) < 2 {
		return ""
	}
	return words[1]
}

// tagged reads up to the response with the tag. On the way it keeps CAPABILITY
// and alerts; the rest is the proxy's business and goes no further.
func (l *backLogin) tagged(step, tag string) (tagged, error) {
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

func (l *backLogin) untagged(step, text string) error {
	word, rest, _ := strings.Cut(text, " ")
	switch strings.ToUpper(word) {
	case "BYE":
		return fmt.Errorf("%w: %s: BYE %s", router.ErrBackend, step, clip(rest))
	case "CAPABILITY":
		l.caps = l.b.Parse(rest, parseCapabilities)
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
func (l *backLogin) readLine(step string) (string, error) {
	var text string
	for {
		line, err := l.b.Conn.ReadLine(maxResponse)
		if err != nil {
			return "", l.failed(step, err)
		}
		if bytes.ContainsAny(line, "\r\x00") {
			return "", l.rubbish(step, string(line))
		}
		lit, isLiteral := literalAtEnd(line)
		text += string(line)
		if !isLiteral {
			return text, nil
		}
		if lit.size > maxResponse-len(text) {
			return "", l.failed(step, wire.ErrLineTooLong)
		}
		if err := l.b.Conn.Discard(int64(lit.size)); err != nil {
			return "", l.failed(step, err)
		}
	}
}

func (l *backLogin) failed(step string, err error) error {
	return fmt.Errorf("%w: %s: %w", router.ErrBackend, step, err)
}

func (l *backLogin) rubbish(step, line string) error {
	return fmt.Errorf("%w: %s: unexpected answer %q", router.ErrBackend, step, clip(line))
}

// blame logs a mistake that only the operator can mend, with the way to mend
// it.
func (l *backLogin) blame(message, reason string) error {
	l.s.Log.Error(message, zap.String("home", l.b.Backend), zap.String("node", l.b.Node), zap.String("reason", reason))
	return fmt.Errorf("%w: %w", router.ErrOperator, errors.New(reason))
}

// capabilityCode reads [CAPABILITY …] at the start of a response's text; nil when
// it is not there.
func (l *backLogin) capabilityCode(text string) upstream.Offer {
	const code = "[CAPABILITY "
	if len(text) < len(code) || !strings.EqualFold(text[:len(code)], code) {
		return nil
	}
	list, _, found := strings.Cut(text[len(code):], "]")
	if !found {
		return nil
	}
	return l.b.Parse(list, parseCapabilities)
}

func parseCapabilities(list string) upstream.Offer {
	offer := make(upstream.Offer)
	for name := range strings.FieldsSeq(list) {
		offer[strings.ToUpper(name)] = ""
	}
	if offer.Has("LITERAL+") {
		offer["LITERAL-"] = "" // RFC 7888 §5: the one includes the other
	}
	return offer
}

// appendID writes the pairs of an ID command. The values are typed ones: nothing
// in them needs more than quoting, and what does is left out.
func appendID(out []byte, pairs [][2]string) []byte {
	start := len(out)
	for _, kv := range pairs {
		if unquotable(kv[0]) || unquotable(kv[1]) {
			continue
		}
		if len(out) > start {
			out = append(out, ' ')
		}
		out = append(out, '"')
		out = append(out, kv[0]...)
		out = append(out, `" "`...)
		out = append(out, kv[1]...)
		out = append(out, '"')
	}
	return out
}

func unquotable(s string) bool {
	for i := range len(s) {
		switch s[i] {
		case '"', '\\', '\r', '\n', 0:
			return true
		}
	}
	return false
}

// clip shortens a backend's words for an error text.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
