// Package ldap is the directory on LDAP servers (RFC 4511): an account is one
// entry below a base, found with a filter, and a password is right when the
// server lets its owner bind with it.
//
//	d, err := ldap.New([]string{"ldaps://ldap1.example.test", "ldaps://ldap2.example.test"},
//		"ou=people,dc=example,dc=test", ldap.Options{BindDN: "cn=mail,dc=example,dc=test", Password: secret})
//	defer d.Close()
//
// What it promises:
//
//   - Absent is said only after a search that succeeded, below a base that
//     exists, without an entry and without a referral, by a server that proved
//     that it can see. Everything else that
//     is not one entry is unavailable: a limit that was hit, two entries (the
//     error names both), a value that makes no sense.
//   - Rejected is said only when the server answered invalidCredentials (49)
//     to the user's own bind, or without a question when the password is empty
//     or nobody can have that name.
//   - The servers are asked in order. One that fails is left out until it
//     answers again; that is tried in the background, with back-off.
//   - Searches share a few connections that are bound as the service. A bind
//     as a user changes who a connection is, so those have their own.
package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
	"go.uber.org/zap"

	"switchyard/lookup"
)

// Bounds that are not options.
const (
	// maxAnswer bounds one message from a server, in bytes. Decoding may take
	// a multiple of it.
	maxAnswer = 1 << 20

	// maxPassword is the longest password that is sent, in bytes. A longer one
	// is nobody's.
	maxPassword = 64 << 10
)

// Scope says how far below the base an entry may be.
type Scope int

// The scopes of RFC 4511 §4.5.1.2 that can find more than one account.
const (
	Subtree  Scope = iota // anywhere below the base
	OneLevel              // directly below it
)

// Options of a Directory. The attribute names are those of the project's own
// schema (deploy/ldap) when empty.
type Options struct {
	// StartTLS upgrades ldap:// connections before anything else is said on
	// them. Without it, user passwords cross the network as they are.
	StartTLS bool

	// TLS is used for ldaps:// and StartTLS; ServerName is filled in from the
	// URL. Nil means the system's certificate authorities and TLS 1.2 at
	// least.
	TLS *tls.Config

	// BindDN and Password are the service's own, for searching. An empty
	// BindDN means anonymous.
	BindDN   string
	Password string

	// Scope of the search. Zero means Subtree.
	Scope Scope

	// Filter finds an account; {name} stands for its name and is escaped. Empty
	// means DefaultFilter.
	Filter string

	// Name is the attribute with the account's own name. One of its values
	// must be the name that was asked for, but for upper and lower case:
	// servers compare more loosely than mail may. Empty means swName.
	Name string

	// The attributes for the fields of lookup.Account. Empty means swHome,
	// swHomeGeneration, swStatus, swQuota and swForward; "-" means that the
	// directory has none.
	Home, Generation, Status, Quota, Forward string

	// Canary is the name of an account that always exists. A server is not
	// asked for others before it has found this one, since a server that hides
	// entries (access rules, a replica being loaded) says of all of them that
	// they are absent. Empty means that the base must be visible instead, which
	// proves less.
	Canary string

	// Attributes are read into lookup.Account.Attributes under their names in
	// lower case. Several values are joined with newlines.
	Attributes []string

	// DialTimeout bounds connecting, with the handshake of TLS. Zero means 3
	// seconds.
	DialTimeout time.Duration

	// BindTimeout bounds a bind, with the wait for one of the BindConns. Zero
	// means 5 seconds.
	BindTimeout time.Duration

	// SearchTimeout bounds a search on one server, with the wait for a
	// connection. Zero means 3 seconds.
	SearchTimeout time.Duration

	// SearchConns is how many connections to each server the searches share.
	// Zero means 2; more were slower when measured.
	SearchConns int

	// BindConns is how many users may be verified at a time on one server.
	// Zero means 6.
	BindConns int

	// BackOff is the longest pause before a failed connection is tried again;
	// the first is a fortieth of it. Zero means 2 seconds.
	BackOff time.Duration

	// Logger hears when a server is lost and when it is back. Nil means no
	// one does.
	Logger *zap.Logger
}

// DefaultFilter finds an entry of the project's own schema.
const DefaultFilter = "(&(objectClass=switchyardAccount)(swName={name}))"

func (o *Options) defaults() {
	for _, s := range []struct {
		value *string
		empty string
	}{
		{&o.Filter, DefaultFilter}, {&o.Name, "swName"}, {&o.Home, "swHome"}, {&o.Generation, "swHomeGeneration"},
		{&o.Status, "swStatus"}, {&o.Quota, "swQuota"}, {&o.Forward, "swForward"},
	} {
		if *s.value == "" {
			*s.value = s.empty
		}
	}
	for _, d := range []struct {
		value *time.Duration
		zero  time.Duration
	}{
		{&o.DialTimeout, 3 * time.Second}, {&o.BindTimeout, 5 * time.Second}, {&o.SearchTimeout, 3 * time.Second},
		{&o.BackOff, 2 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.zero
		}
	}
	if o.SearchConns <= 0 {
		o.SearchConns = 2
	}
	if o.BindConns <= 0 {
		o.BindConns = 6
	}
	if o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// Directory implements lookup.Directory. It is safe for concurrent use.
type Directory struct {
	opts    Options
	base    string
	filter  filter
	wanted  []string // the attributes that a search asks for
	servers []*server

	life context.Context // ends at Close; of the connections, not of a question
	end  context.CancelFunc

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // the connections' and the questions' goroutines; Add under mu
}

// limitAnswers bounds what the library reads of a message; its own default is
// 2 GiB. The bound is the library's only one and for the whole process, and is
// set before this package, the only one to use it, has a connection.
var limitAnswers = sync.OnceFunc(func() { ber.MaxPacketLengthBytes = maxAnswer })

// New returns a directory on the servers of urls (ldap://, ldaps://, ldapi://),
// asked in that order, with the accounts below base. It begins to connect in
// the background and does not wait for it: a question that comes first does.
func New(urls []string, base string, opts Options) (*Directory, error) {
	limitAnswers()
	opts.defaults()
	if len(urls) == 0 {
		return nil, errors.New("no LDAP server")
	}
	if _, err := ldap.ParseDN(base); err != nil {
		return nil, fmt.Errorf("base %q: %w", base, err)
	}
	if _, err := ldap.ParseDN(opts.BindDN); err != nil {
		return nil, fmt.Errorf("bind DN %q: %w", opts.BindDN, err)
	}
	if (opts.BindDN == "") != (opts.Password == "") {
		// RFC 4513 §5.1.2: a name without a password binds as nobody.
		return nil, errors.New("a bind DN needs a password, and a password a bind DN")
	}
	if clean, err := lookup.CleanName(opts.Canary, ""); opts.Canary != "" && (err != nil || clean != opts.Canary) {
		return nil, fmt.Errorf("canary %q is not the clean name of an account", opts.Canary)
	}
	if opts.Scope != Subtree && opts.Scope != OneLevel {
		return nil, fmt.Errorf("scope %d is unknown", opts.Scope)
	}
	d := &Directory{base: base}
	var err error
	if d.filter, err = parseFilter(opts.Filter); err != nil {
		return nil, err
	}
	d.wanted = wanted(opts)
	d.opts = opts
	for _, u := range urls {
		s, err := newServer(u, d)
		if err != nil {
			return nil, err
		}
		if s.inClear() {
			opts.Logger.Warn("passwords go to the directory in clear", zap.String("node", s.url))
		}
		d.servers = append(d.servers, s)
	}
	// The connections outlive the call that makes them and end with Close.
	d.life, d.end = context.WithCancel(context.Background())
	for _, s := range d.servers {
		for slot := range s.slots {
			d.wg.Go(func() { s.maintain(d.life, slot) })
		}
	}
	return d, nil
}

// Close ends all connections and waits for what goes on on them. Questions
// under way and later ones are answered with unavailable.
func (d *Directory) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.end()
	for _, s := range d.servers {
		s.close()
	}
	d.wg.Wait()
	return nil
}

// start runs f in a goroutine that Close waits for.
func (d *Directory) start(f func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	d.wg.Go(f)
	return nil
}

// Lookup implements lookup.Directory.
func (d *Directory) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	account, _, _, err := d.find(ctx, name)
	return account, err
}

// Check implements lookup.Directory: it finds the account's entry and binds as
// it. The credentials' client and protocol make no difference.
func (d *Directory) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	// RFC 4513 §5.1.2: a simple bind with an empty password is an anonymous
	// one and succeeds.
	if c.Password == "" || len(c.Password) > maxPassword {
		return lookup.Account{}, lookup.ErrRejected
	}
	account, dn, found, err := d.find(ctx, c.Name)
	switch {
	case errors.Is(err, lookup.ErrUnavailable):
		return lookup.Account{}, err
	case err != nil:
		return lookup.Account{}, lookup.ErrRejected
	}
	// The server that has the entry first, then the others in order.
	servers := []*server{found}
	for _, s := range d.servers {
		if s != found {
			servers = append(servers, s)
		}
	}
	var failures []error
	for _, s := range servers {
		err := s.verify(ctx, dn, c.Password)
		switch {
		case err == nil:
			return account, nil
		case errors.Is(err, lookup.ErrRejected):
			return lookup.Account{}, lookup.ErrRejected
		}
		failures = append(failures, fmt.Errorf("%s: %w", s.url, err))
		if ctx.Err() != nil {
			break
		}
	}
	return lookup.Account{}, lookup.Unavailable("bind as "+dn, listed(failures))
}

// find returns the account of a name, its entry's DN and the server that has
// it. Errors: lookup.ErrAbsent, lookup.ErrUnavailable.
func (d *Directory) find(ctx context.Context, name string) (lookup.Account, string, *server, error) {
	if clean, err := lookup.CleanName(name, ""); err != nil || clean != name {
		return lookup.Account{}, "", nil, lookup.ErrAbsent
	}
	if err := ctx.Err(); err != nil {
		return lookup.Account{}, "", nil, lookup.Unavailable("search for "+name, err)
	}
	request := d.request(name)
	var failures []error
	for _, s := range d.servers {
		entry, err := s.find(ctx, request)
		if err == nil {
			account, err := d.account(entry, name)
			if err != nil && !errors.Is(err, lookup.ErrAbsent) {
				err = lookup.Unavailable("read "+entry.DN, err)
			}
			return account, entry.DN, s, err
		}
		if errors.Is(err, lookup.ErrAbsent) {
			return lookup.Account{}, "", nil, lookup.ErrAbsent
		}
		failures = append(failures, fmt.Errorf("%s: %w", s.url, err))
		if ctx.Err() != nil || errors.As(err, new(*AmbiguousError)) {
			break
		}
	}
	return lookup.Account{}, "", nil, lookup.Unavailable("search for "+name, listed(failures))
}

// request asks for the entry of a name.
func (d *Directory) request(name string) *ldap.SearchRequest {
	scope := ldap.ScopeWholeSubtree
	if d.opts.Scope == OneLevel {
		scope = ldap.ScopeSingleLevel
	}
	return ldap.NewSearchRequest(d.base, scope, ldap.NeverDerefAliases,
		2, // entries: one more than there may be
		int(d.opts.SearchTimeout.Seconds())+1, false, d.filter.of(name), d.wanted, nil)
}

// ServerStatus is how a server does, for the page of an admin.
type ServerStatus struct {
	URL       string
	Connected int   // live search connections
	Err       error // why the last try to connect failed; nil after one that did not
}

// Status returns the state of each server, in their order.
func (d *Directory) Status() []ServerStatus {
	var out []ServerStatus
	for _, s := range d.servers {
		out = append(out, s.status())
	}
	return out
}
