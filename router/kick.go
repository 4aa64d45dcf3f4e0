package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"switchyard/internal/server"
	"switchyard/lookup"

	"go.uber.org/zap"
)

// ErrDraining: the proxy takes no new sessions and no logins.
var ErrDraining = errors.New("the proxy is being drained")

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

func (m *Match) describes(l *Live) bool {
	switch {
	case m.Empty(),
		m.Session != "" && m.Session != l.ID,
		m.User != "" && m.User != l.User,
		m.Protocol != "" && m.Protocol != l.Protocol,
		m.Client.IsValid() && !m.Client.Contains(l.Client.Addr().Unmap().WithZone("")):
		return false
	case m.Backend == "" && m.Node == "", m.at(l.Home, l.Node):
		return true
	}
	for _, leg := range l.Legs {
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
// without a name bears on none: it says that changes may have been missed, and
// a login is proved by the cache's ages then. Forget the account in the cache
// before: a login that is under way is checked once more.
func (r *Router) Changed(c lookup.Change) (n int) {
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

// SetDraining takes the proxy out of service, or back into it, and returns at
// once. Out of service, Ready says so, connections are turned away with the
// protocol's "not now" (with implicit TLS they are closed), and so are logins on
// connections that are there. The listeners stay open. Sessions go on; see
// Drain.
func (r *Router) SetDraining(on bool) { r.setDraining(on) }

// setDraining returns a channel that is closed when the proxy is taken back into
// service.
func (r *Router) setDraining(on bool) <-chan struct{} {
	r.drain.Lock()
	defer r.drain.Unlock()
	switch {
	case on && r.undrained == nil:
		r.undrained = make(chan struct{})
		r.draining.Store(true)
		r.live.close(true)
		r.o.Logger.Info("draining: no new sessions are taken")
	case !on && r.undrained != nil:
		close(r.undrained)
		r.undrained = nil
		r.draining.Store(false)
		r.live.close(false)
		r.o.Logger.Info("back in service")
	}
	return r.undrained
}

// ErrUndrained is Drain's error when the proxy is taken back into service.
var ErrUndrained = errors.New("the proxy is back in service")

// Drain is SetDraining, and ends the sessions at the rate of Options.KickRate,
// the oldest first. It blocks until the last one has ended, and returns nil
// then; or until ctx ends, whose cause it returns, or the proxy is taken back
// into service. The proxy stays out of service when ctx ends.
func (r *Router) Drain(ctx context.Context) error {
	undrained := r.setDraining(true)
	r.kick(ctx, r.live.list(&Match{All: true}), "the proxy is being drained", r.draining.Load)
	select {
	case <-r.live.empty():
		return nil
	case <-undrained:
		return ErrUndrained
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Ready returns nil, or ErrDraining: new sessions should go elsewhere.
func (r *Router) Ready() error {
	if r.draining.Load() {
		return ErrDraining
	}
	return nil
}

// SetNodeDraining takes a node of a backend out of service for this proxy, or
// back into it, all its nodes when node is empty: new sessions go to the
// backend's other node or are told "not now". Sessions that are there go on; see
// DrainNode. Errors: upstream.ErrUnknown.
func (r *Router) SetNodeDraining(backend, node string, on bool) error {
	return r.up.Drain(backend, node, on)
}

// DrainNode is SetNodeDraining, and ends the sessions there at the rate of
// Options.KickRate, until the node is taken back into service. Sessions of
// inbound mail are there when they have dialled the node. It blocks like Kick
// and returns how many were kicked. Errors: upstream.ErrUnknown.
func (r *Router) DrainNode(ctx context.Context, backend, node string) (int, error) {
	if err := r.up.Drain(backend, node, true); err != nil {
		return 0, err
	}
	place := backend
	if node != "" {
		place = fmt.Sprintf("node %s of %s", node, backend)
	}
	there := r.live.list(&Match{Backend: backend, Node: node})
	return r.kick(ctx, there, place+" is being drained", func() bool { return r.up.Drained(backend, node) }), nil
}

// Backends returns the backends as they are now, by name.
func (r *Router) Backends() []Backend { return r.up.Status() }

// Joined returns how many sessions are joined to each node.
func (r *Router) Joined() map[Leg]int { return r.live.joined() }
