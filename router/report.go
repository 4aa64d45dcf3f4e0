package router

import (
	"errors"
	"fmt"
	"time"

	"switchyard/router/admit"

	"go.uber.org/zap"
)

var (
	errPanicked    = errors.New("the session panicked")
	errNotBalancer = fmt.Errorf("%w: a PROXY header is demanded, and the peer is not in the proxy networks", ErrProtocol)
	errHandshake   = errors.New("TLS handshake")
)

func headerError(err error) error {
	if errors.Is(err, admit.ErrHeader) {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return fmt.Errorf("read the PROXY header: %w", err)
}

func handshakeError(err error) error { return fmt.Errorf("%w: %w", errHandshake, err) }

// report writes the session's one line.
func (s *Session) report(err error) {
	result, reason := s.outcome(err)
	if s.in == 0 && s.out == 0 {
		s.in, s.out = s.Conn.BytesRead(), s.Conn.BytesWritten()
	}
	fields := append(make([]zap.Field, 0, 14+len(s.notes)),
		zap.String("listener", s.listener.Name), zap.String("protocol", s.proto),
		zap.String("user", s.user), zap.String("home", s.home), zap.String("node", s.node),
		zap.Bool("tls", s.TLS()), zap.Duration("took", time.Since(s.started)),
		zap.Int64("bytes_in", s.in), zap.Int64("bytes_out", s.out),
		zap.String("result", result), zap.String("reason", reason))
	s.Log.Info("session", append(fields, s.notes...)...)
}

// outcome words the end of the session. A session that ended in order, or was
// left by its client, without a login behind a failed one, ended for the sake of
// that failure.
func (s *Session) outcome(err error) (result, reason string) {
	result = resultOf(err)
	switch {
	case err != nil && errors.Is(err, errHandshake) && result == "broken":
		result = "protocol error"
	case s.last != nil && !s.joined && (result == "logged out" || result == "client gone"):
		err = s.last
		result = resultOf(err)
	case result == "logged out" && !s.loggedIn && s.served:
		result = "done" // inbound mail needs no login
	case result == "logged out" && !s.loggedIn:
		result = "no login"
	}
	if err != nil {
		reason = err.Error()
	}
	return result, reason
}
