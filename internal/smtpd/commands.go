package smtpd

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"switchyard/internal/origin"
	"switchyard/internal/probe"
	"switchyard/internal/wire"
)

// command runs one command.
func (c *Conn) command(ctx context.Context, line []byte) error {
	verb, arg := cutVerb(line)
	switch {
	case len(line) > maxLine && verb != "AUTH":
		return c.mistake(500, "5.5.2", "line too long")
	case bytes.ContainsFunc(line, unicode.IsControl) || !utf8.Valid(line):
		return c.mistake(500, "5.5.2", "line has characters that no command has")
	case verb == "BDAT":
		return c.chunk(ctx, arg)
	}
	if c.o.RequireAuth && !c.authed && !beforeLogin(verb) {
		return c.mistake(530, "5.7.0", "authentication required")
	}
	switch verb {
	case "EHLO", "HELO", "LHLO":
		return c.helo(verb, arg)
	case "MAIL":
		return c.mail(ctx, arg)
	case "RCPT":
		return c.rcpt(ctx, arg)
	case "DATA":
		return c.data(ctx, arg)
	case "RSET":
		c.reset()
		c.answer(replyOK)
	case "NOOP":
		c.answer(replyOK)
	case "QUIT":
		c.say(221, "2.0.0", "goodbye")
		return errQuit
	case "STARTTLS":
		return c.startTLS(ctx, arg)
	case "AUTH":
		return c.auth(ctx, arg)
	case "XCLIENT":
		return c.xclient(ctx, arg)
	case "VRFY":
		// RFC 5321 §3.5.3: 252 for one who will not tell.
		c.say(252, "2.5.2", "send some mail, it will be tried")
	case "EXPN":
		// Refused for good: who is on a list is nobody's business (RFC 5321 §7.3).
		return c.mistake(502, "5.5.1", "lists are not expanded")
	case "HELP":
		c.say(214, "2.0.0", "RFC 5321")
	default:
		return c.mistake(500, "5.5.1", "unknown command")
	}
	return nil
}

// cutVerb takes the verb from a line, in capitals.
func cutVerb(line []byte) (verb, arg string) {
	verb, arg, _ = strings.Cut(string(line), " ")
	return strings.ToUpper(verb), arg
}

// beforeLogin tells the commands that need no login where one is required. Of
// the unknown ones too it is said that they are unknown.
func beforeLogin(verb string) bool {
	switch verb {
	case "MAIL", "RCPT", "DATA", "VRFY", "EXPN":
		return false
	}
	return true
}

func (c *Conn) helo(verb, arg string) error {
	if c.o.LMTP != (verb == "LHLO") {
		// RFC 2033 §4.1.
		return c.mistake(500, "5.5.1", "unknown command, this is "+map[bool]string{true: "LMTP", false: "SMTP"}[c.o.LMTP])
	}
	name := strings.Trim(arg, " ")
	if name == "" || len(name) > maxDomain || strings.ContainsFunc(name, notPrintable) {
		return c.mistake(501, "5.5.4", verb+" takes the name of the client")
	}
	c.reset() // RFC 5321 §4.1.4
	c.hello, c.extended = name, verb != "HELO"
	if !c.extended {
		c.say(250, "", c.o.Hostname)
		return nil
	}
	c.say(250, "", strings.Join(append([]string{c.o.Hostname}, c.keywords()...), "\n"))
	return nil
}

func notPrintable(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }

// keywords is what EHLO offers now.
func (c *Conn) keywords() []string {
	var out []string
	if c.offerer != nil {
		out = c.offerer.Offers()
	} else {
		out = append(out, "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "SMTPUTF8", "DSN")
		out = append(out, strings.TrimSuffix("SIZE "+strconv.FormatInt(c.o.MaxSize, 10), " 0"))
		out = append(out, c.limits())
	}
	if c.mayStartTLS() {
		out = append(out, "STARTTLS")
	}
	if c.mayAuth() && !c.authed {
		out = append(out, "AUTH "+strings.Join(c.offered(), " "))
	}
	if c.mayIdentify() {
		out = append(out, "XCLIENT "+strings.Join(origin.XCLIENTNames(), " "), PipeLogin)
	}
	if c.prober != nil && !c.authed && c.prober.OffersProbe() {
		out = append(out, probe.Capability)
	}
	if c.offers().private {
		out = append(out, "XRCPTFORWARD", "XTRACELEN", "XRELAY")
	}
	return out
}

// limits is the keyword of RFC 9422. What it says is kept, and no less is taken.
func (c *Conn) limits() string {
	out := "LIMITS"
	for _, l := range []struct {
		name  string
		value int
	}{{"MAILMAX", c.o.MaxMessages}, {"RCPTMAX", c.o.MaxRecipients}, {"RCPTDOMAINMAX", c.o.MaxDomains}} {
		if l.value > 0 {
			out += " " + l.name + "=" + strconv.Itoa(l.value)
		}
	}
	return out
}

func (c *Conn) offers() offers {
	return offers{auth: c.authenticator != nil, private: c.private != nil && c.private.OffersPrivate()}
}

func (c *Conn) mail(ctx context.Context, arg string) error {
	switch {
	case c.hello == "":
		return c.mistake(503, "5.5.1", "say "+c.hailing()+" first")
	case c.open:
		return c.mistake(503, "5.5.1", "there is a sender already")
	}
	if c.mails++; c.o.MaxMessages > 0 && c.mails > c.o.MaxMessages {
		c.say(452, "4.5.3", "too many messages on one connection, come back on another")
		return nil
	}
	arg, ok := cutKeyword(arg, "FROM:")
	if !ok {
		return c.mistake(501, "5.5.4", "syntax: MAIL FROM:<address>")
	}
	from, rest, err := parsePath(arg)
	if err != nil || from.Domain == "" && !from.IsNull() {
		return c.mistake(501, "5.1.7", "malformed sender address")
	}
	p, err := parseMail(rest, c.offers())
	switch {
	case errors.Is(err, errTooBig), err == nil && c.o.MaxSize > 0 && p.Size > c.o.MaxSize:
		c.decide(errOverSize, Reply{}) // RFC 1870 §6.1
		return nil
	case err != nil:
		return c.badParameter(err)
	case !p.UTF8 && !from.ASCII():
		return c.mistake(553, "5.6.7", "address needs SMTPUTF8") // RFC 6531 §3.5
	}
	c.utf8 = p.UTF8
	if c.decide(c.session.Mail(ctx, from, p), Reply{250, "2.1.0", "sender ok"}) {
		c.open = true
	} else {
		c.utf8 = false
	}
	return nil
}

func (c *Conn) rcpt(ctx context.Context, arg string) error {
	if !c.open {
		return c.mistake(503, "5.5.1", "say MAIL first")
	}
	arg, ok := cutKeyword(arg, "TO:")
	if !ok {
		return c.mistake(501, "5.5.4", "syntax: RCPT TO:<address>")
	}
	to, rest, err := parsePath(arg)
	if err != nil || to.IsNull() || to.Domain == "" && !strings.EqualFold(to.Local, "postmaster") {
		return c.mistake(501, "5.1.3", "malformed recipient address")
	}
	p, err := parseRcpt(rest, c.offers())
	switch {
	case err != nil:
		return c.badParameter(err)
	case !c.utf8 && !to.ASCII():
		return c.mistake(553, "5.6.7", "address needs SMTPUTF8")
	case c.accepted >= c.o.MaxRecipients:
		c.say(452, "4.5.3", "too many recipients") // RFC 5321 §4.5.3.1.10
		return nil
	case !c.mayName(to.Domain):
		c.say(452, "4.5.3", "too many domains on one connection, come back on another")
		return nil
	}
	if c.decide(c.session.Rcpt(ctx, to, p), Reply{250, "2.1.5", "recipient ok"}) {
		c.accepted++
	}
	return nil
}

// mayName counts the domains of recipients.
func (c *Conn) mayName(domain string) bool {
	domain = strings.ToLower(domain)
	if c.o.MaxDomains <= 0 || c.domains[domain] {
		return true
	}
	if len(c.domains) >= c.o.MaxDomains {
		return false
	}
	if c.domains == nil {
		c.domains = make(map[string]bool)
	}
	c.domains[domain] = true
	return true
}

func (c *Conn) badParameter(err error) error {
	if errors.Is(err, errUnknown) {
		return c.mistake(555, "5.5.4", err.Error()) // RFC 5321 §4.1.1.11
	}
	return c.mistake(501, "5.5.4", err.Error())
}

// hailing is the command with which a client introduces itself.
func (c *Conn) hailing() string {
	if c.o.LMTP {
		return "LHLO"
	}
	return "EHLO"
}

// cutKeyword takes FROM: or TO: from an argument. Spaces behind it are no part
// of the grammar and common.
func cutKeyword(arg, keyword string) (string, bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", false
	}
	return strings.TrimLeft(arg[len(keyword):], " "), true
}

func (c *Conn) mayStartTLS() bool { return c.o.StartTLS != nil && !c.TLS() }

func (c *Conn) startTLS(ctx context.Context, arg string) error {
	switch {
	case c.TLS():
		return c.mistake(503, "5.5.1", "TLS is active already")
	case !c.mayStartTLS():
		return c.mistake(502, "5.5.1", "STARTTLS is not offered")
	case arg != "":
		return c.mistake(501, "5.5.4", "STARTTLS takes no argument")
	case c.authed:
		return c.mistake(503, "5.5.1", "not behind AUTH") // RFC 4954 §4
	case c.wire.Buffered() > 0:
		return wire.ErrBytesBehindStartTLS
	}
	c.say(220, "2.0.0", "ready for TLS")
	if err := c.flush(ctx); err != nil {
		return err
	}
	if err := c.o.StartTLS(ctx); err != nil {
		return handshakeError{err}
	}
	// RFC 3207 §4.2: what was said in clear counts for nothing.
	c.restart()
	c.identity = origin.Origin{}
	return nil
}

// handshakeError: STARTTLS was answered, and the handshake failed.
type handshakeError struct{ cause error }

func (e handshakeError) Error() string { return "TLS handshake: " + e.cause.Error() }
func (e handshakeError) Unwrap() error { return e.cause }
