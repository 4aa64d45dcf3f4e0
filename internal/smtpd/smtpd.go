// Package smtpd is the receiving side of SMTP and LMTP, once, for proxies and
// stores: the dialogue, its bounds and its parsers, and no mail policy. What
// becomes of a login, a recipient or a message is decided by a Session.
//
//	S: 220 mx.example ESMTP
//	C: EHLO client.example
//	S: 250-mx.example … 250 SMTPUTF8
//	C: MAIL FROM:<a@client.example>        Session.Mail
//	C: RCPT TO:<b@mx.example>              Session.Rcpt
//	C: DATA                                Session.Data
//
// A caller accepts a connection, makes a wire.Conn of it and runs the dialogue:
//
//	conn := wire.NewConn(nc)
//	defer conn.Close()
//	defer conn.Bind(ctx)()
//	err := smtpd.Serve(ctx, conn, smtpd.Options{Hostname: "mx.example"}, func(c *smtpd.Conn) smtpd.Session { … })
//
// What it promises:
//
//   - Only CRLF.CRLF ends a message. A bare CR or LF in a message refuses it,
//     after it was read to its true end.
//   - Nothing of a message is ever run as a command: when a body cannot be read
//     to its end, the connection ends.
//   - Nothing that came before STARTTLS counts behind it, and bytes sent behind
//     the command end the connection.
//   - Before login a session holds two buffers of 4 KiB and one line of at most
//     16 KiB.
package smtpd

import (
	"context"
	"io"
	"time"

	"switchyard/internal/origin"

	"go.uber.org/zap"
)

// Session decides about one connection's logins, senders, recipients and
// messages. Its methods are called one at a time.
//
// An error that is a Reply is said to the client as it is; nil is the command's
// own 2xx; any other error is logged and becomes 451 4.3.0 (421 4.3.2 when the
// daemon stops). See ReplyOf.
type Session interface {
	// Mail begins a transaction. After nil, Reset will be called, once.
	Mail(ctx context.Context, from Path, p MailParams) error

	// Rcpt adds a recipient. Recipients are not told apart by smtpd: one that
	// is named twice is passed on twice, and counts twice in Data's answer.
	Rcpt(ctx context.Context, to Path, p RcptParams) error

	// Data takes the message. At least one recipient was accepted before.
	//
	// The body is unstuffed and ends in CRLF, unless it came by BDAT from a
	// client that left that out. It is whole when Read returns io.EOF, and not
	// otherwise: after any other error the message must be forgotten, and what
	// Data returns then is not said. (The client hears the error if that is a
	// Reply, else the connection ends: ReplyOf is good for a log.) Data may return without reading to the
	// end: what remains is read over before the answer is given. The reader
	// must not be used after Data has returned.
	//
	// SMTP takes one reply. LMTP takes one for each accepted recipient, in
	// their order (RFC 2033 §4.2).
	Data(ctx context.Context, body io.Reader) []Reply

	// Reset ends the transaction, after Data or instead of it.
	Reset()
}

// Authenticator is a Session with which clients may log in. AUTH is offered for
// it only.
type Authenticator interface {
	// Auth checks a login. A Reply of 5xx counts as a failed one, see
	// Options.MaxAuthFailures; one that wraps ErrAuthFailures as well is the
	// last. ErrTakeOver says that the session goes on without smtpd.
	Auth(ctx context.Context, c Credentials) error
}

// Identifier is a Session that may believe what a proxy says about its client.
// XCLIENT is offered for it only.
type Identifier interface {
	// Trusts reports whether the peer's word is believed now; it decides about
	// offering XCLIENT and about obeying it. It may depend on TLS.
	Trusts() bool

	// Identify takes over a client's identity. It is called once, for the
	// XCLIENT that sets ADDR, with all that earlier ones said: before login and
	// outside of transactions. After nil the dialogue is back at its greeting.
	Identify(ctx context.Context, o origin.Origin) error
}

// Prober is a Session whose AUTH answers proxies that ask how this node is
// (internal/probe). That is offered while the peer may ask.
type Prober interface {
	// OffersProbe is asked at EHLO, before login.
	OffersProbe() bool
}

// Private is a Session that takes the parameters that our proxies add:
// XRCPTFORWARD on RCPT (RcptParams.Generation) and XTRACELEN on MAIL
// (MailParams.Trace). They are offered for it only.
type Private interface {
	// OffersPrivate is asked at EHLO and at each use.
	OffersPrivate() bool
}

// Credentials is a login as the client made it.
type Credentials struct {
	Mechanism string // "PLAIN" or "LOGIN"
	Authzid   string // whose mail; empty: the same as Username
	Username  string
	Password  string
}

// String never shows the password.
func (c Credentials) String() string   { return c.Mechanism + " " + c.Username }
func (c Credentials) GoString() string { return c.String() }

// MailParams are the parameters of MAIL.
type MailParams struct {
	Size  int64  // as declared (RFC 1870); zero: not said
	Body  string // "7BIT", "8BITMIME" or "" (RFC 6152)
	UTF8  bool   // SMTPUTF8 (RFC 6531)
	Ret   string // "FULL", "HDRS" or "" (RFC 3461 §4.3)
	EnvID string // decoded; "" when not said (RFC 3461 §4.4)
	Auth  string // decoded: a mailbox, "<>", or "" when not said (RFC 4954 §5); not believed

	// Trace is the length of what the proxy put in front of the message
	// (XTRACELEN); zero: not said.
	Trace int64
}

// RcptParams are the parameters of RCPT.
type RcptParams struct {
	Notify    string // "NEVER", or SUCCESS, FAILURE and DELAY with commas between; "": not said (RFC 3461 §4.1)
	ORcptType string // the address type of ORCPT, such as "rfc822"; "": not said
	ORcpt     string // the original recipient, decoded (RFC 3461 §4.2)

	// Relay says that the recipient is none of the cluster's: a proxy found
	// the address behind an alias or in a relayed domain (XRELAY).
	Relay bool

	// Generation is the account's home generation that the proxy knows
	// (XRCPTFORWARD); zero: not said.
	Generation uint64
}

// Options for Serve. The zero value works: SMTP without TLS and login.
type Options struct {
	Hostname string // what the server calls itself; empty: "localhost"

	LMTP bool // LHLO, and one reply for each recipient (RFC 2033)

	// StartTLS performs the handshake behind the answer to STARTTLS; see
	// wire.Conn.ServerTLS. Nil: STARTTLS is not offered. It is not offered on
	// an encrypted connection in any case.
	StartTLS func(ctx context.Context) error

	// AllowCleartextAuth permits AUTH without TLS.
	AllowCleartextAuth bool

	// RequireAuth refuses all but EHLO, STARTTLS, AUTH, XCLIENT, NOOP, RSET,
	// HELP and QUIT before login (530 5.7.0).
	RequireAuth bool

	// LoginTimeout is how long a client may take from the greeting to the end
	// of its login, where one is required, everything included. Zero means
	// that the caller has set the connection's deadline and will lift it.
	LoginTimeout time.Duration

	// MaxSize bounds a message in bytes, and is what SIZE announces. Zero
	// means no bound.
	MaxSize int64

	// MaxRecipients bounds the accepted recipients of a transaction. Zero, and
	// less than the 100 of RFC 5321 §4.5.3.1.8, mean 100.
	MaxRecipients int

	// MaxMessages bounds the MAIL commands of a connection, and MaxDomains the
	// different domains of its recipients. What they refuse has to come on
	// another connection (452 4.5.3). Zero: no bound.
	MaxMessages int
	MaxDomains  int

	// Pause is how long the greeting waits for a client that does not: one that
	// speaks before it is refused (554 5.5.0), since it listens to nobody. Zero: it
	// does not wait, and does not see.
	Pause time.Duration

	// CommandTimeout bounds the wait for the next command, and DataTimeout
	// each wait within a message. Zero means 5 minutes for both (RFC 5321
	// §4.5.3.2.7).
	CommandTimeout time.Duration
	DataTimeout    time.Duration

	// MaxMistakes is how many unknown, malformed or misplaced commands end the
	// connection; an accepted message forgives them. Zero means 10.
	MaxMistakes int

	// MaxAuthFailures is how many failed logins end the connection. Zero means
	// 3.
	MaxAuthFailures int

	Logger *zap.Logger // nil: none
}

func (o *Options) fill() {
	if o.Hostname == "" {
		o.Hostname = "localhost"
	}
	o.MaxRecipients = max(o.MaxRecipients, 100)
	if o.CommandTimeout == 0 {
		o.CommandTimeout = 5 * time.Minute
	}
	if o.DataTimeout == 0 {
		o.DataTimeout = 5 * time.Minute
	}
	if o.MaxMistakes == 0 {
		o.MaxMistakes = 10
	}
	if o.MaxAuthFailures == 0 {
		o.MaxAuthFailures = 3
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}
