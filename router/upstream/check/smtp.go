package check

import (
	"context"
	"strings"

	"switchyard/internal/probe"
)

// maxSMTP is the longest AUTH line with an initial response (RFC 4954 §4).
const maxSMTP = 510

// SMTP asks a submission server. It is a Func.
func SMTP(ctx context.Context, n *Node) (Result, error) { return smtp{n: n, hail: "EHLO"}.run(ctx) }

// LMTP asks an LMTP server. It is a Func.
func LMTP(ctx context.Context, n *Node) (Result, error) { return smtp{n: n, hail: "LHLO"}.run(ctx) }

type smtp struct {
	n    *Node
	hail string
}

func (c smtp) run(ctx context.Context) (Result, error) {
	n := c.n
	if code, text, err := c.reply("greeting"); err != nil || code != "220" {
		return Result{}, orSaid(err, "greeting", code+" "+text)
	}
	offers, err := c.hello()
	if err != nil {
		return Result{}, err
	}
	if n.StartTLS != nil {
		if code, text, err := c.ask("STARTTLS", "STARTTLS"); err != nil || code != "220" {
			return Result{}, orSaid(err, "STARTTLS", code+" "+text)
		}
		if err := n.handshake(ctx); err != nil {
			return Result{}, err
		}
		if offers, err = c.hello(); err != nil {
			return Result{}, err
		}
	}
	offer := make(map[string]string, len(offers))
	for keyword, params := range offers {
		offer[keyword] = strings.TrimSpace(params)
	}
	n.heard(offer)
	r, err := c.login(offers)
	if err == nil {
		n.leave("QUIT")
	}
	return r, err
}

func orSaid(err error, step, text string) error {
	if err != nil {
		return err
	}
	return said(step, text)
}

// reply reads a reply. The text is its lines, without the enhanced code of the
// first.
func (c smtp) reply(step string) (code, text string, err error) {
	var lines []string
	for range maxLines {
		line, err := c.n.line(step)
		if err != nil {
			return "", "", err
		}
		if len(line) < 3 || strings.Trim(line[:3], "0123456789") != "" || code != "" && line[:3] != code || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
			return "", "", said(step, line)
		}
		code = line[:3]
		lines = append(lines, strings.TrimLeft(line[3:], " -"))
		if len(line) == 3 || line[3] == ' ' {
			return code, strings.Join(lines, "\n"), nil
		}
	}
	return "", "", said(step, "too many lines")
}

func (c smtp) ask(step, line string) (code, text string, err error) {
	if err := c.n.send(step, line); err != nil {
		return "", "", err
	}
	return c.reply(step)
}

func (c smtp) hello() (map[string]string, error) {
	name := c.n.Hostname
	if name == "" {
		name = "localhost"
	}
	code, text, err := c.ask(c.hail, c.hail+" "+name)
	if err != nil || code != "250" {
		return nil, orSaid(err, c.hail, code+" "+text)
	}
	offers := make(map[string]string)
	for line := range strings.SplitSeq(text, "\n") {
		keyword, params, _ := strings.Cut(strings.ToUpper(line), " ")
		offers[keyword] = " " + params + " "
	}
	return offers, nil
}

func (c smtp) login(offers map[string]string) (Result, error) {
	_, offered := offers[probe.Capability]
	message, ok := c.n.who(offered)
	if !ok || !strings.Contains(offers["AUTH"], " PLAIN ") {
		return ready, nil
	}
	command := "AUTH PLAIN " + message
	stepwise := len(command) > maxSMTP
	if stepwise {
		command = "AUTH PLAIN"
	}
	code, text, err := c.ask("login", command)
	if err == nil && stepwise && code == "334" {
		code, text, err = c.ask("login", message)
	}
	if err != nil {
		return Result{}, err
	}
	switch {
	case code == "235":
		return loggedIn(), nil
	case code[0] != '4' && code[0] != '5':
		return Result{}, said("login", code+" "+text)
	}
	if _, rest, found := strings.Cut(text, " "); found && strings.HasPrefix(text, code[:1]+".") {
		text = rest // behind the enhanced code
	}
	return outcome(text, code[0] == '4')
}
