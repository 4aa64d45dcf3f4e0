// Package router takes a client's session to the backend that owns its account:
// front (the dialogue with the client), lookup, back (the login on the backend),
// splice. The front and the back of each protocol are in its children; what they
// share is here: listeners, the session, the questions to the directory, the way
// to the backend, and what is said in the log.
//
// A router keeps no state that matters. What it promises above all: a session
// reaches the account's home and no other backend. When the directory cannot
// say, the client is told "not now"; the default backend is for accounts that
// were found and carry no home.
//
//	r := router.New(dir, upstreams, router.Options{DefaultBackend: "b1"})
//	err := r.Serve(ctx, ln, router.Listener{Name: "imaps", Protocol: imap.New(), TLS: tlsconf.Implicit, Config: config})
package router

import (
	"context"
	"crypto/tls"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"switchyard/internal/origin"
	"switchyard/internal/server"
	"switchyard/internal/tlsconf"
	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/router/admit"
	"switchyard/router/sasl"
	"switchyard/router/splice"
	"switchyard/router/upstream"

	"go.uber.org/zap"
)

// Directory is a lookup.Directory with a cache that can be told off. It is safe
// for concurrent use.
type Directory interface {
	lookup.Directory

	// Fresh is Lookup past the cache. Errors: as Lookup's.
	Fresh(ctx context.Context, name string) (lookup.Account, error)

	// Forget drops what is cached about the name, Purge all that is cached.
	Forget(name string)
	Purge()
}

// Upstream is the backends; *upstream.Set is one.
type Upstream interface {
	Has(backend string) bool
	Dial(ctx context.Context, w upstream.Want) (*upstream.Back, error)

	// Prefer remembers which node of a backend owns an account; Owner says it.
	Prefer(backend, account, node string)
	Owner(backend, account string) (node string)

	// Drain takes a node, or with an empty name all nodes of a backend, out of
	// service or back into it; Drained says whether it is out. Dial never
	// chooses a node that is.
	Drain(backend, node string, on bool) error
	Drained(backend, node string) bool

	// LoginPolicy is how the proxy logs in on a backend. Backends are those that
	// have a service, Offers is what one of them offers there, and Capabilities
	// what all do; false while they were not heard.
	LoginPolicy(backend string) upstream.Login
	Backends(service upstream.Service) []string
	Offers(backend string, service upstream.Service) (upstream.Offer, bool)
	Capabilities(service upstream.Service) (upstream.Offer, bool)

	// Status describes all backends, and Route one: its nodes in the order in
	// which Dial would try them for the service and an account.
	Status() []upstream.BackendStatus
	Route(backend string, service upstream.Service, account string) []upstream.NodeStatus
}

// Back is the store's side of a session.
type Back = upstream.Back

// Protocol is a mail protocol as a proxy speaks it.
type Protocol interface {
	// Name is the protocol's name in logs and in questions to the directory.
	Name() string

	// Serve runs one session, from the greeting to the goodbye, or to where it
	// is joined (Session.Join). The router closes the client's connection behind
	// it; backends' connections are Serve's own to close. It returns nil for a
	// session that ended in order or goes on joined, else the reason, which
	// decides the session's result in the log. When ctx ends, reads and writes on the session's Conn fail with its cause; Serve
	// may call Conn.Resume and say goodbye.
	Serve(ctx context.Context, s *Session) error
}

// Busy is implemented by protocols that have words for a client that cannot be
// served now. It is one line with its CRLF.
type Busy interface{ Busy() string }

// Options for New. The zero value works.
type Options struct {
	// DefaultBackend owns the accounts that are found without a home. Empty
	// means that such accounts are an operator's mistake.
	DefaultBackend string

	// DefaultDomain is added to names without a domain.
	DefaultDomain string

	// Hostname is what the proxy calls itself. Empty means the system's name.
	Hostname string

	// LoginTimeout is how long a client may take from accept to the end of its
	// login, PROXY header and TLS handshakes included. Zero means 60 seconds.
	LoginTimeout time.Duration

	// LookupTimeout bounds one question to the directory. Zero means 10
	// seconds.
	LookupTimeout time.Duration

	// HeaderTimeout bounds the wait for a PROXY header. Zero means 5 seconds.
	HeaderTimeout time.Duration

	// Loop is where sessions go on once they are joined. It is the caller's to
	// close, behind the last Serve. Nil: two goroutines serve each session.
	Loop *splice.Loop

	// IdleTimeout ends spliced sessions on which nothing moved for so long.
	// Zero means never: TCP keepalive finds dead peers, and the backend has an
	// idle time of its own.
	IdleTimeout time.Duration

	// MaxFailures is how many rejected logins end a connection. Zero means 3.
	MaxFailures int

	// FailureDelay is the delay behind the first rejected login of a
	// connection; it doubles with each. Zero means a second, less than zero
	// none, and none of Admit.Guard's either.
	FailureDelay time.Duration

	// Grace is how long sessions may take to end when the daemon stops. Zero
	// means 5 seconds.
	Grace time.Duration

	// KickRate is how many sessions a second are ended when a node or the proxy
	// is drained, or an administrator kicks: what ends comes back, and has to
	// log in again somewhere. Zero means 200.
	KickRate int

	// SASL says by which mechanisms clients may log in. Options that its Check
	// refuses are an error in the log, and mean PLAIN and LOGIN.
	SASL sasl.Options

	// Admit bounds the sessions, before login and behind it, and slows down the
	// guessing of passwords, over all listeners.
	Admit admit.Options

	Logger *zap.Logger // nil: none
}

func (o *Options) fill() {
	if o.Hostname == "" {
		if o.Hostname, _ = os.Hostname(); o.Hostname == "" {
			o.Hostname = "localhost"
		}
	}
	if o.LoginTimeout == 0 {
		o.LoginTimeout = time.Minute
	}
	if o.LookupTimeout == 0 {
		o.LookupTimeout = 10 * time.Second
	}
	if o.HeaderTimeout == 0 {
		o.HeaderTimeout = 5 * time.Second
	}
	if o.MaxFailures == 0 {
		o.MaxFailures = 3
	}
	if o.FailureDelay == 0 {
		o.FailureDelay = time.Second
	}
	if o.FailureDelay < 0 {
		o.Admit.Guard.Free = -1
	}
	if o.Grace == 0 {
		o.Grace = 5 * time.Second
	}
	if o.KickRate <= 0 {
		o.KickRate = 200
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if err := o.SASL.Check(); err != nil {
		o.Logger.Error("the mechanisms for logins cannot be used as they are configured: only PLAIN and LOGIN are offered", zap.Error(err))
		o.SASL = sasl.Options{}
	}
}

// Router serves listeners. It is safe for concurrent use.
type Router struct {
	dir   Directory
	up    Upstream
	o     Options
	gate  *admit.Gate
	guard *admit.Guard

	live      registry
	tallies   tallies
	asked     asked
	kicked    atomic.Uint64
	pace      pace
	seed      maphash.Seed
	missed    chan struct{} // holds one: changes may have been missed
	draining  atomic.Bool
	drain     sync.Mutex    // held to change what follows
	undrained chan struct{} // closed when draining ends; nil unless draining

	policyCache policyCache
	keyed       keyedCache
	refusal     atomic.Int64 // nanoseconds that a backend's latest refusal of a password took
}

// New makes a router.
func New(dir Directory, up Upstream, o Options) *Router {
	o.fill()
	guard := o.Admit.Guard
	guard.Exempt = slices.Concat(guard.Exempt, o.Admit.Exempt)
	r := &Router{
		dir: dir, up: up, o: o, gate: admit.NewGate(o.Admit), guard: admit.NewGuard(guard),
		pace: pace{every: time.Second / time.Duration(o.KickRate)},
		seed: maphash.MakeSeed(), missed: make(chan struct{}, 1),
	}
	r.live.limits = &r.o.Admit
	return r
}

// Listener says how connections to one address are treated.
type Listener struct {
	Name     string // for the log
	Protocol Protocol

	TLS    tlsconf.Mode
	Config *tls.Config // required unless TLS is Off

	// ProxyProtocol demands a PROXY header, v1 or v2, on every connection. It
	// is required or off, never optional: a balancer that adds none would pass
	// on a client's forgery.
	ProxyProtocol bool

	// ProxyNetworks are the networks that PROXY headers are believed from;
	// connections from elsewhere are closed when ProxyProtocol is set.
	ProxyNetworks []netip.Prefix

	// TrustedProxies are the networks of other proxies of ours, whose word
	// about the client (IMAP ID, XCLIENT) is believed.
	TrustedProxies []netip.Prefix

	// AllowCleartextLogin permits passwords without TLS.
	AllowCleartextLogin bool

	// MaxSessions bounds the listener's sessions. Zero means server.Options's.
	MaxSessions int
}

// Serve accepts connections from ln and runs their sessions until ctx ends;
// then it closes ln, lets the sessions say goodbye within the grace period, and
// returns nil. It returns an error if ln fails for good, or l is incomplete.
func (r *Router) Serve(ctx context.Context, ln net.Listener, l Listener) error {
	if l.Protocol == nil {
		return fmt.Errorf("listener %q has no protocol", l.Name)
	}
	if l.TLS != tlsconf.Off && l.Config == nil {
		return fmt.Errorf("listener %q has no TLS configuration", l.Name)
	}
	defer r.keyed.follow(ctx, r)()
	p := &port{Listener: &l, router: r, tally: r.tallies.of(l.Protocol.Name())}
	o := server.Options{MaxSessions: l.MaxSessions, Grace: r.o.Grace, Stop: p.stop, Logger: r.o.Logger}
	ln, err := r.o.Loop.Listen(ln)
	if err != nil {
		return fmt.Errorf("listener %q: %w", l.Name, err)
	}
	return server.RunPlaces(ctx, ln, o, p.serve)
}

// port is a listener that is being served.
type port struct {
	*Listener
	router *Router
	tally  *tally
}

// stop says goodbye to the sessions that are joined; the others hear of it by
// their contexts.
func (p *port) stop() { p.router.live.goodbye(p, server.ErrShutdown) }

// serve runs one connection's session from accept to the line in the log, or to
// where it is joined to its backend's: from there on it goes on by itself.
func (p *port) serve(ctx context.Context, nc net.Conn, place *server.Place) {
	now := time.Now()
	conn := wire.NewConn(nc)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	r := p.router
	s := &Session{
		ID: origin.NewSession(now), Conn: conn,
		Client: conn.RemoteAddr(), Local: conn.LocalAddr(),
		router: r, listener: p.Listener, proto: p.tally.protocol, place: place,
		ttl: origin.DefaultTTL - 1, admitted: func() {},
	}
	s.peer = s.Client.Addr()
	s.Log = r.o.Logger.WithLazy(zap.String("session", s.ID), zap.Stringer("client", s.Client))
	s.live = &live{port: p, end: end, since: now.UnixNano(), id: s.ID, client: s.Client, conn: conn}
	conn.SetDeadline(now.Add(r.o.LoginTimeout))
	s.release = conn.Bind(ctx)
	defer conn.Close()
	if !r.live.add(s.live) {
		s.busy()
		s.report(ErrDraining)
		return
	}
	err := errPanicked
	defer func() {
		if !s.handedOver {
			r.live.remove(s.live)
			s.report(err)
		}
	}()
	err = r.run(ctx, nc, s)
}

// run does what comes before the protocol, and then the protocol.
func (r *Router) run(ctx context.Context, nc net.Conn, s *Session) error {
	defer func() { s.release(); s.admitted() }()
	place := r.gate.Enter()
	if place == nil {
		s.busy()
		return ErrFull
	}
	s.admitted = place.Leave
	if err := r.readHeader(nc, s); err != nil {
		return err
	}
	if !place.From(s.Client.Addr()) || !r.live.seat(s.live) {
		s.busy()
		return ErrFull
	}
	if s.listener.TLS == tlsconf.Implicit {
		if err := s.serverTLS(ctx); err != nil {
			return handshakeError(err)
		}
		s.shown(func(l *live) { l.tls = true })
	}
	return s.listener.Protocol.Serve(ctx, s)
}

// readHeader reads the PROXY header where one is demanded. Not a byte is read
// from a peer that is not trusted.
func (r *Router) readHeader(nc net.Conn, s *Session) error {
	if !s.listener.ProxyProtocol {
		return nil
	}
	if !contains(s.listener.ProxyNetworks, s.Client.Addr()) {
		return errNotBalancer
	}
	if err := nc.SetReadDeadline(time.Now().Add(min(r.o.HeaderTimeout, r.o.LoginTimeout))); err != nil {
		return err
	}
	h, err := admit.ReadHeader(nc)
	if err != nil {
		return headerError(err)
	}
	s.peer = h.Client.Addr() // invalid when the header names nobody
	if !h.Own {
		s.Client, s.Local = h.Client, h.Local
		s.Log = r.o.Logger.WithLazy(zap.String("session", s.ID), zap.Stringer("client", s.Client))
		s.shown(func(l *live) { l.client = s.Client })
	}
	return nil
}

// busy tells a client that there is no room, where that can be said.
func (s *Session) busy() {
	b, ok := s.listener.Protocol.(Busy)
	if !ok || s.listener.TLS == tlsconf.Implicit {
		return
	}
	s.Conn.SetIdle(busyTimeout)
	s.Conn.WriteString(b.Busy())
	s.Conn.Flush()
}

// busyTimeout bounds the one write to a client that is turned away.
const busyTimeout = time.Second

func contains(networks []netip.Prefix, a netip.Addr) bool { return admit.Contains(networks, a) }
