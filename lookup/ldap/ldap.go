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
//     to the user's own bind, or when the account's hash was read and is
//     another password's, or without a question when the password is empty or
//     nobody can have that name. For a name that nobody has it takes as long as
//     for one that somebody has.
//   - The servers are asked in order or in turn. One that is slow has the next
//     one asked beside it. One that fails is left out until it answers again;
//     that is tried in the background, with back-off.
//   - Where a server has a feed (RFC 4533), Watch tells of changes while they
//     happen.
//   - Searches share a few connections that are bound as the service. A bind
//     as a user changes who a connection is, so those have their own.
package ldap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

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

// Directory implements lookup.Directory. It is safe for concurrent use.
type Directory struct {
	opts    Options
	base    string
	filter  filter
	wanted  []string // the attributes that a search asks for
	servers []*server
	turns   atomic.Uint32 // counts the questions, for Spread

	status, forward []string // the attributes of Options.Status and Options.Forward

	wantedWithHash []string               // wanted, for a Check by hash
	hashers        chan struct{}          // a place for each password that is verified
	decoy          atomic.Pointer[string] // a hash that was read, for names that nobody has
	nobody         string                 // a DN below the base that no entry has
	refusals       paces                  // how long binds were refused for

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
	if err := opts.check(); err != nil {
		return nil, err
	}
	d := &Directory{base: base}
	var err error
	if d.filter, err = parseFilter(opts.Filter); err != nil {
		return nil, err
	}
	d.wanted = wanted(opts)
	d.status, d.forward = strings.Fields(opts.Status), strings.Fields(opts.Forward)
	d.wantedWithHash = append(slices.Clip(d.wanted), opts.Hash)
	d.nobody = nobody(base)
	d.hashers = make(chan struct{}, opts.Hashers)
	d.opts = opts
	for _, u := range urls {
		s, err := newServer(u, d)
		if err != nil {
			return nil, err
		}
		if opts.External && s.network != "unix" && !s.implicitTLS && !s.startTLS {
			return nil, fmt.Errorf("LDAP server %q: EXTERNAL needs TLS or a socket of this machine", u)
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
	account, _, _, err := d.find(ctx, name, d.wanted)
	return account, err
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
