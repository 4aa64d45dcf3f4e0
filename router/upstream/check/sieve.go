package check

import (
	"context"
	"strings"

	"switchyard/internal/probe"
)

// ManageSieve asks a ManageSieve server (RFC 5804). It is a Func.
func ManageSieve(ctx context.Context, n *Node) (Result, error) {
	c := sieve{n}
	offers, err := c.capabilities("greeting")
	if err != nil {
		return Result{}, err
	}
	if n.StartTLS != nil {
		if err := n.send("STARTTLS", "STARTTLS"); err != nil {
			return Result{}, err
		}
		line, err := n.line("STARTTLS")
		if err != nil {
			return Result{}, err
		}
		if _, ok := cutWord(line, "OK"); !ok {
			return Result{}, said("STARTTLS", line)
		}
		if err := n.handshake(ctx); err != nil {
			return Result{}, err
		}
		if offers, err = c.capabilities("STARTTLS"); err != nil { // they come unasked (§2.2)
			return Result{}, err
		}
	}
	offer := make(map[string]string, len(offers))
	for name, value := range offers {
		offer[name] = strings.TrimSpace(value)
	}
	n.heard(offer)
	r, err := c.login(offers)
	if err == nil {
		n.leave("LOGOUT")
	}
	return r, err
}

type sieve struct{ n *Node }

// capabilities reads the list, up to its OK.
func (c sieve) capabilities(step string) (map[string]string, error) {
	offers := make(map[string]string)
	for range maxLines {
		line, err := c.n.line(step)
		if err != nil {
			return nil, err
		}
		if _, ok := cutWord(line, "OK"); ok {
			return offers, nil
		}
		if line == "" || line[0] != '"' { // NO, BYE, rubbish
			return nil, said(step, line)
		}
		name, value, _ := strings.Cut(strings.ToUpper(line), " ")
		offers[strings.Trim(name, `"`)] = " " + strings.Trim(value, `"`) + " "
	}
	return nil, said(step, "too many lines")
}

func (c sieve) login(offers map[string]string) (Result, error) {
	_, offered := offers[probe.Capability]
	message, ok := c.n.who(offered)
	if !ok || !strings.Contains(offers["SASL"], " PLAIN ") {
		return ready, nil
	}
	if err := c.n.send("login", `AUTHENTICATE "PLAIN" "`+message+`"`); err != nil {
		return Result{}, err
	}
	line, err := c.n.line("login")
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
	_, now := cutFold(text, "(TRYLATER")
	return outcome(strings.Trim(text, `"`), now)
}
