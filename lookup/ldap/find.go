package ldap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-ldap/ldap/v3"

	"switchyard/lookup"
)

// find returns the account of a name, its entry and the server that answered;
// with lookup.ErrAbsent, the server is nil when there was no question to ask.
// Errors: lookup.ErrAbsent, lookup.ErrUnavailable.
func (d *Directory) find(ctx context.Context, name string, attributes []string) (lookup.Account, *ldap.Entry, *server, error) {
	if clean, err := lookup.CleanName(name, ""); err != nil || clean != name {
		return lookup.Account{}, nil, nil, lookup.ErrAbsent
	}
	if err := ctx.Err(); err != nil {
		return lookup.Account{}, nil, nil, lookup.Unavailable("search for "+name, err)
	}
	entry, s, err := d.ask(ctx, d.request(name, attributes))
	switch {
	case errors.Is(err, lookup.ErrAbsent):
		return lookup.Account{}, nil, s, lookup.ErrAbsent
	case err != nil:
		return lookup.Account{}, nil, nil, lookup.Unavailable("search for "+name, err)
	}
	account, err := d.account(entry, name)
	if err != nil && !errors.Is(err, lookup.ErrAbsent) {
		err = lookup.Unavailable("read "+entry.DN, err)
	}
	return account, entry, s, err
}

// request asks for the entry of a name.
func (d *Directory) request(name string, attributes []string) *ldap.SearchRequest {
	return ldap.NewSearchRequest(d.base, d.scope(), ldap.NeverDerefAliases,
		2, // entries: one more than there may be
		int(d.opts.SearchTimeout.Seconds())+1, false, d.filter.of(name), attributes, nil)
}

func (d *Directory) scope() int {
	if d.opts.Scope == OneLevel {
		return ldap.ScopeSingleLevel
	}
	return ldap.ScopeWholeSubtree
}

// order is the order in which the servers are asked now.
func (d *Directory) order() []*server {
	if !d.opts.Spread || len(d.servers) == 1 {
		return d.servers
	}
	first := int(d.turns.Add(1) % uint32(len(d.servers)))
	return slices.Concat(d.servers[first:], d.servers[:first])
}

// ask puts a search to the first server, to the next when one fails, and beside
// it when it is silent for half of its time. The first answer counts: an entry,
// lookup.ErrAbsent, or an AmbiguousError. It returns the server that gave it.
func (d *Directory) ask(ctx context.Context, request *ldap.SearchRequest) (*ldap.Entry, *server, error) {
	servers := d.order()
	if len(servers) == 1 {
		entry, err := servers[0].find(ctx, request)
		if !isAnswer(err) {
			err = fmt.Errorf("%s: %w", servers[0].url, err)
		}
		return entry, servers[0], err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		entry *ldap.Entry
		from  *server
		err   error
	}
	answers := make(chan answer, len(servers))
	patience := time.NewTimer(0)
	defer patience.Stop()
	var failures []error
	asked, answered := 0, 0
	for {
		select {
		case <-patience.C:
		case a := <-answers:
			answered++
			if isAnswer(a.err) {
				return a.entry, a.from, a.err
			}
			failures = append(failures, fmt.Errorf("%s: %w", a.from.url, a.err))
		}
		if asked < len(servers) && ctx.Err() == nil {
			s := servers[asked]
			err := d.start(func() {
				entry, err := s.find(ctx, request)
				answers <- answer{entry, s, err}
			})
			if err != nil {
				return nil, nil, err
			}
			asked++
			patience.Reset(d.opts.SearchTimeout / 2)
		}
		if answered == asked {
			return nil, nil, listed(failures)
		}
	}
}

// isAnswer reports whether an error from a server, or none, settles a question.
func isAnswer(err error) bool {
	return err == nil || errors.Is(err, lookup.ErrAbsent) || errors.As(err, new(*AmbiguousError))
}
