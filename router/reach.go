package router

import (
	"context"
	"errors"
	"fmt"

	"switchyard/router/upstream"

	"go.uber.org/zap"
)

// OwnerError: the node does not own the user, and names the node of its backend
// that does. A protocol's login returns it to Session.Open, which goes there and
// remembers it for a while. It is an ErrBackend: "not now", where the owner
// cannot be reached either.
type OwnerError struct{ Node string }

func (e *OwnerError) Error() string { return fmt.Sprintf("node %q owns the user", e.Node) }

// Unwrap makes it an ErrBackend.
func (e *OwnerError) Unwrap() error { return ErrBackend }

// Final makes of an error one of a login that must not be tried on another node:
// the client has had a part in it that it cannot be asked for again.
func Final(err error) error { return &finalError{err} }

type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// Dial connects to a backend by the name that Home gave. It may be called by
// several goroutines. The connection is the caller's to close; see
// upstream.Set.Dial for its deadlines. Errors: ErrBackend, ErrOperator (logged
// here), the cause of ctx.
func (s *Session) Dial(ctx context.Context, backend string, service upstream.Service) (*Back, error) {
	return s.dial(ctx, s.want(backend, service), dialled(backend))
}

// Reach is Dial, and lets ready do on the connection what comes before the
// work: greeting, TLS, login. When that fails with an ErrBackend, it is done once
// more on another node, if there is one. Errors: as Dial's, and ready's own.
func (s *Session) Reach(ctx context.Context, backend string, service upstream.Service, ready func(context.Context, *Back) error) (*Back, error) {
	return s.reach(ctx, s.want(backend, service), dialled(backend), ready)
}

func (s *Session) want(backend string, service upstream.Service) upstream.Want {
	return upstream.Want{Backend: backend, Service: service, Client: s.Client.Addr()}
}

// dialled says that a session has gone to a node beside its home.
func dialled(backend string) func(*live, string) {
	return func(l *live, node string) { l.dialled(Leg{backend, node}) }
}

// reach connects and lets enter do what comes before the session there, on one
// node and then, if that failed for the node's sake, on another.
func (s *Session) reach(ctx context.Context, w upstream.Want, show func(l *live, node string), enter func(context.Context, *Back) error) (*Back, error) {
	w.Retry = true
	b, err := s.enter(ctx, &w, show, enter)
	if w.Not == "" {
		return b, err
	}
	s.Log.Debug("login is tried on another node", zap.String("home", w.Backend), zap.String("node", w.Not), zap.NamedError("reason", err))
	b, again := s.enter(ctx, &w, show, enter)
	if again != nil && errors.Is(again, upstream.ErrUnreachable) {
		return nil, err // there was no other after all
	}
	return b, again
}

// enter connects to a node and lets do what comes before the session there. It
// sets w's Not when it is to be done again, on another node.
func (s *Session) enter(ctx context.Context, w *upstream.Want, show func(l *live, node string), do func(context.Context, *Back) error) (*Back, error) {
	b, err := s.dial(ctx, *w, show)
	if err != nil {
		return nil, err
	}
	err = do(ctx, b)
	if err == nil {
		b.Served()
		return b, nil
	}
	if ctx.Err() != nil {
		b.Close()
		return nil, context.Cause(ctx)
	}
	first := w.Not == ""
	var owner *OwnerError
	switch {
	case errors.As(err, &owner):
		b.Served()
		b.Close()
		s.router.up.Prefer(w.Backend, w.Account, owner.Node)
		if first && owner.Node != b.Node {
			w.Prefer, w.Not = owner.Node, b.Node
		}
	case errors.Is(err, ErrBackend) && !errors.Is(err, ErrMoved):
		b.Failed(err)
		if first && b.Peer && !errors.As(err, new(*finalError)) {
			w.Not = b.Node
		}
	default:
		b.Served()
		b.Close()
	}
	return nil, err
}

// dial lets show say in the registry where the session is, before it makes sure
// that the node has not been drained meanwhile: either DrainNode finds the
// session there, or the session finds the node drained.
func (s *Session) dial(ctx context.Context, w upstream.Want, show func(l *live, node string)) (*Back, error) {
	for {
		b, err := s.router.up.Dial(ctx, w)
		if err != nil {
			return nil, s.dialError(ctx, w, err)
		}
		s.shown(func(l *live) { show(l, b.Node) })
		if !s.router.up.Drained(w.Backend, b.Node) {
			return b, nil
		}
		b.Close()
	}
}

func (s *Session) dialError(ctx context.Context, w upstream.Want, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, upstream.ErrUnknown):
		s.Log.Error("backend does not offer the service: add it to the backend's nodes",
			zap.String("home", w.Backend), zap.String("service", string(w.Service)), zap.Error(err))
		return fmt.Errorf("%w: %w", ErrOperator, err)
	default:
		return backendError("connect", err)
	}
}

// backendError wraps what went wrong on the way to or with a backend.
func backendError(step string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrBackend, step, err)
}
