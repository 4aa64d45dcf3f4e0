package upstream

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"switchyard/internal/tlsconf"

	"go.uber.org/zap"
)

// topology is the backends at one time. It never changes; the endpoints' and the
// members' states in it are shared by those that follow.
type topology struct {
	backends map[string]*group
}

// group is a backend.
type group struct {
	name  string
	nodes []*member // in the order of preference
	login Login
}

func (g *group) node(name string) *member {
	for _, n := range g.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// member is a node.
type member struct {
	name     string
	services map[Service]*endpoint
	*memberState
}

// memberState is what is known of a node here. It outlives an update.
type memberState struct {
	drained atomic.Pointer[time.Time] // since when; nil: it is in service

	ok, failed, interrupted atomic.Uint64 // dials
	hedged                  atomic.Uint64 // connects that began beside a peer's slow one
	takenOver               atomic.Uint64 // logins that failed on a peer
}

// endpoint is a service of a node. It outlives an update that changes neither
// its address nor its kind of TLS.
type endpoint struct {
	backend, node string
	service       Service
	at            atomic.Pointer[Endpoint] // the configuration
	probe         atomic.Pointer[string]   // see Backend.Probe
	login         atomic.Pointer[Login]    // see Backend.Login
	offers        offered
	health        health
	lane          lane
	took          took          // from the choice of the node to the end of a login that it answered
	wake          chan struct{} // asks for a check soon
}

// Update takes another list of backends over. Those that are there keep their
// connections, and what is known of their nodes: what is drained stays drained.
// Connections to what is gone stay too. It refuses what New refuses, and changes
// nothing then.
func (s *Set) Update(backends []Backend) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := verify(backends); err != nil {
		return err
	}
	old := s.top.Load()
	top := &topology{backends: make(map[string]*group, len(backends))}
	for _, b := range backends {
		g := &group{name: b.Name, login: b.Login}
		for _, n := range b.Nodes {
			g.nodes = append(g.nodes, s.member(old.backends[b.Name], b, n))
		}
		top.backends[b.Name] = g
	}
	s.top.Store(top)
	close(s.changed)
	s.changed = make(chan struct{})
	for _, g := range old.backends {
		for _, n := range g.nodes {
			for _, e := range n.services {
				e.lane.turn() // who waits may have somewhere else to go, or nowhere
			}
		}
	}
	return nil
}

// verify refuses what cannot be meant.
func verify(backends []Backend) error {
	seen := make(map[string]bool, len(backends))
	for _, b := range backends {
		switch {
		case b.Name == "":
			return errors.New("a backend has no name")
		case seen[b.Name]:
			return fmt.Errorf("backend %q is there twice", b.Name)
		case len(b.Nodes) == 0:
			return fmt.Errorf("backend %q has no nodes", b.Name)
		}
		if err := b.Login.check(); err != nil {
			return fmt.Errorf("backend %q: login: %w", b.Name, err)
		}
		seen[b.Name] = true
		nodes := make(map[string]bool, len(b.Nodes))
		for _, n := range b.Nodes {
			if nodes[n.Name] {
				return fmt.Errorf("backend %q has two nodes named %q: give each a name of its own", b.Name, n.Name)
			}
			nodes[n.Name] = true
			for service, e := range n.Services {
				if _, _, err := net.SplitHostPort(e.Address); err != nil {
					return fmt.Errorf("backend %q, node %q, %s: %w", b.Name, n.Name, service, err)
				}
			}
		}
	}
	return nil
}

// member makes a node of its configuration and of what is known of it.
func (s *Set) member(before *group, b Backend, n Node) *member {
	m := &member{name: n.Name, services: make(map[Service]*endpoint, len(n.Services)), memberState: &memberState{}}
	var known *member
	if before != nil {
		if known = before.node(n.Name); known != nil {
			m.memberState = known.memberState
		}
	}
	for service, config := range n.Services {
		var e *endpoint
		if known != nil {
			if e = known.services[service]; e != nil && (e.at.Load().Address != config.Address || e.at.Load().TLS != config.TLS) {
				e = nil
			}
		}
		if e == nil {
			e = s.endpoint(b.Name, n.Name, service, config)
		}
		e.at.Store(&config)
		e.probe.Store(&b.Probe)
		e.login.Store(&b.Login)
		m.services[service] = e
	}
	return m
}

func (s *Set) endpoint(backend, node string, service Service, config Endpoint) *endpoint {
	if config.TLS == tlsconf.Off && s.o.ProxySecret != "" {
		s.o.Logger.Warn("node has no TLS: the proxy's secret travels in clear and the backend will refuse it; set tls to starttls or implicit",
			zap.String("home", backend), zap.String("node", node), zap.String("service", string(service)))
	}
	e := &endpoint{backend: backend, node: node, service: service, wake: make(chan struct{}, 1)}
	e.health.init(&s.o, time.Now())
	e.lane.most, e.lane.queue = s.o.Logins, s.o.Queue
	return e
}

// rouse asks for a check soon.
func (e *endpoint) rouse() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// fail counts evidence against an endpoint.
func (s *Set) fail(e *endpoint, f failure) {
	s.moved(e, e.health.fail(time.Now(), f))
	if f.at != checking && f.at != telling {
		e.rouse()
	}
}

// succeed counts evidence for it.
func (s *Set) succeed(e *endpoint, at stage) { s.moved(e, e.health.succeed(time.Now(), at)) }

// moved logs a change of state, and lets those who wait choose again.
func (s *Set) moved(e *endpoint, m move) {
	if m.from == m.to {
		return
	}
	fields := []zap.Field{
		zap.String("home", e.backend), zap.String("node", e.node), zap.String("service", string(e.service)),
		zap.String("address", e.at.Load().Address), zap.Stringer("was", m.from), zap.String("reason", m.reason),
	}
	if m.from == Down {
		e.lane.rise()
	}
	switch m.to {
	case Up:
		s.o.Logger.Info("node is up", fields...)
		return
	case Suspect:
		s.o.Logger.Warn("node is suspect", fields...)
	case Down:
		s.o.Logger.Error("node is down", fields...)
	}
	e.lane.turn()
}
