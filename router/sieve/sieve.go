// Package sieve is ManageSieve (RFC 5804) as a proxy speaks it: the dialogue with a
// client up to the login, and the login on the backend. Behind the login the
// session is spliced and not read any more.
//
//	S: "IMPLEMENTATION" "Switchyard"
//	S: "SASL" "PLAIN LOGIN"
//	S: "SIEVE" "fileinto reject vacation"
//	S: "VERSION" "1.0"
//	S: OK "px1.example.test ready"
//	C: AUTHENTICATE "PLAIN" "AGFubmEAc2VzYW1l"
//	S: OK "Logged in."                (the backend's words)
//
// What scripts may use is the backends' to say. Before a login nobody knows whose
// words will count, so that a client is told what is true on every backend that
// has been heard so far; behind it CAPABILITY is answered by its own.
package sieve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"switchyard/internal/server"
	"switchyard/internal/wire"
	"switchyard/router"

	"go.uber.org/zap"
)

const (
	// maxCommand bounds a command before login, literals included: a SASL
	// message and a little. It is what a session may make us hold.
	maxCommand = wire.MaxSASL + 512

	// maxBad is how many commands that make no sense end a session.
	maxBad = 5

	// maxCommands bounds the commands before login.
	maxCommands = 100
)

// Options for New. The zero value works.
type Options struct {
	// Extensions are the Sieve extensions that are announced before a login.
	// Empty means those that all backends announce, as far as sessions have
	// learned them since the proxy began; none before the first.
	Extensions []string
}

// Protocol is ManageSieve for a router's listeners. It is safe for concurrent
// use.
type Protocol struct {
	o Options

	mu      sync.Mutex
	learned map[string]offer // by backend
}

// New makes the protocol.
func New(o Options) *Protocol {
	o.Extensions = slices.Clone(o.Extensions)
	return &Protocol{o: o, learned: make(map[string]offer)}
}

// Name implements router.Protocol.
func (*Protocol) Name() string { return "managesieve" }

// Busy implements router.Busy.
func (*Protocol) Busy() string { return "BYE (TRYLATER) \"Not now, try again later\"\r\n" }

// Serve implements router.Protocol.
func (p *Protocol) Serve(ctx context.Context, s *router.Session) error {
	f := &front{p: p, s: s, conn: s.Conn}
	err := f.run(ctx)
	switch {
	case err == nil || f.quiet:
	case errors.As(err, new(*router.KickedError)):
		s.Goodbye(`BYE (TRYLATER) "Session ended by the server, try again later"`)
	case errors.Is(err, server.ErrShutdown):
		s.Goodbye(`BYE (TRYLATER) "Shutting down, try again later"`)
	case wire.IsTimeout(err):
		s.Goodbye(`BYE "Login took too long"`)
	case errors.Is(err, wire.ErrLineTooLong):
		s.Goodbye(`BYE "Command too long"`)
	case errors.Is(err, wire.ErrBareLF):
		s.Goodbye(`BYE "Lines end in CRLF"`)
	case errors.Is(err, router.ErrProtocol):
		s.Goodbye(`BYE "Protocol error"`)
	}
	return err
}

// refusal words a failed login (RFC 5804 §1.3). It is the only place that does.
func (f *front) refusal(err error) string {
	var words *router.RefusedError
	var status *router.StatusError
	switch router.KindOf(err) {
	case router.Absent, router.Rejected:
		return `NO "Authentication failed"`
	case router.Refused:
		switch {
		case errors.As(err, &words):
			return "NO " + quote(words.Text)
		case errors.As(err, &status):
			return fmt.Sprintf(`NO "Account is %s"`, status.Word())
		}
	case router.Unavailable:
		return `NO (TRYLATER) "Temporarily unavailable, try again later"`
	}
	f.s.Log.Error("login failed by a mistake of ours", zap.Error(err))
	return `NO "Internal error"`
}
