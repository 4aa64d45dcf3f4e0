// Package upstream knows the backends that a proxy may send sessions to: their
// nodes, where each node offers which service, and how it is dialled. It opens
// connections; what is said on them is the protocol's business.
//
// A backend has one node, or two that mirror each other. Nodes are tried in
// order; one that could not be reached is tried last for a while, so that a dead
// node costs its users one time-out and not one each. A node that is drained is
// not tried at all.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/internal/wire"

	"go.uber.org/zap"
)

var (
	// ErrUnknown: no backend of that name is configured, or none of its nodes
	// offers the service. It is the operator's to mend; waiting does not help.
	ErrUnknown = errors.New("no such backend")

	// ErrUnreachable: no node of the backend could be reached. It passes.
	ErrUnreachable = errors.New("backend unreachable")
)

// Service is what a connection to a node is for.
type Service string

// The services of a node.
const (
	IMAP        Service = "imap"
	POP3        Service = "pop3"
	Submission  Service = "submission"
	LMTP        Service = "lmtp"
	ManageSieve Service = "managesieve"
)

// Backend is a named mail store.
type Backend struct {
	Name  string // as the directory's home attribute says it
	Nodes []Node // in the order of preference
}

// Node is one machine of a backend.
type Node struct {
	Name     string
	Services map[Service]Endpoint
}

// Endpoint is where and how a node offers a service.
type Endpoint struct {
	Address string       // host:port
	TLS     tlsconf.Mode // Off is refused by a backendd for every login that needs the proxy's secret

	// Config is for the TLS handshake; nil means the system's CAs. An empty
	// ServerName means the address's host.
	Config *tls.Config
}

// Options for New. The zero value works.
type Options struct {
	// ProxyName and ProxySecret are what the proxy logs in with, the user
	// being the authorisation identity. The secret opens every mailbox.
	ProxyName   string
	ProxySecret string

	// ConnectTimeout bounds TCP connect and implicit TLS handshake with one
	// node. Zero means 5 seconds.
	ConnectTimeout time.Duration

	// DialogueTimeout bounds all that is said from the banner to the end of
	// the login. Zero means 20 seconds. See Back.Settle.
	DialogueTimeout time.Duration

	// Mark is how long a node that could not be reached is tried last. Zero
	// means 5 seconds.
	Mark time.Duration

	// Dial opens a TCP connection; nil means a net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	Logger *zap.Logger // nil: none
}

func (o *Options) fill() {
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 5 * time.Second
	}
	if o.DialogueTimeout == 0 {
		o.DialogueTimeout = 20 * time.Second
	}
	if o.Mark == 0 {
		o.Mark = 5 * time.Second
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// Set is the backends that are configured. It is safe for concurrent use.
type Set struct {
	o        Options
	backends map[string][]*member

	mu     sync.Mutex
	failed map[string]failure // by address: how it last could not be reached
}

// failure marks an address.
type failure struct {
	at  time.Time
	err error
}

// member is a node with what is known of it here.
type member struct {
	Node
	drained                 atomic.Bool
	ok, failed, interrupted atomic.Uint64 // dials
}

// New makes a set. It refuses names that are empty or occur twice, backends
// without nodes, and two nodes of one name in a backend. For a node without TLS
// it logs a warning: the proxy's secret would travel in clear, and a backendd
// refuses it then.
func New(backends []Backend, o Options) (*Set, error) {
	o.fill()
	s := &Set{o: o, backends: make(map[string][]*member, len(backends)), failed: make(map[string]failure)}
	for _, b := range backends {
		if b.Name == "" {
			return nil, errors.New("a backend has no name")
		}
		if _, twice := s.backends[b.Name]; twice {
			return nil, fmt.Errorf("backend %q is there twice", b.Name)
		}
		if len(b.Nodes) == 0 {
			return nil, fmt.Errorf("backend %q has no nodes", b.Name)
		}
		nodes := make([]*member, 0, len(b.Nodes))
		for _, n := range b.Nodes {
			if err := s.checkNode(b.Name, n); err != nil {
				return nil, err
			}
			if slices.ContainsFunc(nodes, func(m *member) bool { return m.Name == n.Name }) {
				return nil, fmt.Errorf("backend %q has two nodes named %q: give each a name of its own", b.Name, n.Name)
			}
			nodes = append(nodes, &member{Node: n})
		}
		s.backends[b.Name] = nodes
	}
	return s, nil
}

func (s *Set) checkNode(backend string, n Node) error {
	for service, e := range n.Services {
		if _, _, err := net.SplitHostPort(e.Address); err != nil {
			return fmt.Errorf("backend %q, node %q, %s: %w", backend, n.Name, service, err)
		}
		if e.TLS == tlsconf.Off && s.o.ProxySecret != "" {
			s.o.Logger.Warn("node has no TLS: the proxy's secret travels in clear and the backend will refuse it; set tls to starttls or implicit",
				zap.String("home", backend), zap.String("node", n.Name), zap.String("service", string(service)))
		}
	}
	return nil
}

// Has reports whether a backend of that name is configured.
func (s *Set) Has(backend string) bool {
	_, ok := s.backends[backend]
	return ok
}

// Dial connects to a node of the backend, with TLS done when it is implicit.
// It blocks at most for the connect time-out of each node. The connection ends
// with ctx, and at the latest when the time for the dialogue is over, until it
// is settled or detached. Errors: ErrUnknown, ErrUnreachable, the cause of ctx.
func (s *Set) Dial(ctx context.Context, backend string, service Service) (*Back, error) {
	all, ok := s.backends[backend]
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, backend)
	}
	nodes := s.order(all, service)
	if len(nodes) == 0 {
		return nil, fmt.Errorf("%w: no node of %q offers %s", ErrUnknown, backend, service)
	}
	var failures []error
	for _, n := range nodes {
		if n.drained.Load() {
			failures = append(failures, fmt.Errorf("node %s: %w", n.Name, errDrained))
			continue
		}
		back, err := s.connect(ctx, backend, n.Node, service)
		if ctx.Err() != nil {
			n.interrupted.Add(1)
			if err == nil {
				back.Close()
			}
			return nil, context.Cause(ctx)
		}
		s.mark(n.Node, service, err)
		if err == nil {
			n.ok.Add(1)
			return back, nil
		}
		n.failed.Add(1)
		failures = append(failures, fmt.Errorf("node %s: %w", n.Name, err))
	}
	return nil, fmt.Errorf("%w: %q: %w", ErrUnreachable, backend, errors.Join(failures...))
}

// errDrained: a node is out of service by an administrator's word.
var errDrained = errors.New("drained")

// order returns the nodes that offer the service, those that failed lately
// behind the others, and the drained ones last.
func (s *Set) order(nodes []*member, service Service) []*member {
	s.mu.Lock()
	defer s.mu.Unlock()
	var good, bad, drained []*member
	for _, n := range nodes {
		e, offered := n.Services[service]
		switch {
		case !offered:
		case n.drained.Load():
			drained = append(drained, n)
		case s.marked(e.Address):
			bad = append(bad, n)
		default:
			good = append(good, n)
		}
	}
	return append(append(good, bad...), drained...)
}

// marked reports whether an address failed lately. The caller holds mu.
func (s *Set) marked(address string) bool {
	f, failed := s.failed[address]
	return failed && time.Since(f.at) < s.o.Mark
}

// mark remembers whether a node could be reached.
func (s *Set) mark(n Node, service Service, err error) {
	address := n.Services[service].Address
	s.mu.Lock()
	_, before := s.failed[address]
	if err != nil {
		s.failed[address] = failure{time.Now(), err}
	} else {
		delete(s.failed, address)
	}
	s.mu.Unlock()
	switch {
	case err != nil && !before:
		s.o.Logger.Warn("node cannot be reached", zap.String("node", n.Name), zap.String("address", address), zap.Error(err))
	case err == nil && before:
		s.o.Logger.Info("node can be reached again", zap.String("node", n.Name), zap.String("address", address))
	}
}

func (s *Set) connect(ctx context.Context, backend string, n Node, service Service) (*Back, error) {
	e := n.Services[service]
	dialCtx, cancel := context.WithTimeout(ctx, s.o.ConnectTimeout)
	defer cancel()
	nc, err := s.o.Dial(dialCtx, "tcp", e.Address)
	if err != nil {
		return nil, err
	}
	b := &Back{
		Conn: wire.NewConn(nc), Backend: backend, Node: n.Name, Service: service,
		endpoint: e, name: s.o.ProxyName, secret: s.o.ProxySecret,
	}
	b.release = b.Conn.Bind(ctx)
	if e.TLS == tlsconf.Implicit {
		b.Conn.SetDeadline(time.Now().Add(s.o.ConnectTimeout))
		if err := b.Conn.ClientTLS(dialCtx, b.config()); err != nil {
			b.Close()
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
	}
	b.Conn.SetDeadline(time.Now().Add(s.o.DialogueTimeout))
	return b, nil
}
