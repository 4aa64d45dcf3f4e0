// Package imap is IMAP as a proxy speaks it: the dialogue with a client up to
// the login, and the login on the backend. Behind the login the session is
// spliced and not read any more.
//
// Before login a client may use CAPABILITY, NOOP, ID, STARTTLS, LOGIN,
// AUTHENTICATE and LOGOUT. No capability is promised that a backend lacks; what
// all have been heard to offer is, and the backend's own list comes with the
// answer to the login.
//
//	S: * OK [CAPABILITY IMAP4rev1 SASL-IR … STARTTLS LOGINDISABLED] px1.example.test ready
//	C: a STARTTLS
//	S: a OK Begin TLS negotiation now
//	C: b LOGIN anna@example.test {6+}
//	   sesame
//	S: b OK [CAPABILITY IMAP4rev1 IDLE UIDPLUS …] Logged in     (the backend's words)
package imap

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"switchyard/internal/server"
	"switchyard/internal/wire"
	"switchyard/router"

	"go.uber.org/zap"
)

const (
	// maxCommand bounds a whole command before login, literals included: a SASL
	// message and a little. It is what a session may make us hold.
	maxCommand = wire.MaxSASL + 512

	// maxTag bounds a tag, which is repeated in answers and on the way to the
	// backend is not used at all.
	maxTag = 128

	// maxBad is how many commands that make no sense end a session. Clients of
	// other protocols, sent here to do harm, do not get far (ALPACA).
	maxBad = 5

	// maxCommands bounds the commands before login.
	maxCommands = 100
)

// Protocol is IMAP for a router's listeners. The zero value works.
type Protocol struct{}

// New makes the protocol.
func New() *Protocol { return &Protocol{} }

// Name implements router.Protocol.
func (*Protocol) Name() string { return "imap" }

// Busy implements router.Busy.
func (*Protocol) Busy() string {
	return "* BYE [UNAVAILABLE] Not now, try again later\r\n"
}

// Serve implements router.Protocol.
func (*Protocol) Serve(ctx context.Context, s *router.Session) error {
	f := &front{s: s, conn: s.Conn}
	err := f.run(ctx)
	switch {
	case err == nil || f.quiet:
	case errors.As(err, new(*router.KickedError)):
		s.Goodbye("* BYE [UNAVAILABLE] Session ended by the server, try again later")
	case errors.Is(err, server.ErrShutdown):
		s.Goodbye("* BYE [UNAVAILABLE] Shutting down, try again later")
	case wire.IsTimeout(err):
		s.Goodbye("* BYE Login took too long")
	case errors.Is(err, wire.ErrLineTooLong):
		s.Goodbye("* BYE Line too long")
	case errors.Is(err, wire.ErrBareLF):
		s.Goodbye("* BYE Lines end in CRLF")
	case errors.Is(err, router.ErrProtocol):
		s.Goodbye("* BYE Protocol error")
	}
	return err
}

// kept are the capabilities that a client may take along over its login without
// asking again, and that this proxy keeps before it: they are promised when all
// backends offer them.
var kept = [...]struct{ known, promised string }{
	{"IMAP4REV2", "IMAP4rev2"}, {"LITERAL+", "LITERAL+"}, {"LITERAL-", "LITERAL-"},
	{"ID", "ID"}, {"ENABLE", "ENABLE"}, {"IDLE", "IDLE"},
}

// capabilities is what may be promised before login. SASL-IR ends with it, and is
// our own.
func (f *front) capabilities() string {
	var list strings.Builder
	list.WriteString("IMAP4rev1 SASL-IR")
	offer, _ := f.s.Capabilities()
	for _, c := range kept {
		if offer.Has(c.known) && (c.known != "LITERAL-" || !offer.Has("LITERAL+")) {
			list.WriteString(" " + c.promised)
		}
	}
	if f.s.MayStartTLS() {
		list.WriteString(" STARTTLS")
	}
	if !f.s.MayLogin() {
		list.WriteString(" LOGINDISABLED")
	}
	for _, mechanism := range f.s.Mechanisms() {
		list.WriteString(" AUTH=" + mechanism)
	}
	return list.String()
}

// refusal words a failed login. It is the only place that does.
func (f *front) refusal(err error) string {
	var words *router.RefusedError
	var status *router.StatusError
	switch router.KindOf(err) {
	case router.Absent, router.Rejected:
		return "NO [AUTHENTICATIONFAILED] Authentication failed"
	case router.Refused:
		switch {
		case errors.As(err, &words):
			return "NO " + words.Text
		case errors.As(err, &status):
			return fmt.Sprintf("NO [AUTHORIZATIONFAILED] Account is %s", status.Word())
		}
	case router.Unavailable:
		return "NO [UNAVAILABLE] Temporarily unavailable, try again later"
	}
	f.s.Log.Error("login failed by a mistake of ours", zap.Error(err))
	return "NO [SERVERBUG] Internal error, try again later"
}
