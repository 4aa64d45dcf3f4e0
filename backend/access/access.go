// Package access decides who may use which mail on this backend. Two questions
// are answered here, and nowhere else:
//
// Who may log in for whom? A user with the right password, for itself. A proxy
// with the cluster's secret, over TLS, from a named network, for anyone: it has
// verified the user already. Nobody else, and a secret that comes from the
// wrong place is refused like a wrong one.
//
// Does the account live here? The directory says so, asked by this backend
// itself; what a proxy believes is only a hint. A mailbox is never created, and
// nothing is delivered, for an account whose home is elsewhere: the answer is
// backend.ErrMoved, and the proxy looks up once more. When the directory cannot
// be asked, accounts that have mail here go on as before, new ones wait.
package access

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"switchyard/backend"
	"switchyard/internal/probe"
	"switchyard/lookup"

	"go.uber.org/zap"
)

// Options for New.
type Options struct {
	// Default says that accounts without a home live on this backend.
	Default bool

	// ProxyName and ProxySecret are what proxies log in with. An empty secret
	// means that no proxy may.
	ProxyName   string
	ProxySecret string

	// ProxyNetworks are the networks that proxies connect from.
	ProxyNetworks []netip.Prefix

	// DefaultDomain is added to a login name without a domain.
	DefaultDomain string

	// Ready says how this node is, to proxies that ask (internal/probe). Nil
	// means that it serves. It must not block.
	Ready func() probe.Answer

	Logger *zap.Logger // nil: none
}

// Gate answers the package's two questions. It is safe for concurrent use.
type Gate struct {
	self  string
	dir   lookup.Directory
	store backend.Store
	o     Options
}

// New makes a gate for the backend named self. The directory should not be
// cached for long: its answers decide whether mail may be stored here.
func New(self string, dir lookup.Directory, store backend.Store, o Options) *Gate {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return &Gate{self: self, dir: dir, store: store, o: o}
}

// StatusError: the password was right, but the account may not be used. Only
// someone who knows the password, or a proxy, may be told.
type StatusError struct{ Status lookup.Status }

func (e *StatusError) Error() string { return fmt.Sprintf("account is %s", e.Status) }

// Trusted reports whether a client identity from this peer (IMAP ID, XCLIENT)
// may be believed: it comes over TLS from a named network. The address is the
// socket's own.
func (g *Gate) Trusted(peer netip.Addr, tls bool) bool {
	return tls && g.o.ProxySecret != "" && slices.ContainsFunc(g.o.ProxyNetworks, func(n netip.Prefix) bool { return n.Contains(peer.Unmap()) })
}

// Proxy reports whether name and secret are a proxy's, used from where a proxy
// may be. It is what LMTP asks for.
func (g *Gate) Proxy(name, secret string, peer netip.Addr, tls bool) bool {
	right := subtle.ConstantTimeCompare([]byte(name), []byte(g.o.ProxyName)) &
		subtle.ConstantTimeCompare([]byte(secret), []byte(g.o.ProxySecret))
	if right != 1 || g.o.ProxySecret == "" {
		return false
	}
	if !g.Trusted(peer, tls) {
		g.o.Logger.Warn("proxy login refused: right secret from the wrong place; add the network to the backend's proxy networks, and let proxies connect with TLS",
			zap.Stringer("peer", peer), zap.Bool("tls", tls))
		return false
	}
	return true
}

// Login is one attempt to log in.
type Login struct {
	Authzid  string // whose mail; empty: Authcid's
	Authcid  string // who logs in
	Password string

	Peer       netip.Addr // the socket's own address
	Client     netip.Addr // the user's address, as far as it is believed
	TLS        bool       // the peer's connection is encrypted
	Generation uint64     // the home generation that a trusted proxy passed on
	Protocol   string
}

// Granted is what a login got.
type Granted struct {
	User    backend.User
	Account lookup.Account
	Proxied bool // a proxy logged in for the user
}

// ProbeError is what a proxy gets that has logged in for nobody, to ask how this
// node is.
type ProbeError struct{ probe.Answer }

func (e *ProbeError) Error() string { return "a proxy asks how this node is: " + e.String() }

// Probe answers a proxy's question. It returns nil when it was none: another
// login, or not a proxy's.
func (g *Gate) Probe(l Login) *ProbeError {
	if l.Authzid != probe.User || !g.isProxyName(l.Authcid) || !g.Proxy(l.Authcid, l.Password, l.Peer, l.TLS) {
		return nil
	}
	if g.o.Ready == nil {
		return &ProbeError{probe.Answer{Word: probe.Ready, Text: "serves"}}
	}
	return &ProbeError{g.o.Ready()}
}

// Login decides an attempt. Errors: lookup.ErrRejected, lookup.ErrUnavailable,
// backend.ErrMoved, a *StatusError, a *ProbeError, and the store's.
func (g *Gate) Login(ctx context.Context, l Login) (Granted, error) {
	if g.isProxyName(l.Authcid) {
		if answer := g.Probe(l); answer != nil {
			return Granted{}, answer
		}
		return g.proxyLogin(ctx, l)
	}
	name, err := lookup.CleanName(l.Authcid, g.o.DefaultDomain)
	if err != nil {
		return Granted{}, fmt.Errorf("%w: %v", lookup.ErrRejected, err)
	}
	if l.Authzid != "" {
		// RFC 4616 §2: an authorisation identity must be asked for and
		// granted; users may ask for themselves only.
		if as, err := lookup.CleanName(l.Authzid, g.o.DefaultDomain); err != nil || as != name {
			return Granted{}, fmt.Errorf("%w: may not act for another", lookup.ErrRejected)
		}
	}
	if l.Password == "" {
		return Granted{}, fmt.Errorf("%w: empty password", lookup.ErrRejected)
	}
	account, err := g.dir.Check(ctx, lookup.Credentials{Name: name, Password: l.Password, Client: l.Client, Protocol: l.Protocol})
	if err != nil {
		return Granted{}, err
	}
	if !account.Status.MayLogin() {
		return Granted{}, &StatusError{account.Status}
	}
	user, err := g.open(ctx, account)
	return Granted{User: user, Account: account}, err
}

func (g *Gate) isProxyName(name string) bool {
	return g.o.ProxySecret != "" && g.o.ProxyName != "" && name == g.o.ProxyName
}

func (g *Gate) proxyLogin(ctx context.Context, l Login) (Granted, error) {
	if !g.Proxy(l.Authcid, l.Password, l.Peer, l.TLS) || l.Authzid == "" {
		return Granted{}, lookup.ErrRejected
	}
	name, err := lookup.CleanName(l.Authzid, "")
	if err != nil {
		return Granted{}, fmt.Errorf("%w: %v", lookup.ErrRejected, err)
	}
	user, account, err := g.owned(ctx, name, l.Generation, lookup.Status.MayLogin)
	if errors.Is(err, lookup.ErrAbsent) {
		err = fmt.Errorf("%w: %v", lookup.ErrRejected, err)
	}
	if err != nil {
		return Granted{}, err
	}
	return Granted{User: user, Account: account, Proxied: true}, nil
}

// Recipient opens the mail of an account that something is to be delivered to.
// generation is the proxy's hint, or zero. Errors: lookup.ErrAbsent,
// lookup.ErrUnavailable, backend.ErrMoved, a *StatusError when the account may
// not receive, and the store's.
func (g *Gate) Recipient(ctx context.Context, address string, generation uint64) (backend.User, lookup.Account, error) {
	name, err := lookup.CleanName(address, g.o.DefaultDomain)
	if err != nil {
		return nil, lookup.Account{}, err
	}
	return g.owned(ctx, name, generation, lookup.Status.MayReceive)
}

// owned asks the directory whether the account lives here, and whether its
// status allows what is wanted, and only then opens its mail.
func (g *Gate) owned(ctx context.Context, name string, generation uint64, allows func(lookup.Status) bool) (backend.User, lookup.Account, error) {
	account, err := g.dir.Lookup(ctx, name)
	if err == nil {
		if !g.Owns(account) {
			return nil, account, g.moved(account)
		}
		if !allows(account.Status) {
			return nil, account, &StatusError{account.Status}
		}
		account.Generation = max(account.Generation, generation)
		user, err := g.open(ctx, account)
		return user, account, err
	}
	if lookup.AnswerOf(err) != lookup.AnswerUnavailable {
		return nil, lookup.Account{}, err
	}
	// The directory cannot say. Whoever has mail here, and of whom no newer
	// home is known, goes on.
	known, knownErr := g.store.Generation(ctx, name)
	if knownErr != nil || generation > known {
		return nil, lookup.Account{}, lookup.Unavailable("ask for the account's home", err)
	}
	user, err := g.store.User(ctx, name)
	return user, lookup.Account{Name: name, Home: g.self, Generation: known}, err
}

// open opens the mail of a found account if this backend is its home.
func (g *Gate) open(ctx context.Context, account lookup.Account) (backend.User, error) {
	if !g.Owns(account) {
		return nil, g.moved(account)
	}
	user, err := g.store.CreateUser(ctx, account.Name, account.Generation)
	if err != nil {
		return nil, err
	}
	user.Limit(limitOf(account))
	return user, nil
}

// messagesAttribute is how many messages an account may have, beside the bytes
// of its quota.
const messagesAttribute = "maxmessages"

// limitOf reads an account's quota. What is no number is no limit: nobody's mail
// is refused for a typing mistake.
func limitOf(account lookup.Account) backend.Quota {
	messages, err := strconv.ParseInt(account.Attributes[messagesAttribute], 10, 64)
	if err != nil {
		messages = 0
	}
	return backend.Quota{Bytes: max(account.Quota, 0), Messages: max(messages, 0)}
}

func (g *Gate) moved(account lookup.Account) error {
	return fmt.Errorf("%w: home is %q, this is %q", backend.ErrMoved, account.Home, g.self)
}

// Owns reports whether a found account lives on this backend.
func (g *Gate) Owns(account lookup.Account) bool {
	return account.Home == g.self || account.Home == "" && g.o.Default
}
