package check

import (
	"context"
	"slices"
	"strings"

	"switchyard/internal/probe"
)

// maxPOP is the longest AUTH line with an initial response (RFC 5034 §4).
const maxPOP = 255

// POP3 asks a POP3 server. It is a Func.
func POP3(ctx context.Context, n *Node) (Result, error) {
	c := pop{n}
	if err := c.good("greeting"); err != nil {
		return Result{}, err
	}
	if n.StartTLS != nil {
		if err := c.ask("STLS"); err != nil {
			return Result{}, err
		}
		if err := n.handshake(ctx); err != nil {
			return Result{}, err
		}
	}
	offers, err := c.capabilities()
	if err != nil {
		return Result{}, err
	}
	n.heard(popOffer(offers))
	r, err := c.login(offers)
	if err == nil {
		n.leave("QUIT")
	}
	return r, err
}

type pop struct{ n *Node }

func (c pop) ask(command string) error {
	if err := c.n.send(command, command); err != nil {
		return err
	}
	return c.good(command)
}

func (c pop) good(step string) error {
	line, err := c.n.line(step)
	if err != nil {
		return err
	}
	if _, ok := cutWord(line, "+OK"); !ok {
		return said(step, line)
	}
	return nil
}

// capabilities reads CAPA. An old server has none, and is no worse for it.
func (c pop) capabilities() (map[string]bool, error) {
	if err := c.n.send("CAPA", "CAPA"); err != nil {
		return nil, err
	}
	line, err := c.n.line("CAPA")
	if err != nil {
		return nil, err
	}
	if _, refused := cutWord(line, "-ERR"); refused {
		return nil, nil
	}
	if _, ok := cutWord(line, "+OK"); !ok {
		return nil, said("CAPA", line)
	}
	offers := make(map[string]bool)
	for range maxLines {
		line, err := c.n.line("CAPA")
		if err != nil {
			return nil, err
		}
		if line == "." {
			return offers, nil
		}
		words := strings.Fields(strings.ToUpper(line))
		for i, word := range words {
			if i == 0 {
				offers[word] = true
			} else if words[0] == "SASL" {
				offers["SASL "+word] = true
			}
		}
	}
	return nil, said("CAPA", "too many lines")
}

// popOffer gathers the mechanisms behind SASL's name.
func popOffer(offers map[string]bool) map[string]string {
	out := make(map[string]string, len(offers))
	var mechanisms []string
	for name := range offers {
		if mechanism, found := strings.CutPrefix(name, "SASL "); found {
			mechanisms = append(mechanisms, mechanism)
		} else {
			out[name] = ""
		}
	}
	if len(mechanisms) > 0 {
		slices.Sort(mechanisms)
		out["SASL"] = strings.Join(mechanisms, " ")
	}
	return out
}

func (c pop) login(offers map[string]bool) (Result, error) {
	message, ok := c.n.who(offers[probe.Capability])
	if !ok || !offers["SASL PLAIN"] {
		return ready, nil
	}
	command := "AUTH PLAIN " + message
	stepwise := len(command) > maxPOP
	if stepwise {
		command = "AUTH PLAIN"
	}
	if err := c.n.send("login", command); err != nil {
		return Result{}, err
	}
	line, err := c.n.line("login")
	if err == nil && stepwise && strings.HasPrefix(line, "+") && !strings.HasPrefix(line, "+OK") {
		if err = c.n.send("login", message); err == nil {
			line, err = c.n.line("login")
		}
	}
	if err != nil {
		return Result{}, err
	}
	if _, ok := cutWord(line, "+OK"); ok {
		return loggedIn(), nil
	}
	text, ok := cutWord(line, "-ERR")
	if !ok {
		return Result{}, said("login", line)
	}
	_, now := cutFold(text, "[SYS/TEMP")
	return outcome(text, now)
}
