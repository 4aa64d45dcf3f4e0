// Package pop is POP3 as a proxy speaks it: the dialogue with a client up to the
// login, and the login on the backend. Behind the login the session is spliced
// and not read any more.
//
//	S: +OK px1.example.test ready
//	C: USER anna@example.test
//	S: +OK
//	C: PASS sesame
//	S: +OK 2 messages          (the backend's words)
package pop

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
	// maxLine bounds a line before login: a SASL message and a little. It is
	// what a session may make us hold.
	maxLine = wire.MaxSASL + 64

	// maxBad is how many commands that make no sense end a session.
	maxBad = 5

	// maxCommands bounds the commands before login.
	maxCommands = 100
)

// Protocol is POP3 for a router's listeners. The zero value works.
type Protocol struct{}

// New makes the protocol.
func New() *Protocol { return &Protocol{} }

// Name implements router.Protocol.
func (*Protocol) Name() string { return "pop3" }

// Busy implements router.Busy.
func (*Protocol) Busy() string {
	return "-ERR [SYS/TEMP] Not now, try again later\r\n"
}

// Serve implements router.Protocol.
func (*Protocol) Serve(ctx context.Context, s *router.Session) error {
	f := &front{s: s, conn: s.Conn}
	err := f.run(ctx)
	switch {
	case err == nil || f.quiet:
	case errors.As(err, new(*router.KickedError)):
		s.Goodbye("-ERR [SYS/TEMP] Session ended by the server, try again later")
	case errors.Is(err, server.ErrShutdown):
		s.Goodbye("-ERR [SYS/TEMP] Shutting down, try again later")
	case wire.IsTimeout(err):
		s.Goodbye("-ERR Login took too long")
	case errors.Is(err, wire.ErrLineTooLong):
		s.Goodbye("-ERR Line too long")
	case errors.Is(err, wire.ErrBareLF):
		s.Goodbye("-ERR Lines end in CRLF")
	case errors.Is(err, router.ErrProtocol):
		s.Goodbye("-ERR Protocol error")
	}
	return err
}

// kept are the capabilities that a client may take along over its login without
// asking again: they are promised when all backends offer them (RFC 2449
// §6). The response codes are our own before the login.
var kept = [...]string{"TOP", "UIDL", "PIPELINING"}

// capabilities is what may be promised before login. The rest of what a backend
// has comes with its own CAPA, behind it.
func (f *front) capabilities() []string {
	list := []string{"RESP-CODES", "AUTH-RESP-CODE"}
	offer, _ := f.s.Capabilities()
	for _, name := range kept {
		if offer.Has(name) {
			list = append(list, name)
		}
	}
	if f.s.MayStartTLS() {
		list = append(list, "STLS")
	}
	if f.s.MayLogin() {
		list = append(list, "USER", "SASL "+strings.Join(f.s.Mechanisms(), " "))
	}
	return list
}

// refusal words a failed login (RFC 3206, RFC 2449 §8). It is the only place
// that does.
func (f *front) refusal(err error) string {
	var words *router.RefusedError
	var status *router.StatusError
	switch router.KindOf(err) {
	case router.Absent, router.Rejected:
		return "-ERR [AUTH] Authentication failed"
	case router.Refused:
		switch {
		case errors.As(err, &words):
			return "-ERR " + words.Text
		case errors.As(err, &status):
			return fmt.Sprintf("-ERR [SYS/PERM] Account is %s", status.Word())
		}
	case router.Unavailable:
		return "-ERR [SYS/TEMP] Temporarily unavailable, try again later"
	}
	f.s.Log.Error("login failed by a mistake of ours", zap.Error(err))
	return "-ERR [SYS/PERM] Internal error"
}
