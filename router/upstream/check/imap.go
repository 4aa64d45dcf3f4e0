package check

import (
	"context"
	"strings"

	"switchyard/internal/probe"
)

// IMAP asks an IMAP server. It is a Func.
func IMAP(ctx context.Context, n *Node) (Result, error) {
	c := imap{n: n}
	if err := c.greeting(); err != nil {
		return Result{}, err
	}
	if n.StartTLS != nil {
		if err := c.command("STARTTLS"); err != nil {
			return Result{}, err
		}
		if err := n.handshake(ctx); err != nil {
			return Result{}, err
		}
		c.caps = nil
	}
	if c.caps == nil {
		if err := c.command("CAPABILITY"); err != nil {
			return Result{}, err
		}
	}
	offer := make(map[string]string, len(c.caps))
	for name := range c.caps {
		offer[name] = ""
	}
	if c.caps["LITERAL+"] {
		offer["LITERAL-"] = "" // RFC 7888 §5: the one includes the other
	}
	n.heard(offer)
	r, err := c.login()
	if err == nil {
		n.leave("P LOGOUT")
	}
	return r, err
}

type imap struct {
	n    *Node
	caps map[string]bool // upper case; nil: not known
}

func (c *imap) greeting() error {
	line, err := c.n.line("greeting")
	if err != nil {
		return err
	}
	text, found := cutWord(line, "* OK")
	if !found { // BYE, PREAUTH, rubbish
		return said("greeting", line)
	}
	if list, found := cutFold(text, "[CAPABILITY "); found {
		list, _, _ = strings.Cut(list, "]")
		c.learn(list)
	}
	return nil
}

func (c *imap) learn(list string) {
	c.caps = make(map[string]bool)
	for word := range strings.FieldsSeq(list) {
		c.caps[strings.ToUpper(word)] = true
	}
}

// command sends a command that has only one good answer.
func (c *imap) command(name string) error {
	if err := c.n.send(name, "P "+name); err != nil {
		return err
	}
	line, err := c.tagged(name)
	if err != nil {
		return err
	}
	if _, ok := cutWord(line, "OK"); !ok {
		return said(name, line)
	}
	return nil
}

// tagged reads up to the tagged answer, or the request to go on, and returns it
// without its tag.
func (c *imap) tagged(step string) (string, error) {
	for range maxLines {
		line, err := c.n.line(step)
		if err != nil {
			return "", err
		}
		if rest, found := strings.CutPrefix(line, "P "); found {
			return rest, nil
		}
		if strings.HasPrefix(line, "+") {
			return line, nil
		}
		if rest, found := cutWord(line, "* CAPABILITY"); found {
			c.learn(rest)
		}
		if _, found := cutWord(line, "* BYE"); found {
			return "", said(step, line)
		}
	}
	return "", said(step, "too many lines")
}

func (c *imap) login() (Result, error) {
	message, ok := c.n.who(c.caps[probe.Capability])
	if !ok || !c.caps["AUTH=PLAIN"] {
		return ready, nil
	}
	command := "P AUTHENTICATE PLAIN"
	if c.caps["SASL-IR"] {
		command += " " + message
	}
	if err := c.n.send("login", command); err != nil {
		return Result{}, err
	}
	line, err := c.tagged("login")
	if err == nil && strings.HasPrefix(line, "+") && !c.caps["SASL-IR"] {
		if err = c.n.send("login", message); err == nil {
			line, err = c.tagged("login")
		}
	}
	if err != nil {
		return Result{}, err
	}
	if _, ok := cutWord(line, "OK"); ok {
		return loggedIn(), nil
	}
	text, ok := cutWord(line, "NO")
	if !ok {
		return Result{}, said("login", line)
	}
	_, now := cutFold(text, "[UNAVAILABLE]")
	_, bug := cutFold(text, "[SERVERBUG]")
	return outcome(text, now || bug)
}

// cutFold is strings.CutPrefix without regard to case.
func cutFold(s, prefix string) (rest string, found bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// cutWord is cutFold for whole words, and the space behind them.
func cutWord(s, words string) (rest string, found bool) {
	rest, found = cutFold(s, words)
	if !found || rest != "" && rest[0] != ' ' {
		return s, false
	}
	return strings.TrimPrefix(rest, " "), true
}
