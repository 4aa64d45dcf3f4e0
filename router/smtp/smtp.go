// Package smtp is SMTP as a proxy speaks it: submission, where a user logs in
// and the session is spliced to the backend that owns the account, and inbound
// mail, where each recipient is offered to its own backend and the message goes
// to all of them.
//
// Submission:
//
//	C: EHLO … STARTTLS … AUTH PLAIN …      (front)
//	   directory: password right, home b1
//	S: b1: XCLIENT …, AUTH PLAIN as the proxy for the user
//	S: 235                                  and the two are joined
//
// Inbound:
//
//	C: MAIL FROM:<x@far.example>
//	C: RCPT TO:<anna@here.example>          directory: home b1; LMTP to b1, its answer is ours
//	C: RCPT TO:<bert@here.example>          directory: home b2; LMTP to b2
//	C: DATA …                               to b1 and b2 at once
//	S: 250 when both have it, else 451, or 5xx when nobody has it and nobody ever will
//
// LMTP is inbound mail from the operator's own servers, with an answer for each
// recipient.
//
// What it promises: a message that was answered 250 was accepted by the backends of
// all its recipients, or a report of those who refused it for good is in a
// backend's queue, on its way to the sender. When neither is sure, the answer is 451
// and the sender comes back; backends with delivery ids (those that offer XTRACELEN)
// store nothing twice then, and queue no report twice. A foreign backend, which has
// none, stores a message twice that it takes for some recipients and puts off for
// others: it answers for all at RCPT, or should.
package smtp

import (
	"errors"
	"fmt"
	"time"

	"switchyard/internal/smtpd"
	"switchyard/internal/spool"
	"switchyard/lookup"
	"switchyard/lookup/resolve"
	"switchyard/router"
)

// Options for NewSubmission, NewInbound and NewLMTP. The zero value works; inbound
// then takes no mail, since no domain is local.
type Options struct {
	// Domains are the cluster's own domains: inbound mail for others is
	// refused as relaying (550 5.7.1).
	Domains []string

	// Resolve says how inbound recipients are resolved. Its Domains are those
	// above, and forwards are always left to the accounts' homes.
	Resolve resolve.Options

	// Deliverers may bring mail by LMTP; nobody else does.
	Deliverers Deliverers

	// MaxSize bounds a message in bytes and is what SIZE announces. Zero means
	// no bound here; submission is then bounded by the backend, behind the
	// login.
	MaxSize int64

	// MaxRecipients bounds the recipients of a transaction; zero means 100.
	MaxRecipients int

	// MaxMessages and MaxDomains bound what one inbound connection brings: messages,
	// and different domains of recipients (RFC 9422). Zero, and for our own proxies:
	// no bound.
	MaxMessages int
	MaxDomains  int

	// Pause is how long an inbound SMTP client, but for our own proxies, waits for
	// the greeting. One that speaks before it is refused (554 5.5.0). Zero: nobody
	// waits, and nobody is refused for that.
	Pause time.Duration

	// CommandTimeout and DataTimeout bound the waits for an inbound client.
	// Zero means 5 minutes (RFC 5321 §4.5.3.2.7).
	CommandTimeout time.Duration
	DataTimeout    time.Duration

	// ReplyTimeout bounds the wait for a backend's answer to a command, and
	// each write of a message to it. Zero means a minute: the client waits for
	// five (RFC 5321 §4.5.3.2.3).
	ReplyTimeout time.Duration

	// FinalTimeout bounds the wait for a backend's answers to a message. Zero
	// means 5 minutes: the client waits for ten (RFC 5321 §4.5.3.2.6).
	FinalTimeout time.Duration

	// Spool is where messages are kept while they go to the backends. Its
	// Limit is not needed.
	Spool spool.Options
}

func (o *Options) fill() {
	if o.ReplyTimeout == 0 {
		o.ReplyTimeout = time.Minute
	}
	if o.FinalTimeout == 0 {
		o.FinalTimeout = 5 * time.Minute
	}
}

// busy is what a client hears when there is no room for it.
const busy = "421 4.3.2 too many connections, try again later\r\n"

// dialogue is what smtpd is told about a session.
func (o *Options) dialogue(s *router.Session) smtpd.Options {
	d := smtpd.Options{
		Hostname: s.Hostname(), AllowCleartextAuth: s.MayLogin(),
		MaxSize: o.MaxSize, MaxRecipients: o.MaxRecipients,
		CommandTimeout: o.CommandTimeout, DataTimeout: o.DataTimeout, Logger: s.Log,
	}
	if s.MayStartTLS() {
		d.StartTLS = s.StartTLS
	}
	return d
}

// ended says in the router's words why a dialogue ended.
func ended(err error) error {
	switch {
	case errors.Is(err, smtpd.ErrMistakes), errors.Is(err, smtpd.ErrChunk), errors.Is(err, smtpd.ErrEndless), errors.Is(err, smtpd.ErrEarly):
		return fmt.Errorf("%w: %w", router.ErrProtocol, err)
	case errors.Is(err, smtpd.ErrAuthFailures):
		return fmt.Errorf("%w: %w", lookup.ErrRejected, err)
	}
	return err
}
