package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"switchyard/internal/server"
	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/router/upstream"
)

var (
	// ErrMoved: the backend says that the account lives elsewhere. A
	// protocol's login returns it to Session.Open, which looks up once more.
	ErrMoved = errors.New("account lives elsewhere")

	// ErrBackend: the backend cannot be reached, is silent, talks rubbish or
	// refuses for now.
	ErrBackend = errors.New("backend unavailable")

	// ErrOperator: only the operator can mend it: a home without a backend,
	// a proxy's login that the backend refuses. Clients are told "not now",
	// since it is neither their fault nor for ever.
	ErrOperator = errors.New("configuration mistake")

	// ErrProtocol: the client broke the protocol so that the session could
	// not go on.
	ErrProtocol = errors.New("protocol error")

	// ErrFull: too many sessions before login, in all or from one address, or
	// too many of one address at all.
	ErrFull = errors.New("too many sessions before login")

	// ErrSessions: the user has as many sessions as one may have.
	ErrSessions = errors.New("too many sessions of the user")

	// ErrThrottled: so many logins from the address were wrong that this one
	// was not looked at.
	ErrThrottled = errors.New("too many wrong logins from the address")
)

// StatusError: the password was right, but the account may not be used. Only
// someone who knows the password may be told.
type StatusError struct{ Status lookup.Status }

func (e *StatusError) Error() string { return fmt.Sprintf("account is %s", e.Status) }

// Kind is what a failure means to a client. Each protocol has one function that
// words it.
type Kind int

// The kinds. A login answers Absent and Rejected alike.
const (
	OK          Kind = iota
	Absent           // no: there is no such account (recipients)
	Rejected         // no: wrong credentials
	Refused          // no: a *StatusError, or a *RefusedError
	Unavailable      // not now
	Broken           // our own mistake
)

// KindOf classifies what a Session's methods returned.
func KindOf(err error) Kind {
	switch {
	case err == nil:
		return OK
	case isAny(err, lookup.ErrUnavailable, ErrBackend, ErrMoved, ErrOperator, ErrFull, ErrSessions, ErrThrottled, ErrDraining,
		upstream.ErrUnknown, upstream.ErrUnreachable,
		server.ErrShutdown, context.Canceled, context.DeadlineExceeded):
		return Unavailable
	case errors.As(err, new(*StatusError)), errors.As(err, new(*RefusedError)):
		return Refused
	case errors.Is(err, lookup.ErrAbsent):
		return Absent
	case errors.Is(err, lookup.ErrRejected):
		return Rejected
	default:
		return Broken
	}
}

func isAny(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// result is how a session ended, as its line in the log says it.
type result int

const (
	resultLoggedOut result = iota
	resultDone             // inbound mail needs no login
	resultNoLogin
	resultKicked
	resultShutdown
	resultDraining
	resultFull
	resultThrottled
	resultMisconfigured
	resultNoBackend
	resultNoDirectory
	resultRejected
	resultRefused
	resultProtocol
	resultTimeout
	resultGone
	resultBroken
	results
)

func (r result) String() string {
	return [...]string{"logged out", "done", "no login", "kicked", "shutdown", "draining", "too many sessions", "throttled",
		"misconfigured", "backend unavailable", "directory unavailable", "login rejected", "account refused",
		"protocol error", "timeout", "client gone", "broken"}[r]
}

// resultOf says how a session ended that ended with err.
func resultOf(err error) result {
	switch {
	case err == nil:
		return resultLoggedOut
	case errors.As(err, new(*KickedError)):
		return resultKicked
	case errors.Is(err, server.ErrShutdown):
		return resultShutdown
	case errors.Is(err, ErrDraining):
		return resultDraining
	case isAny(err, ErrFull, ErrSessions):
		return resultFull
	case errors.Is(err, ErrThrottled):
		return resultThrottled
	case errors.Is(err, ErrOperator):
		return resultMisconfigured
	case isAny(err, ErrBackend, ErrMoved, upstream.ErrUnreachable, upstream.ErrUnknown):
		return resultNoBackend
	case errors.Is(err, lookup.ErrUnavailable):
		return resultNoDirectory
	case isAny(err, lookup.ErrRejected, lookup.ErrAbsent):
		return resultRejected
	case errors.As(err, new(*StatusError)), errors.As(err, new(*RefusedError)):
		return resultRefused
	case isAny(err, ErrProtocol, wire.ErrLineTooLong, wire.ErrBareLF, wire.ErrBytesBehindStartTLS):
		return resultProtocol
	case wire.IsTimeout(err):
		return resultTimeout
	case isAny(err, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, io.ErrClosedPipe):
		return resultGone
	default:
		return resultBroken
	}
}
