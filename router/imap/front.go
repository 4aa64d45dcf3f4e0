package imap

import (
	"context"
	"errors"
	"fmt"

	"switchyard/internal/origin"
	"switchyard/internal/wire"
	"switchyard/router"
	"switchyard/router/upstream"
)

// errOver ends the loop of a session that ended in order.
var errOver = errors.New("session is over")

// front is the client's side of a session.
type front struct {
	s     *router.Session
	conn  *wire.Conn
	bad   int
	quiet bool // nothing of ours may be written any more: TLS or the backend has the word
}

// run greets the client and answers its commands until it logs in or leaves.
func (f *front) run(ctx context.Context) error {
	if err := f.conn.Say("* OK [CAPABILITY ", f.capabilities(), "] ", f.s.Hostname(), " ready"); err != nil {
		return err
	}
	for range maxCommands {
		c, err := f.readCommand()
		if err == nil {
			err = f.command(ctx, c)
		}
		var syntax *syntaxError
		switch {
		case err == nil:
		case err == errOver:
			return nil
		case errors.As(err, &syntax):
			if err := f.mistake(syntax); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return fmt.Errorf("%w: more than %d commands before login", router.ErrProtocol, maxCommands)
}

// mistake answers a command that cannot be understood or is not allowed here.
func (f *front) mistake(e *syntaxError) error {
	if f.bad++; f.bad > maxBad {
		return fmt.Errorf("%w: %d bad commands, at last: %s", router.ErrProtocol, f.bad, e.reason)
	}
	return f.conn.Line("%s BAD %s", e.tag, e.reason)
}

// command answers one command.
func (f *front) command(ctx context.Context, c *command) error {
	switch c.name {
	case "CAPABILITY":
		if !c.args.end() {
			return c.wrong("CAPABILITY takes no arguments")
		}
		f.conn.Printf("* CAPABILITY %s\r\n", f.capabilities())
		return f.conn.Line("%s OK Done", c.tag)
	case "NOOP":
		if !c.args.end() {
			return c.wrong("NOOP takes no arguments")
		}
		return f.conn.Line("%s OK Done", c.tag)
	case "LOGOUT":
		if !c.args.end() {
			return c.wrong("LOGOUT takes no arguments")
		}
		f.conn.WriteString("* BYE Logging out\r\n")
		if err := f.conn.Line("%s OK Done", c.tag); err != nil {
			return err
		}
		return errOver
	case "ID":
		return f.id(c)
	case "STARTTLS":
		return f.startTLS(ctx, c)
	case "LOGIN":
		return f.login(ctx, c)
	case "AUTHENTICATE":
		return f.authenticate(ctx, c)
	case "":
		return c.wrong("Command missing")
	default:
		return c.wrong("Unknown command, or not allowed before login")
	}
}

// id answers ID by itself; what the client says about itself goes nowhere. Only
// another proxy of ours is believed (RFC 2971, and Dovecot's keys).
func (f *front) id(c *command) error {
	pairs, ok := c.args.idPairs()
	if !ok || !c.args.end() {
		return c.wrong("ID takes NIL or a list of at most 30 pairs")
	}
	o, ok, err := origin.FromID(pairs)
	if err != nil && f.s.Trusted() {
		return c.wrong("Malformed client identity")
	}
	if ok && err == nil {
		if err := f.s.Believe(o); err != nil {
			return err
		}
	}
	f.conn.WriteString("* ID (\"name\" \"Switchyard\")\r\n")
	return f.conn.Line("%s OK Done", c.tag)
}

// startTLS upgrades the connection. RFC 9051 §6.2.1: the client must throw away
// what it knew, and so do we; there is nothing to throw but the bytes behind the
// command, and those end the session.
func (f *front) startTLS(ctx context.Context, c *command) error {
	switch {
	case !c.args.end():
		return c.wrong("STARTTLS takes no arguments")
	case f.s.TLS():
		return c.wrong("TLS is active already")
	case !f.s.MayStartTLS():
		return c.wrong("TLS is not offered here")
	}
	if f.conn.Buffered() > 0 {
		return wire.ErrBytesBehindStartTLS
	}
	if err := f.conn.Line("%s OK Begin TLS negotiation now", c.tag); err != nil {
		return err
	}
	f.quiet = true
	if err := f.s.StartTLS(ctx); err != nil {
		return err
	}
	f.quiet = false
	return nil
}

// login answers LOGIN (RFC 9051 §6.2.3).
func (f *front) login(ctx context.Context, c *command) error {
	user, okUser := c.args.astring()
	password, okPassword := c.args.spaceAstring()
	if !okUser || !okPassword || !c.args.end() {
		return c.wrong("LOGIN takes a user name and a password")
	}
	if !f.s.MayLogin() {
		return f.private(c)
	}
	l, err := f.s.Password(ctx, "", user, password)
	if err != nil {
		return f.refuse(ctx, c, err)
	}
	return f.enter(ctx, c, l, &exchange{})
}

// private refuses a password on a connection that anyone can read.
func (f *front) private(c *command) error {
	return f.conn.Line("%s NO [PRIVACYREQUIRED] Passwords need TLS here", c.tag)
}

// enter opens the session on the backend and joins it. x is the exchange that the
// backend may go on with.
func (f *front) enter(ctx context.Context, c *command, login *router.Login, x *exchange) error {
	l := &backLogin{s: f.s, login: login}
	b, err := f.s.Enter(ctx, login, upstream.IMAP, l.run)
	switch {
	case x.broken != nil:
		return x.broken
	case err != nil:
		return f.refuse(ctx, c, err)
	}
	defer b.Close()
	for _, line := range l.welcome.untagged {
		f.conn.WriteString(line)
		f.conn.WriteString("\r\n")
	}
	for _, word := range []string{c.tag, " ", l.welcome.ok, "\r\n"} {
		f.conn.WriteString(word)
	}
	f.quiet = true
	if err := f.s.Join(ctx, b); err != nil {
		return err
	}
	return errOver
}

// refuse words a failed login, and says goodbye behind the last try.
func (f *front) refuse(ctx context.Context, c *command, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := f.conn.Line("%s %s", c.tag, f.refusal(err)); err != nil {
		return err
	}
	if !f.s.Exhausted() {
		return nil
	}
	if err := f.conn.Line("* BYE Too many failed logins"); err != nil {
		return err
	}
	return errOver
}
