package router

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"switchyard/router/admit"
	"switchyard/router/splice"

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

// report counts the end of a session that was not joined, and writes its one
// line.
func (s *Session) report(err error) {
	result, reason := s.outcome(err)
	e := end{
		id: s.ID, user: s.user, home: s.home, node: s.node, client: s.Client, tls: s.TLS(),
		moved: Bytes{s.Conn.BytesRead(), s.Conn.BytesWritten()}, result: result, reason: reason, notes: s.notes,
	}
	e.count(s.live.port)
	e.write(s.live)
}

// ended is the end of a session that was joined. The loop's worker, which calls
// it, has others to serve: the line is written elsewhere, since a log may be slow.
func (l *live) ended(r splice.Result, err error) {
	err = joinError(r, err)
	e := end{result: resultOf(err), notes: l.notes}
	if err != nil {
		e.reason = err.Error()
	}
	g := &l.port.router.live
	g.mu.Lock()
	e.id, e.user, e.home, e.node, e.client, e.tls = l.id, l.user, l.home, l.node, l.client, l.tls
	e.moved = l.moved(r.In, r.Out)
	g.mu.Unlock()
	e.count(l.port)
	g.remove(l)
	if !l.port.router.o.Logger.Core().Enabled(zap.InfoLevel) {
		l.leave()
		return
	}
	go func() {
		defer l.leave()
		e.write(l)
	}()
}

// joinError says how a joined session ended.
func joinError(r splice.Result, err error) error {
	switch r.End {
	case splice.BackClosed:
		return nil
	case splice.FrontClosed:
		return io.EOF
	case splice.BackFailed:
		return backendError("splice", err)
	default:
		return err
	}
}

// end is what there is to say about a session that has ended.
type end struct {
	id, user, home, node string
	client               netip.AddrPort
	tls                  bool
	moved                Bytes
	result               result
	reason               string
	notes                []zap.Field
}

func (e *end) count(p *port) {
	p.tally.ended[e.result].Add(1)
	p.tally.in.Add(uint64(max(e.moved.In, 0)))
	p.tally.out.Add(uint64(max(e.moved.Out, 0)))
}

// write writes the session's one line.
func (e *end) write(l *live) {
	line := l.port.router.o.Logger.Check(zap.InfoLevel, "session")
	if line == nil {
		return
	}
	fields := append(make([]zap.Field, 0, 13+len(e.notes)),
		zap.String("session", e.id), zap.Stringer("client", e.client),
		zap.String("listener", l.port.Name), zap.String("protocol", l.port.tally.protocol),
		zap.String("user", e.user), zap.String("home", e.home), zap.String("node", e.node),
		zap.Bool("tls", e.tls), zap.Duration("took", time.Since(time.Unix(0, l.since))),
		zap.Int64("bytes_in", e.moved.In), zap.Int64("bytes_out", e.moved.Out),
		zap.String("result", e.result.String()), zap.String("reason", e.reason))
	line.Write(append(fields, e.notes...)...)
}

// outcome words the end of the session. A session that ended in order, or was
// left by its client, without a login behind a failed one, ended for the sake of
// that failure.
func (s *Session) outcome(err error) (r result, reason string) {
	r = resultOf(err)
	switch {
	case err != nil && errors.Is(err, errHandshake) && r == resultBroken:
		r = resultProtocol
	case s.last != nil && (r == resultLoggedOut || r == resultGone):
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
