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
	s.live.tally.ended[result].Add(1)
	s.live.tally.in.Add(uint64(max(s.in, 0)))
	s.live.tally.out.Add(uint64(max(s.out, 0)))
	fields := append(make([]zap.Field, 0, 14+len(s.notes)),
		zap.String("listener", s.listener.Name), zap.String("protocol", s.proto),
		zap.String("user", s.user), zap.String("home", s.home), zap.String("node", s.node),
		zap.Bool("tls", s.TLS()), zap.Duration("took", time.Since(s.started)),
		zap.Int64("bytes_in", s.in), zap.Int64("bytes_out", s.out),
		zap.String("result", result.String()), zap.String("reason", reason))
	s.Log.Info("session", append(fields, s.notes...)...)
}

// outcome words the end of the session. A session that ended in order, or was
// left by its client, without a login behind a failed one, ended for the sake of
// that failure.
func (s *Session) outcome(err error) (r result, reason string) {
	r = resultOf(err)
	switch {
	case err != nil && errors.Is(err, errHandshake) && r == resultBroken:
		r = resultProtocol
	case s.last != nil && !s.joined && (r == resultLoggedOut || r == resultGone):
		err = s.last
		r = resultOf(err)
	case r == resultLoggedOut && !s.loggedIn && s.served:
		r = resultDone
	case r == resultLoggedOut && !s.loggedIn:
		r = resultNoLogin
	}
	if err != nil {
		reason = err.Error()
	}
	return r, reason
}
