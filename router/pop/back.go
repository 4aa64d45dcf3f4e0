package pop

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"switchyard/internal/origin"
	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/router"

	"go.uber.org/zap"
)

const (
	// maxReply bounds a line of the backend before login.
	maxReply = 4 << 10

	// maxInitial is the longest AUTH line with an initial response (RFC 5034
	// §4); a longer response waits to be asked for.
	maxInitial = 255
)

// login is one login on a backend, as the proxy, for a user. Identity and login
// travel in one write.
type login struct {
	s       *router.Session
	welcome string // the line that greets the logged-in user

	b       *router.Back
	xclient bool // the backend wants to hear who the client is
}

// run implements router.LoginFunc.
func (l *login) run(ctx context.Context, b *router.Back, account lookup.Account) error {
	*l = login{s: l.s, b: b}
	banner, err := l.reply("banner")
	if err != nil {
		return err
	}
	if !banner.ok {
		return fmt.Errorf("%w: banner: -ERR %s", router.ErrBackend, clip(banner.text))
	}
	// The banner is the only place where a POP3 server says so. When it came
	// before STLS it may be an attacker's word: all that it can bring about is
	// one command more, or less, inside TLS, and never who is believed.
	l.xclient = strings.Contains(banner.text, "[XCLIENT]")
	if b.WantsStartTLS() {
		if err := l.startTLS(ctx); err != nil {
			return err
		}
	}
	return l.authenticate(account)
}

func (l *login) startTLS(ctx context.Context) error {
	r, err := l.ask("STLS", "STLS")
	if err != nil {
		return err
	}
	if !r.ok {
		return l.blame("backend refuses STLS: give it a certificate, or change the node's tls", "STLS refused")
	}
	if err := l.b.StartTLS(ctx); err != nil {
		return l.failed("TLS handshake", err)
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
	command := "AUTH PLAIN " + response
	stepwise := len(command) > maxInitial
	if stepwise {
		command = "AUTH PLAIN"
	}
	if l.xclient {
		l.b.Conn.Printf("XCLIENT %s\r\n", l.s.Origin(account.Generation).XCLIENT(origin.POP3, nil))
	}
	if err := l.b.Conn.Line("%s", command); err != nil {
		return l.failed("AUTH", err)
	}
	if l.xclient {
		if err := l.identified(); err != nil {
			return err
		}
	}
	if stepwise {
		if err := l.challenge(); err != nil {
			return err
		}
		if err := l.b.Conn.Line("%s", response); err != nil {
			return l.failed("AUTH", err)
		}
	}
	r, err := l.reply("AUTH")
	if err != nil {
		return err
	}
	return l.outcome(r)
}

// identified reads the answer to XCLIENT. A backend that does not want it gets
// no identity, which is worth a warning but no failure.
func (l *login) identified() error {
	r, err := l.reply("XCLIENT")
	if err == nil && !r.ok {
		l.s.Log.Warn("backend refuses the client's identity", zap.String("node", l.b.Node), zap.String("reason", clip(r.text)))
	}
	return err
}

// challenge reads the request for the SASL response.
func (l *login) challenge() error {
	line, err := l.readLine("AUTH")
	if err != nil {
		return err
	}
	if strings.HasPrefix(line, "+") && !strings.HasPrefix(line, "+OK") {
		return nil
	}
	r, err := l.parse("AUTH", line)
	if err != nil {
		return err
	}
	if r.ok {
		return l.rubbish("AUTH", line)
	}
	return l.outcome(r)
}

// outcome reads the answer to the login.
func (l *login) outcome(r reply) error {
	if r.ok {
		l.welcome = strings.TrimSuffix("+OK "+r.text, " ")
		return nil
	}
	switch code := r.code(); {
	case code == "SYS/TEMP/MOVED":
		return router.ErrMoved
	case code == "IN-USE", code == "LOGIN-DELAY", code == "SYS/PERM":
		return router.NewRefused(r.text)
	case code == "AUTH", code == "":
		// It is the proxy that the backend does not know, not the user.
		return l.blame("backend refuses the proxy's login: proxy name and secret must be the same on both, the proxy's address must be in the backend's proxy networks, and the connection must use TLS",
			"the proxy's login is refused: "+clip(r.text))
	default:
		return fmt.Errorf("%w: login: -ERR %s", router.ErrBackend, clip(r.text))
	}
}

// reply is a one-line answer.
type reply struct {
	ok   bool
	text string
}

// code returns the response code (RFC 2449 §8), upper case; "" without one.
func (r reply) code() string {
	inner, found := strings.CutPrefix(r.text, "[")
	if !found {
		return ""
	}
	code, _, found := strings.Cut(inner, "]")
	if !found {
		return ""
	}
	return strings.ToUpper(code)
}

func (l *login) ask(step, command string) (reply, error) {
	if err := l.b.Conn.Line("%s", command); err != nil {
		return reply{}, l.failed(step, err)
	}
	return l.reply(step)
}

func (l *login) reply(step string) (reply, error) {
	line, err := l.readLine(step)
	if err != nil {
		return reply{}, err
	}
	return l.parse(step, line)
}

func (l *login) readLine(step string) (string, error) {
	line, err := l.b.Conn.ReadLine(maxReply)
	if err != nil {
		return "", l.failed(step, err)
	}
	text := string(line)
	if strings.ContainsAny(text, "\r\x00") {
		return "", l.rubbish(step, text)
	}
	return text, nil
}

func (l *login) parse(step, line string) (reply, error) {
	word, text, _ := strings.Cut(line, " ")
	switch word {
	case "+OK":
		return reply{true, text}, nil
	case "-ERR":
		return reply{false, text}, nil
	}
	return reply{}, l.rubbish(step, line)
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

// clip shortens a backend's words for an error text.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
