package ldap

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"

	"switchyard/lookup"
)

// Check implements lookup.Directory: it finds the account's entry and binds as
// it, or reads its hash (Options.Verify). The credentials' client and protocol
// make no difference.
//
// A name that nobody has takes as long as one that somebody has: by bind, one
// is made as an entry that does not exist, so that it waits for a connection
// and for the server like the others, and the answer is held back for as long
// as one of the last refusals of real accounts took, since a server has no hash
// to compute for an entry that is not there; by hash, one that was read before
// is verified.
func (d *Directory) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	// RFC 4513 §5.1.2: a simple bind with an empty password is an anonymous
	// one and succeeds.
	if c.Password == "" || len(c.Password) > maxPassword {
		return lookup.Account{}, lookup.ErrRejected
	}
	attributes := d.wanted
	if d.opts.Verify != nil {
		attributes = d.wantedWithHash
	}
	account, entry, s, err := d.find(ctx, c.Name, attributes)
	switch {
	case errors.Is(err, lookup.ErrUnavailable):
		return lookup.Account{}, err
	case err != nil && s == nil:
		return lookup.Account{}, lookup.ErrRejected // nobody can have that name
	case err != nil:
		entry = nil
	}
	if d.opts.Verify != nil {
		err = d.checkHash(ctx, entry, c.Password)
	} else {
		err = d.checkBind(ctx, entry, s, c.Password)
	}
	if err != nil {
		return lookup.Account{}, err
	}
	return account, nil
}

// checkHash compares the password with the hashes of an entry, or with
// another's hash when there is no entry.
func (d *Directory) checkHash(ctx context.Context, entry *ldap.Entry, password string) error {
	ctx, cancel := context.WithTimeout(ctx, d.opts.BindTimeout)
	defer cancel()
	select {
	case d.hashers <- struct{}{}:
		defer func() { <-d.hashers }()
	case <-ctx.Done():
		return lookup.Unavailable("wait for a hasher", ctx.Err())
	}
	var hashes []string
	if entry != nil {
		hashes = d.hashes(entry)
		if len(hashes) == 0 && d.opts.Canary == "" {
			return lookup.Unavailable("read "+entry.DN, fmt.Errorf("%s is missing or may not be read", d.opts.Hash))
		}
	}
	for _, hash := range hashes {
		if d.opts.Verify(hash, password) {
			return nil
		}
	}
	if decoy := d.decoy.Load(); len(hashes) == 0 && decoy != nil {
		d.opts.Verify(*decoy, password)
	}
	return lookup.ErrRejected
}

// hashes returns the hashes of an entry and remembers one of them for the
// names that nobody has.
func (d *Directory) hashes(entry *ldap.Entry) []string {
	var out []string
	for _, hash := range entry.GetEqualFoldAttributeValues(d.opts.Hash) {
		if hash != "" {
			out = append(out, hash)
		}
	}
	if len(out) > 0 {
		d.decoy.Store(&out[0])
	}
	return out
}

// checkBind binds as an entry, or as none when it is nil: on the server that
// answered the search first, then on the others in order.
func (d *Directory) checkBind(ctx context.Context, entry *ldap.Entry, found *server, password string) error {
	dn, start := d.nobody, time.Now()
	if entry != nil {
		dn = entry.DN
	}
	servers := []*server{found}
	for _, s := range d.servers {
		if s != found {
			servers = append(servers, s)
		}
	}
	var failures []error
	for _, s := range servers {
		err := s.verify(ctx, dn, password)
		switch {
		case entry == nil && (err == nil || isNobody(err)):
			return d.refusals.hold(ctx, start)
		case err == nil:
			return nil
		case errors.Is(err, lookup.ErrRejected):
			d.refusals.add(time.Since(start))
			return lookup.ErrRejected
		}
		failures = append(failures, fmt.Errorf("%s: %w", s.url, err))
		if ctx.Err() != nil {
			break
		}
	}
	return lookup.Unavailable("bind as "+dn, listed(failures))
}

// isNobody reports whether a server refused a bind as an entry that is not
// there, in whatever words.
func isNobody(err error) bool {
	return errors.Is(err, lookup.ErrRejected) || ldap.IsErrorAnyOf(err, ldap.LDAPResultNoSuchObject,
		ldap.LDAPResultInvalidDNSyntax, ldap.LDAPResultInappropriateAuthentication,
		ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultUnwillingToPerform)
}

// nobody returns a DN below the base that no entry has.
func nobody(base string) string { return "cn=nobody-" + rand.Text() + "," + base }

// paces remembers how long the last refusals of real accounts took. The zero
// value is ready.
type paces struct {
	mu   sync.Mutex
	took [64]time.Duration
	n    int // of them, ever
}

func (p *paces) add(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took[p.n%len(p.took)] = d
	p.n++
}

// hold waits until as much time has passed since start as one of them took,
// and rejects.
func (p *paces) hold(ctx context.Context, start time.Time) error {
	p.mu.Lock()
	var took time.Duration
	if p.n > 0 {
		took = p.took[mathrand.IntN(min(p.n, len(p.took)))]
	}
	p.mu.Unlock()
	sleep(ctx, took-time.Since(start))
	if err := ctx.Err(); err != nil {
		return lookup.Unavailable("wait for the answer", err)
	}
	return lookup.ErrRejected
}
