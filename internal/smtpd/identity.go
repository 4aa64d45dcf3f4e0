package smtpd

import (
	"context"

	"switchyard/internal/origin"
)

// PipeLogin is the keyword by which a server says that it takes XCLIENT, the EHLO or
// LHLO that has to follow it, and AUTH with an initial response in one write. RFC
// 2920 §3.1 lets no command follow EHLO before it is answered, and a server that
// takes its word for it would refuse the client for talking early.
const PipeLogin = "XPIPELOGIN"

// mayIdentify reports whether XCLIENT is offered now: from a trusted peer,
// before login, and until one has said ADDR. After that the bytes on this
// connection may be the client's own.
func (c *Conn) mayIdentify() bool {
	return c.identifier != nil && !c.authed && !c.identified && c.identifier.Trusts()
}

func (c *Conn) xclient(ctx context.Context, arg string) error {
	switch {
	case c.identifier == nil:
		return c.mistake(500, "5.5.1", "unknown command")
	case c.open:
		return c.mistake(503, "5.5.1", "not within a transaction")
	case c.authed:
		return c.mistake(503, "5.5.1", "not behind AUTH")
	case c.identified:
		return c.mistake(503, "5.5.1", "the client is known already")
	case !c.identifier.Trusts():
		return c.mistake(550, "5.7.0", "not from here")
	}
	o, hasAddr, err := origin.ParseXCLIENT(origin.SMTP, arg)
	if err != nil || arg == "" {
		return c.mistake(501, "5.5.4", "malformed XCLIENT")
	}
	c.identity = merge(c.identity, o)
	if hasAddr {
		if err := c.identifier.Identify(ctx, c.identity); err != nil {
			c.answer(c.replyOf(err))
			return nil
		}
		c.identified = true
	}
	// The server is back where it was behind its greeting, and greets again.
	c.restart()
	c.greet()
	return nil
}

// merge adds what a further XCLIENT said to what the ones before it did.
func merge(old, o origin.Origin) origin.Origin {
	if o.Session == "" {
		o.Session = old.Session
	}
	if !o.Client.IsValid() {
		o.Client = old.Client
	}
	if !o.Local.IsValid() {
		o.Local = old.Local
	}
	if o.TTL == 0 {
		o.TTL = old.TTL
	}
	if o.Generation == 0 {
		o.Generation = old.Generation
	}
	if o.HELO == "" {
		o.HELO = old.HELO
	}
	o.TLS = o.TLS || old.TLS
	return o
}
