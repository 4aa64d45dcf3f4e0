// Package check asks a node how it is, in the words of each service: it waits
// for the greeting, upgrades to TLS where that is wanted, reads the
// capabilities, and logs in where there is a login for it. No mailbox is touched.
//
// A backendd offers X-PROBE (internal/probe) and is asked by the proxy's own
// login for nobody. Any other server is logged in to for an account that was
// named for it, or not at all.
package check

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"switchyard/internal/probe"
	"switchyard/internal/wire"
)

// The bounds of what a node may say.
const (
	maxLine  = 8 << 10
	maxLines = 200 // in one answer
)

// ErrNode: the node is silent, breaks off, talks rubbish or says "not now".
var ErrNode = errors.New("node does not serve")

// Node is a connection to ask on. The deadlines are the connection's, and its
// owner's to set.
type Node struct {
	Conn *wire.Conn

	// StartTLS performs the handshake behind the answer to STARTTLS. Nil: it is
	// not wanted.
	StartTLS func(context.Context) error

	// Login returns what the proxy logs in with; it is asked behind TLS. An
	// empty secret means that no login is tried.
	Login func() (name, secret string)

	// Account is whom the proxy logs in for on a server that does not offer
	// X-PROBE. Empty: nobody, and the capabilities are all that is asked for.
	Account string

	// Hostname is what the proxy calls itself.
	Hostname string

	// Heard gets what the node offers before a login, under the connection's
	// final protection: names in capitals, with their parameters. Nil: nobody
	// wants to know.
	Heard func(map[string]string)
}

func (n *Node) heard(offer map[string]string) {
	if n.Heard != nil && len(offer) > 0 {
		n.Heard(offer)
	}
}

// Result is what a node that answered said.
type Result struct {
	probe.Answer      // Ready where nothing else was said
	LoggedIn     bool // a login was tried, and answered as it should be

	// Refused is why the node refuses the proxy's login, in its own words: the
	// node lives, and an operator has to mend it.
	Refused string
}

var ready = Result{Answer: probe.Answer{Word: probe.Ready}}

// Func asks a node. It blocks for as long as the connection's deadlines let it.
// Errors: for which errors.Is(err, ErrNode) holds, and the connection's own.
type Func func(ctx context.Context, n *Node) (Result, error)

// who returns whom to log in for, and reports whether to log in at all.
func (n *Node) who(offersProbe bool) (message string, ok bool) {
	authzid := n.Account
	if offersProbe {
		authzid = probe.User
	}
	name, secret := n.Login()
	if authzid == "" || secret == "" {
		return "", false
	}
	m, err := wire.Plain{Authzid: authzid, Authcid: name, Password: secret}.Message()
	if err != nil {
		return "", false // name or secret cannot be said; every login will tell
	}
	return wire.EncodeSASL(m), true
}

func failed(step string, err error) error { return fmt.Errorf("%w: %s: %w", ErrNode, step, err) }

func said(step, text string) error {
	if len(text) > 100 {
		text = text[:100] + "…"
	}
	return fmt.Errorf("%w: %s: %q", ErrNode, step, text)
}

// line reads a line.
func (n *Node) line(step string) (string, error) {
	line, err := n.Conn.ReadLine(maxLine)
	if err != nil {
		return "", failed(step, err)
	}
	if strings.ContainsAny(string(line), "\r\x00") {
		return "", said(step, string(line))
	}
	return string(line), nil
}

// send writes a line. The step stands for it in errors, since the line may hold
// the secret.
func (n *Node) send(step, line string) error {
	n.Conn.WriteString(line)
	n.Conn.WriteString("\r\n")
	if err := n.Conn.Flush(); err != nil {
		return failed(step, err)
	}
	return nil
}

// leave says goodbye and reads on until the node closes, so that it sees a
// session that ended in order. How the node takes it is not of interest.
func (n *Node) leave(line string) {
	if n.send("goodbye", line) != nil {
		return
	}
	for range maxLines {
		if _, err := n.Conn.ReadLine(maxLine); err != nil {
			return
		}
	}
}

func (n *Node) handshake(ctx context.Context) error {
	if err := n.StartTLS(ctx); err != nil {
		return failed("TLS handshake", err)
	}
	n.StartTLS = nil
	return nil
}

// outcome judges a refused login by its text. now reports whether the answer
// was a "not now".
func outcome(text string, now bool) (Result, error) {
	if a, ok := probe.Parse(text); ok {
		return Result{Answer: a, LoggedIn: true}, nil
	}
	if now {
		return Result{}, said("login", text)
	}
	r := ready
	r.Refused = text
	if len(r.Refused) > 100 {
		r.Refused = r.Refused[:100] + "…"
	}
	return r, nil
}

func loggedIn() Result {
	r := ready
	r.LoggedIn = true
	return r
}
