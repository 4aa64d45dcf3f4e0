package sieve

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"switchyard/internal/origin"
	"switchyard/internal/wire"
	"switchyard/router"
)

// errOver ends the loop of a session that ended in order.
var errOver = errors.New("session is over")

// errBad is a command that makes no sense; it has been answered.
var errBad = errors.New("bad command")

// front is the client's side of a session.
type front struct {
	p     *Protocol
	s     *router.Session
	conn  *wire.Conn
	bad   int
	quiet bool // nothing of ours may be written any more: TLS or the backend has the word
}

// run greets the client and answers its commands until it logs in or leaves.
func (f *front) run(ctx context.Context) error {
	if err := f.capabilities(f.s.Hostname() + " ready"); err != nil {
		return err
	}
	for range maxCommands {
		line, err := f.conn.ReadLine(maxCommand)
		if err != nil {
			return err
		}
		switch err := f.command(ctx, line); err {
		case nil:
		case errOver:
			return nil
		case errBad:
			if f.bad++; f.bad > maxBad {
				return fmt.Errorf("%w: %d bad commands", router.ErrProtocol, f.bad)
			}
		default:
			return err
		}
	}
	return fmt.Errorf("%w: more than %d commands before login", router.ErrProtocol, maxCommands)
}

// command reads the rest of a command and answers it.
func (f *front) command(ctx context.Context, line []byte) error {
	verb, rest, _ := strings.Cut(string(line), " ")
	if strings.EqualFold(verb, "XCLIENT") { // its arguments have a grammar of their own
		return f.xclient(rest)
	}
	tokens, err := readTokens(f.conn, line, maxCommand, true)
	switch {
	case errors.Is(err, errSyntax):
		return f.wrong("Malformed command")
	case err != nil:
		return err
	case len(tokens) == 0 || tokens[0].kind != word:
		return f.wrong("Command missing")
	}
	verb, args := tokens[0].text, tokens[1:]
	for _, a := range args {
		if a.kind != text {
			return f.wrong("Arguments must be strings")
		}
	}
	switch {
	case verb == "AUTHENTICATE":
		return f.authenticate(ctx, args)
	case verb == "NOOP" && len(args) == 1:
		return f.conn.Line("OK (TAG %s) \"Done\"", quote(args[0].text)) // RFC 5804 §2.13
	}
	switch verb {
	case "CAPABILITY", "STARTTLS", "NOOP", "LOGOUT":
		if len(args) > 0 {
			return f.wrong("Too many arguments")
		}
	}
	switch verb {
	case "CAPABILITY":
		return f.capabilities("Done")
	case "STARTTLS":
		return f.startTLS(ctx)
	case "NOOP":
		return f.conn.Line(`OK "Done"`)
	case "LOGOUT":
		if err := f.conn.Line(`OK "Bye"`); err != nil {
			return err
		}
		return errOver
	default:
		return f.wrong("Unknown command, or not allowed before login")
	}
}

// wrong answers a command that makes no sense.
func (f *front) wrong(reason string) error {
	if err := f.conn.Line("NO %s", quote(reason)); err != nil {
		return err
	}
	return errBad
}

// capabilities sends what may be promised before login (RFC 5804 §1.7), and OK.
func (f *front) capabilities(ok string) error {
	line := func(name, value string) { f.conn.Printf("%s %s\r\n", quote(name), quote(value)) }
	offer := f.p.offer()
	line("IMPLEMENTATION", "Switchyard")
	line("SASL", strings.Join(f.s.Mechanisms(), " "))
	line("SIEVE", strings.Join(offer.extensions, " "))
	if len(offer.notify) > 0 {
		line("NOTIFY", strings.Join(offer.notify, " "))
	}
	if offer.redirects != "" {
		line("MAXREDIRECTS", offer.redirects)
	}
	if f.s.MayStartTLS() {
		f.conn.WriteString("\"STARTTLS\"\r\n")
	}
	if f.s.Trusted() {
		f.conn.WriteString("\"XCLIENT\"\r\n")
	}
	line("VERSION", "1.0")
	return f.conn.Line("OK %s", quote(ok))
}

// startTLS answers STARTTLS (RFC 5804 §2.2). Behind the handshake the list is sent
// anew, and bytes behind the command end the session.
func (f *front) startTLS(ctx context.Context) error {
	switch {
	case f.s.TLS():
		return f.wrong("TLS is active already")
	case !f.s.MayStartTLS():
		return f.wrong("TLS is not offered here")
	case f.conn.Buffered() > 0:
		return wire.ErrBytesBehindStartTLS
	}
	if err := f.conn.Line(`OK "Begin TLS negotiation now"`); err != nil {
		return err
	}
	f.quiet = true
	if err := f.s.StartTLS(ctx); err != nil {
		return err
	}
	f.quiet = false
	return f.capabilities("TLS is active")
}

// xclient takes over what another proxy of ours says about its client. To anyone
// else it is an unknown command.
func (f *front) xclient(args string) error {
	if !f.s.Trusted() {
		return f.wrong("Unknown command, or not allowed before login")
	}
	o, _, err := origin.ParseXCLIENT(origin.POP3, args)
	if err != nil {
		return f.wrong("Malformed client identity")
	}
	if err := f.s.Believe(o); err != nil {
		return err
	}
	return f.conn.Line(`OK "Updated"`)
}

// refuse words a failed login, and ends the session behind the last try.
func (f *front) refuse(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := f.conn.Line("%s", f.refusal(err)); err != nil {
		return err
	}
	if f.s.Exhausted() {
		if err := f.conn.Line(`BYE "Too many failed logins"`); err != nil {
			return err
		}
		return errOver
	}
	return nil
}
