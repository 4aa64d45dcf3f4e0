package router

import (
	"context"
	"errors"
	"fmt"
)

var (
	// ErrDraining: the proxy takes no new sessions and no logins.
	ErrDraining = errors.New("the proxy is being drained")

	// ErrUndrained is Drain's error when the proxy is taken back into service.
	ErrUndrained = errors.New("the proxy is back in service")
)

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
