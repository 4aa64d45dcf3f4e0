package router

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"switchyard/internal/server"
	"switchyard/lookup"

	"go.uber.org/zap"
)

// KickedError is the cause of a session's context when the session is ended
// from outside. For a protocol that has no words of its own for it, it is as if
// the daemon stopped: errors.Is(err, server.ErrShutdown) holds.
type KickedError struct{ Reason string }

func (e *KickedError) Error() string { return "session was ended: " + e.Reason }

// Is makes a KickedError a server.ErrShutdown.
func (e *KickedError) Is(target error) bool { return target == server.ErrShutdown }

// Match describes sessions: those for which all fields that are set hold. The
// zero value describes none.
type Match struct {
	All bool // every session for which the other fields hold

	Session  string       // the id
	User     string       // in CleanName's form; before login, the name that was tried last
	Client   netip.Prefix // the client's own address
	Backend  string       // the home, or a backend that inbound mail went to
	Node     string       // likewise
	Protocol string
}

// Empty reports whether the match describes no session at all.
func (m *Match) Empty() bool { return *m == Match{} }

func (m *Match) describes(l *live) bool {
	switch {
	case m.Empty(),
		m.Session != "" && m.Session != l.id,
		m.User != "" && m.User != l.user,
		m.Protocol != "" && m.Protocol != l.port.tally.protocol,
		m.Client.IsValid() && !m.Client.Contains(l.client.Addr().Unmap().WithZone("")):
		return false
	case m.Backend == "" && m.Node == "", m.at(l.home, l.node):
		return true
	case l.legs == nil:
		return false
	}
	for _, leg := range *l.legs {
		if m.at(leg.Backend, leg.Node) {
			return true
		}
	}
	return false
}

func (m *Match) at(backend, node string) bool {
	return (m.Backend == "" || m.Backend == backend) && (m.Node == "" || m.Node == node)
}

// Sessions returns the sessions that have not ended, the oldest first.
func (r *Router) Sessions() []Live { return r.Find(Match{All: true}) }

// Find returns the sessions that a match describes, the oldest first.
func (r *Router) Find(m Match) []Live {
	r.complete(&m)
	return r.live.snapshot(&m)
}

// complete adds the default domain to a user's name. A name that no account can
// have stays as it is, and describes nobody.
func (r *Router) complete(m *Match) {
	if name, err := lookup.CleanName(m.User, r.o.DefaultDomain); m.User != "" && err == nil {
		m.User = name
	}
}

// Kick ends the sessions that m describes now, the oldest first, at
// Options.KickRate, and returns how many it has ended. Before login they get
// their protocol's goodbye; joined ones get their backend's: its half of the
// connection is closed, the backend finishes the answer in hand, says goodbye
// and closes. Kick blocks until the last one was told, or ctx ends; it does not
// wait for their goodbyes. The reason stands in the sessions' log lines.
func (r *Router) Kick(ctx context.Context, m Match, reason string) int {
	r.complete(&m)
	return r.kick(ctx, r.live.list(&m), reason, func() bool { return true })
}

// kick ends sessions at the router's pace while they still have to end.
func (r *Router) kick(ctx context.Context, sessions []*live, reason string, still func() bool) (n int) {
	cause := &KickedError{reason}
	defer func() {
		r.o.Logger.Info("sessions kicked", zap.Int("sessions", n), zap.String("reason", reason))
	}()
	for _, l := range sessions {
		if r.pace.wait(ctx) != nil || !still() {
			return n
		}
		if r.live.kick(l, cause) {
			r.kicked.Add(1)
			n++
		} else {
			r.pace.back()
		}
	}
	return n
}

// Changed ends the sessions of an account of which the directory says that they
// have to prove themselves again, at once, and returns how many. A change
// without a name says that changes may have been missed: Recheck asks about
// everybody then. Forget the account in the cache before: a login that is under
// way is checked once more.
func (r *Router) Changed(c lookup.Change) (n int) {
	if c.Name == "" {
		r.askAgain()
	}
	if !c.Sessions || c.Name == "" {
		return 0
	}
	cause := &KickedError{"the account has changed"}
	for _, l := range r.live.note(c.Name) {
		if r.live.kick(l, cause) {
			r.kicked.Add(1)
			n++
		}
	}
	return n
}

// pace spaces kicks out, over all that kick at the same time.
type pace struct {
	every time.Duration

	mu   sync.Mutex
	next time.Time
}

// wait blocks until the next kick is due.
func (p *pace) wait(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	delay := p.next.Sub(now)
	p.next = p.next.Add(p.every)
	p.mu.Unlock()
	if delay <= 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		p.back()
		return context.Cause(ctx)
	}
}

// back returns a turn that was not used.
func (p *pace) back() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = p.next.Add(-p.every)
}
