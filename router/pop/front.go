package pop

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"switchyard/internal/origin"
	"switchyard/internal/wire"
	"switchyard/router"
	"switchyard/router/upstream"
)

// errOver ends the loop of a session that ended in order.
var errOver = errors.New("session is over")

// errBad is a command that makes no sense; it has been answered.
var errBad = errors.New("bad command")

// front is the client's side of a session.
type front struct {
	s     *router.Session
	conn  *wire.Conn
	user  string // USER's argument, for PASS
	bad   int
	quiet bool // nothing of ours may be written any more: TLS or the backend has the word
}

// run greets the client and answers its commands until it logs in or leaves.
func (f *front) run(ctx context.Context) error {
	if err := f.greet(); err != nil {
		return err
	}
	for range maxCommands {
		line, err := f.conn.ReadLine(maxLine)
		if err != nil {
			return err
		}
		verb, args, hasArgs := strings.Cut(string(line), " ")
		switch err := f.command(ctx, strings.ToUpper(verb), args, hasArgs); err {
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

// greet sends the banner. Another proxy of ours learns there that it may say who
// its client is, in Dovecot's way.
func (f *front) greet() error {
	xclient := ""
	if f.s.Trusted() {
		xclient = "[XCLIENT] "
	}
	return f.conn.Line("+OK %s%s ready", xclient, f.s.Hostname())
}

func (f *front) command(ctx context.Context, verb, args string, hasArgs bool) error {
	switch verb {
	case "USER":
		return f.name(args)
	case "PASS":
		return f.pass(ctx, args)
	case "AUTH":
		return f.auth(ctx, args)
	case "XCLIENT":
		return f.xclient(args)
	}
	if hasArgs {
		switch verb {
		case "CAPA", "NOOP", "STLS", "QUIT":
			return f.wrong("%s takes no arguments", verb)
		}
	}
	switch verb {
	case "CAPA":
		f.conn.WriteString("+OK\r\n")
		for _, c := range f.capabilities() {
			f.conn.Printf("%s\r\n", c)
		}
		return f.conn.Line(".")
	case "NOOP":
		return f.conn.Line("+OK")
	case "STLS":
		return f.startTLS(ctx)
	case "QUIT":
		if err := f.conn.Line("+OK Bye"); err != nil {
			return err
		}
		return errOver
	default:
		return f.wrong("Unknown command, or not allowed before login")
	}
}

// wrong answers a command that makes no sense.
func (f *front) wrong(format string, args ...any) error {
	if err := f.conn.Line("-ERR "+format, args...); err != nil {
		return err
	}
	return errBad
}

// startTLS answers STLS (RFC 2595 §4). What was said before it is forgotten,
// and bytes behind it end the session.
func (f *front) startTLS(ctx context.Context) error {
	switch {
	case f.s.TLS():
		return f.wrong("TLS is active already")
	case !f.s.MayStartTLS():
		return f.wrong("TLS is not offered here")
	}
	f.user = ""
	if f.conn.Buffered() > 0 {
		return wire.ErrBytesBehindStartTLS
	}
	if err := f.conn.Line("+OK Begin TLS negotiation now"); err != nil {
		return err
	}
	f.quiet = true
	if err := f.s.StartTLS(ctx); err != nil {
		return err
	}
	f.quiet = false
	return nil
}

// xclient takes over what another proxy of ours says about its client. To
// anyone else it is an unknown command.
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
	return f.conn.Line("+OK Updated")
}

// name answers USER. It says yes to any name: whether it exists is nobody's
// business before the password.
func (f *front) name(user string) error {
	if !f.s.MayLogin() {
		return f.private()
	}
	if user == "" {
		return f.wrong("USER takes a name")
	}
	f.user = user
	return f.conn.Line("+OK")
}

// pass answers PASS. The password is all that follows the first space, spaces
// included (RFC 1939 §7).
func (f *front) pass(ctx context.Context, password string) error {
	if !f.s.MayLogin() {
		return f.private()
	}
	user := f.user
	f.user = ""
	if user == "" {
		return f.wrong("USER first")
	}
	l, err := f.s.Password(ctx, "", user, password)
	if err != nil {
		return f.refuse(ctx, err)
	}
	return f.enter(ctx, l, &exchange{})
}

// private refuses a password on a connection that anyone can read.
func (f *front) private() error {
	return f.conn.Line("-ERR [SYS/PERM] Passwords need TLS here")
}

// enter opens the session on the backend and joins it. x is the exchange that the
// backend may go on with.
func (f *front) enter(ctx context.Context, who *router.Login, x *exchange) error {
	l := &login{s: f.s, who: who}
	b, err := f.s.Enter(ctx, who, upstream.POP3, l.run)
	switch {
	case x.broken != nil:
		return x.broken
	case err != nil:
		return f.refuse(ctx, err)
	}
	defer b.Close()
	f.conn.Printf("%s\r\n", l.welcome)
	f.quiet = true
	if err := f.s.Join(ctx, b); err != nil {
		return err
	}
	return errOver
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
		return errOver
	}
	return nil
}
