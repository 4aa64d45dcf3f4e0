// Package upstream knows the backends that a proxy may send sessions to: their
// nodes, where each node offers which service, how it is dialled, and how it is.
// It opens connections; what is said on them is the protocol's business.
//
// A backend has one node, or two that mirror each other. Nodes are tried in
// order, those that are up first. What is known of a node comes from the
// sessions' own connects and logins, and from health checks that log in (see
// Set.Run). It is known for each service of a node by itself:
//
//	up       sessions go there
//	suspect  something failed lately: sessions go there when nothing else is left
//	down     the breaker is open: "not now" at once, instead of a time-out
//	drained  out of service, by an administrator's word or the node's own
//
// The breaker opens only on evidence about the node: failures in a row that
// several clients met with several accounts, or that health checks met. One
// client's wrong password is none, and one account's broken mailbox is not
// enough.
//
// A dead node costs a session a second at most while there is a peer. A connect
// that takes long is raced by a connect to the peer; a login that fails for the
// node's sake is tried once more on the peer (see Want.Not). There are never two
// logins at once. How many connects and logins are under way on a node is
// bounded, so that the users of a dead node do not trample its peer; the rest
// wait, and for too many it is "not now".
//
// # The owner's hint
//
// In a mirror pair one node owns a user, and it may be either. A node that does
// not own the user refuses the login and names the owner, which is then
// preferred for that account for a while (Set.Prefer) and tried at once:
//
//	IMAP               NO [X-OWNER b1b] the other node owns this mailbox
//	POP3               -ERR [SYS/TEMP/OWNER] b1b
//	submission         454 4.1.6 [X-OWNER b1b] …
//	ManageSieve        NO (TRYLATER/OWNER) "b1b"
//
// The name is a Node's in the configuration. One that is not there, or whose
// node is down, changes nothing. A hint is only that: it may be forgotten or
// wrong, at the price of one more login.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"switchyard/internal/tlsconf"

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

	// Probe is an account that health checks log in for, on nodes that are not
	// backendds. Empty: they read the capabilities there, and do not log in. They
	// do not either where Login says that the proxy's own login is of no use.
	Probe string

	// Login is how the proxy logs in for users.
	Login Login
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

	// Config is for the TLS handshake: the CAs, pins and the client's
	// certificate (tlsconf.NewClient). Nil means the system's CAs. An empty
	// ServerName means the address's host.
	Config *tls.Config
}

// Options for New. The zero value works.
type Options struct {
	// ProxyName and ProxySecret are what the proxy logs in with, the user
	// being the authorisation identity. The secret opens every mailbox.
	ProxyName   string
	ProxySecret string

	// Hostname is what the proxy calls itself in health checks.
	Hostname string

	// ConnectTimeout bounds TCP connect and implicit TLS handshake with the
	// last node that is left to try. Zero means 5 seconds.
	ConnectTimeout time.Duration

	// Patience bounds them while there is another node to try. Zero means a
	// second, and ConnectTimeout is the most.
	Patience time.Duration

	// Hedge is how long a TCP connect may take before one to another node
	// begins beside it. The one that is there first is used, the other given
	// up. Zero means 250 milliseconds.
	Hedge time.Duration

	// DialogueTimeout bounds all that is said from the banner to the end of
	// the login. Zero means 20 seconds. See Back.Settle.
	DialogueTimeout time.Duration

	// LoginPatience bounds all from the connect to the end of the login, for a
	// login that can be tried on another node (Want.Retry). Zero means 2
	// seconds.
	LoginPatience time.Duration

	// Mark is how long a service that failed is tried last, or not at all,
	// while no health check says better. Zero means 5 seconds.
	Mark time.Duration

	// Fall is how many failures in a row open the breaker, Rise how many
	// successes close it. Zero means 3, and 2.
	Fall, Rise int

	// CheckUp is the time between two health checks of what is up, CheckDown
	// of what is not; both vary by 30 %. Zero means 7 seconds, and 2.
	CheckUp, CheckDown time.Duration

	// CheckTimeout bounds a health check. Zero means 3 seconds.
	CheckTimeout time.Duration

	// Checks bounds the health checks at the same time. Zero means 16.
	Checks int

	// Logins bounds the connects and logins at the same time for a service of
	// a node, and Queue those that wait for their turn, for QueueTimeout at
	// most. Zero means 64, 1,000 and 10 seconds.
	Logins, Queue int
	QueueTimeout  time.Duration

	// Hints bounds the accounts whose owner is remembered, for HintTTL. Zero
	// means 20,000, and 10 minutes.
	Hints   int
	HintTTL time.Duration

	// Dial opens a TCP connection; nil means a net.Dialer's. It returns soon
	// after its context ends.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	Logger *zap.Logger // nil: none
}

func orDefault[T int | time.Duration](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

func (o *Options) fill() {
	orDefault(&o.ConnectTimeout, 5*time.Second)
	orDefault(&o.Patience, time.Second)
	o.Patience = min(o.Patience, o.ConnectTimeout)
	orDefault(&o.Hedge, 250*time.Millisecond)
	orDefault(&o.DialogueTimeout, 20*time.Second)
	orDefault(&o.LoginPatience, 2*time.Second)
	o.LoginPatience = min(o.LoginPatience, o.DialogueTimeout)
	orDefault(&o.Mark, 5*time.Second)
	orDefault(&o.Fall, 3)
	orDefault(&o.Rise, 2)
	orDefault(&o.CheckUp, 7*time.Second)
	orDefault(&o.CheckDown, 2*time.Second)
	orDefault(&o.CheckTimeout, 3*time.Second)
	orDefault(&o.Checks, 16)
	orDefault(&o.Logins, 64)
	orDefault(&o.Queue, 1000)
	orDefault(&o.QueueTimeout, 10*time.Second)
	orDefault(&o.Hints, 20000)
	orDefault(&o.HintTTL, 10*time.Minute)
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
	top      atomic.Pointer[topology]
	watching atomic.Bool // Run is at work
	hints    hints
	commons  commons

	mu      sync.Mutex    // held to change the topology, and what is drained
	changed chan struct{} // closed when the topology has changed
}

// New makes a set. It refuses names that are empty or occur twice, backends
// without nodes, and two nodes of one name in a backend. For a node without TLS
// it logs a warning: the proxy's secret would travel in clear, and a backendd
// refuses it then.
func New(backends []Backend, o Options) (*Set, error) {
	o.fill()
	s := &Set{o: o, changed: make(chan struct{}), hints: hints{half: max(o.Hints/2, 1), ttl: o.HintTTL}}
	s.top.Store(&topology{})
	if err := s.Update(backends); err != nil {
		return nil, err
	}
	return s, nil
}

// Has reports whether a backend of that name is configured.
func (s *Set) Has(backend string) bool { return s.top.Load().backends[backend] != nil }

// Prefer remembers that a node owns an account, as another node said: it is the
// first to be tried for that account, for a while. An empty node forgets it.
func (s *Set) Prefer(backend, account, node string) {
	g := s.top.Load().backends[backend]
	if account == "" || node != "" && (g == nil || g.node(node) == nil) {
		return
	}
	s.hints.set(backend, account, node)
}

// Want says which connection is wanted.
type Want struct {
	Backend string
	Service Service

	// Account and Client are for whom: a failure is held against the node for
	// good only when others meet it too. An account's hint is followed.
	Account string
	Client  netip.Addr

	// Prefer is a node to be tried first, if it is up. Empty: the account's
	// hint, then the configuration's order.
	Prefer string

	// Not is a node that must not be tried: one that failed this login already.
	Not string

	// Retry says that the caller asks again, with Not, when the login fails for
	// the node's sake. While there is another node, the patience is short.
	Retry bool
}
