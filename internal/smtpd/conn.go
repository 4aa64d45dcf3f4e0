package smtpd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"switchyard/internal/origin"
	"switchyard/internal/server"
	"switchyard/internal/wire"

	"go.uber.org/zap"
)

var (
	// ErrTakeOver is what Authenticator.Auth returns, and Serve then, when the
	// session goes on without smtpd. Nothing was answered to AUTH; bytes that
	// the client pipelined behind it are still in the connection.
	ErrTakeOver = errors.New("session is taken over")

	// ErrMistakes: too many unknown, malformed or misplaced commands.
	ErrMistakes = errors.New("too many mistakes")

	// ErrAuthFailures: too many failed logins.
	ErrAuthFailures = errors.New("too many failed logins")

	// ErrEarly: the client spoke before the greeting.
	ErrEarly = errors.New("client speaks before the greeting")

	// ErrChunk: what follows a BDAT cannot be told from commands, or is more
	// than is worth reading.
	ErrChunk = errors.New("chunk cannot be read over")

	// ErrEndless: a refused message went on for too long.
	ErrEndless = errors.New("refused message does not end")

	errQuit = errors.New("quit")
)

// maxLine bounds a command, and maxInput what is read for one: AUTH may carry a
// whole SASL message. RFC 5321 §4.5.3.1.4 has 512 bytes, and the parameters
// that we offer add less than 1,200 (RFC 3461 §5 to §6, RFC 4954 §4).
const (
	maxLine  = 2048
	maxInput = wire.MaxSASL + 64
)

// maxHold is how long an answer may wait for the rest of its batch: the client's
// patience is counted from its command, and each of a hundred recipients may
// take a while.
const maxHold = time.Second

// goodbyeTimeout bounds the last write to a client whose time is over.
const goodbyeTimeout = time.Second

// Conn is one dialogue. It belongs to the goroutine that runs Serve: a Session
// asks it from its own methods only.
type Conn struct {
	o       Options
	wire    *wire.Conn
	session Session

	// Optional abilities of the session; nil without.
	authenticator Authenticator
	mechanist     Mechanist
	offerer       Offerer
	identifier    Identifier
	private       Private
	prober        Prober

	hello    string // what HELO, EHLO or LHLO said; "" before
	extended bool   // it was EHLO or LHLO
	authed   bool

	identity   origin.Origin // what XCLIENTs said so far
	identified bool          // one of them had ADDR

	open     bool // Mail said yes and Reset was not called yet
	utf8     bool // the transaction's SMTPUTF8
	accepted int  // its recipients

	mails   int             // MAIL commands so far
	domains map[string]bool // of recipients, while Options.MaxDomains bounds them

	held     time.Time // since when answers wait in the buffer; zero: there are none
	pending  []byte    // a command that was read within a message, to be run next
	mistakes int
	failures int
}

// Serve runs one dialogue, from the greeting to the goodbye. The caller keeps
// conn and closes it; implicit TLS is done before. What ends the wait for a
// client is the connection's idle time (which Serve sets) and deadline, and the
// end of ctx, to which the caller has bound it. It returns nil behind QUIT,
// ErrTakeOver, ErrMistakes, ErrAuthFailures, ErrEarly, ErrChunk, ErrEndless,
// wire.ErrLineTooLong, wire.ErrBareLF, wire.ErrBytesBehindStartTLS, the cause of
// ctx, or the connection's own error.
func Serve(ctx context.Context, conn *wire.Conn, o Options, open func(*Conn) Session) error {
	o.fill()
	c := &Conn{o: o, wire: conn}
	c.session = open(c)
	c.authenticator, _ = c.session.(Authenticator)
	c.mechanist, _ = c.session.(Mechanist)
	c.offerer, _ = c.session.(Offerer)
	c.identifier, _ = c.session.(Identifier)
	c.private, _ = c.session.(Private)
	c.prober, _ = c.session.(Prober)
	defer c.reset()
	if o.RequireAuth && o.LoginTimeout > 0 {
		conn.SetDeadline(time.Now().Add(o.LoginTimeout))
	}
	conn.SetIdle(o.CommandTimeout)
	err := c.run(ctx)
	switch {
	case errors.Is(err, ErrTakeOver):
		return ErrTakeOver
	case errors.Is(err, errQuit):
		return c.flush(ctx)
	}
	c.farewell(err)
	return err
}

// Hello returns what the client called itself, "" before it did. It is printable
// and has no spaces, and is not to be believed.
func (c *Conn) Hello() string { return c.hello }

// TLS reports whether the client's connection is encrypted.
func (c *Conn) TLS() bool { return c.wire.TLS() != nil }

// Authenticated reports whether the client has logged in.
func (c *Conn) Authenticated() bool { return c.authed }

// Peer is the socket's own remote address.
func (c *Conn) Peer() netip.AddrPort { return c.wire.RemoteAddr() }

// Recipients returns how many recipients of the transaction were accepted.
func (c *Conn) Recipients() int { return c.accepted }

// With is the protocol's name for a Received field (RFC 3848, RFC 6531 §4.3).
func (c *Conn) With() string {
	with := "SMTP"
	switch {
	case c.o.LMTP && c.utf8:
		with = "UTF8LMTP"
	case c.o.LMTP:
		with = "LMTP"
	case c.utf8:
		with = "UTF8SMTP"
	case c.extended:
		with = "ESMTP"
	default:
		return with
	}
	if c.TLS() {
		with += "S"
	}
	if c.authed {
		with += "A"
	}
	return with
}

// run reads and answers commands until one of them, or the connection, ends the
// dialogue.
func (c *Conn) run(ctx context.Context) error {
	if err := c.pause(ctx); err != nil {
		return err
	}
	c.greet()
	for {
		line, err := c.read(ctx)
		if err != nil {
			return err
		}
		if err := c.command(ctx, line); err != nil {
			return err
		}
	}
}

// pause waits with the greeting (RFC 5321 §4.3.1: a client waits for it).
func (c *Conn) pause(ctx context.Context) error {
	if c.o.Pause <= 0 {
		return nil
	}
	c.wire.SetIdle(c.o.Pause)
	_, err := c.wire.Peek(1)
	c.wire.SetIdle(c.o.CommandTimeout)
	switch {
	case err == nil:
		return ErrEarly
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case wire.IsTimeout(err):
		return nil
	}
	return err
}

func (c *Conn) greet() {
	if c.o.LMTP {
		c.say(220, "", c.o.Hostname+" LMTP")
	} else {
		c.say(220, "", c.o.Hostname+" ESMTP")
	}
}

// read returns the next command. The line is valid until the next read.
// Answers are sent when no further command is waiting, so that a batch of
// commands gets a batch of answers in one write (RFC 2920 §3.2).
func (c *Conn) read(ctx context.Context) ([]byte, error) {
	if c.pending != nil {
		line := c.pending
		c.pending = nil
		return line, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if !c.waiting() || !c.held.IsZero() && time.Since(c.held) > maxHold {
		if err := c.flush(ctx); err != nil {
			return nil, err
		}
	}
	return c.wire.ReadLine(maxInput)
}

// waiting reports whether a whole line has been received.
func (c *Conn) waiting() bool {
	buffered, err := c.wire.Peek(c.wire.Buffered())
	return err == nil && bytes.IndexByte(buffered, '\n') >= 0
}

// flush sends the answers, also those to commands that were done before the
// daemon was told to stop.
func (c *Conn) flush(ctx context.Context) error {
	if ctx.Err() != nil {
		c.wire.Resume()
		c.wire.SetIdle(goodbyeTimeout)
	}
	c.held = time.Time{}
	return c.wire.Flush()
}

// answer puts a reply into the buffer.
func (c *Conn) answer(r Reply) {
	var room [128]byte
	c.wire.Write(r.append(room[:0]))
	if c.held.IsZero() {
		c.held = time.Now()
	}
}

func (c *Conn) say(code int, enhanced, text string) { c.answer(Reply{code, enhanced, text}) }

// decide answers with what the session said, or with ok for nil, and reports
// whether that was a yes.
func (c *Conn) decide(err error, ok Reply) bool {
	r := ok
	if err != nil {
		r = c.replyOf(err)
	}
	c.answer(r)
	return r.Positive()
}

// replyOf is ReplyOf; what does not come out of it is logged.
func (c *Conn) replyOf(err error) Reply {
	r := ReplyOf(err)
	if r == replyInternal {
		c.o.Logger.Error("cannot be decided", zap.Error(err))
	}
	return r
}

// mistake answers a command that is unknown, malformed or out of place.
func (c *Conn) mistake(code int, enhanced, text string) error {
	c.say(code, enhanced, text)
	if c.mistakes++; c.mistakes >= c.o.MaxMistakes {
		return ErrMistakes
	}
	return nil
}

// reset ends the transaction, if there is one.
func (c *Conn) reset() {
	if c.open {
		c.session.Reset()
	}
	c.open, c.utf8, c.accepted = false, false, 0
}

// restart goes back to the state behind the greeting.
func (c *Conn) restart() {
	c.reset()
	c.hello, c.extended = "", false
}

// farewell tells the client why the connection ends, where that can be said.
func (c *Conn) farewell(err error) {
	if errors.As(err, new(handshakeError)) {
		return // nothing can be said in a broken handshake
	}
	c.wire.Resume()
	c.wire.SetIdle(goodbyeTimeout)
	c.wire.SetDeadline(time.Now().Add(goodbyeTimeout))
	switch {
	case errors.Is(err, server.ErrShutdown):
		c.answer(replyShutdown)
	case errors.Is(err, ErrMistakes), errors.Is(err, ErrAuthFailures):
		c.say(421, "4.7.0", fmt.Sprint(err, ", goodbye"))
	case errors.Is(err, ErrEarly):
		c.say(554, "5.5.0", "wait for the greeting, goodbye")
	case errors.Is(err, wire.ErrLineTooLong):
		c.say(500, "5.5.2", "line too long, goodbye")
	case errors.Is(err, wire.ErrBareLF):
		c.say(500, "5.5.2", "lines end in CRLF, goodbye")
	case errors.Is(err, wire.ErrBytesBehindStartTLS):
		c.say(501, "5.5.1", "nothing may follow STARTTLS, goodbye")
	case wire.IsTimeout(err):
		c.say(421, "4.4.2", "timeout, goodbye")
	}
	c.wire.Flush()
}
