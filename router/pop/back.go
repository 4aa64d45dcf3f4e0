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
	"switchyard/router/upstream"

	"go.uber.org/zap"
)

const (
	// maxReply bounds a line of the backend before login.
	maxReply = 4 << 10

	// maxInitial is the longest AUTH line with an initial response (RFC 5034
	// §4); a longer response waits to be asked for.
	maxInitial = 255
)

// login is one login on a backend for a user: as the proxy, with the user's own
// password, or by passing on what client and backend say to each other. Identity
// and login travel in one write.
type login struct {
	s       *router.Session
	who     *router.Login
	welcome string // the line that greets the logged-in user

	b       *router.Back
	xclient bool // the backend wants to hear who the client is
}

// run implements router.LoginFunc.
func (l *login) run(ctx context.Context, b *router.Back, account lookup.Account) error {
	*l = login{s: l.s, who: l.who, b: b}
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
	if r := l.who.Relay(); r != nil {
		return l.relay(account, r)
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

// authenticate says who the client is and logs in, in the backend's way. A
// client's own password goes by USER and PASS, which every server has.
func (l *login) authenticate(account lookup.Account) error {
	plain, err := l.who.Credentials(l.b, account)
	switch {
	case errors.Is(err, upstream.ErrNoPassword):
		return l.blame("backend wants the client's own password, and the client has logged in without one: give the backend a master user, or the client's accounts another home", "no password to pass on")
	case err != nil:
		return l.blame("no proxy secret is configured: set it here and on the backends", "no proxy secret")
	case l.b.Policy().Forward:
		return l.userPass(account, plain)
	}
	message, err := plain.Message()
	if err != nil {
		return fmt.Errorf("log in on the backend: %w", err)
	}
	response := wire.EncodeSASL(message)
	command := "AUTH PLAIN " + response
	stepwise := len(command) > maxInitial
	if stepwise {
		command = "AUTH PLAIN"
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
	r, err := l.reply("AUTH")
	if err != nil {
		return err
	}
	return l.outcome(r)
}

// userPass logs in with USER and PASS. The second waits for the answer to the
// first: not every server that wants this can be pipelined to.
func (l *login) userPass(account lookup.Account, plain wire.Plain) error {
	if strings.ContainsAny(plain.Authcid+plain.Password, "\r\n\x00") || strings.Contains(plain.Authcid, " ") {
		return fmt.Errorf("%w: a name or password that no line can hold", lookup.ErrRejected)
	}
	if err := l.begin(account, "USER "+plain.Authcid); err != nil {
		return err
	}
	r, err := l.reply("USER")
	if err != nil {
		return err
	}
	if !r.ok {
		return l.outcome(r)
	}
	if r, err = l.ask("PASS", "PASS "+plain.Password); err != nil {
		return err
	}
	return l.outcome(r)
}

// begin sends the first command of a login, and who the client is in front of it,
// in one write.
func (l *login) begin(account lookup.Account, command string) error {
	if l.xclient {
		l.b.Conn.Printf("XCLIENT %s\r\n", l.s.Origin(account.Generation).XCLIENT(origin.POP3, nil))
	}
	if err := l.b.Conn.Line("%s", command); err != nil {
		return l.failed("login", err)
	}
	if l.xclient {
		return l.identified()
	}
	return nil
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

// outcome reads the answer to the login.
func (l *login) outcome(r reply) error {
	if r.ok {
		l.welcome = strings.TrimSuffix("+OK "+r.text, " ")
		return nil
	}
	switch code := r.code(); {
	case code == "SYS/TEMP/MOVED":
		return router.ErrMoved
	case code == "SYS/TEMP/OWNER":
		_, node, _ := strings.Cut(r.text, "] ")
		node, _, _ = strings.Cut(node, " ")
		return &router.OwnerError{Node: node}
	case code == "IN-USE", code == "LOGIN-DELAY", code == "SYS/PERM":
		return router.NewRefused(r.text)
	case l.who.Judged() && (code == "AUTH" || code == ""):
		return fmt.Errorf("%w: by the backend", lookup.ErrRejected)
	case l.b.Policy().Forward && (code == "AUTH" || code == ""):
		return l.blame("backend refuses a password that the directory has found right: the two must know the same passwords, or leave them to the backend (unchecked)",
			"the client's password is refused: "+clip(r.text))
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
