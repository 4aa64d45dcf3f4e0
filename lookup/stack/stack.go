// Package stack makes several directories one: by domain, in order, and with
// one behind another while accounts move over.
//
//	d, err := stack.New(
//		stack.Member{Name: "ldap", Directory: a, Domains: []string{"example.com"}},
//		stack.Member{Name: "new", Directory: b, Next: true},
//		stack.Member{Name: "old", Directory: c},
//	)
//
// A name is asked of the first member that serves its domain: one that lists
// the domain before one that lists none. What that member says is the answer,
// with one exception: absent, from a member with Next, sends the name on to the
// next member that serves it.
//
// Unavailable is never sent on. A directory that cannot say whether it has an
// account leaves that open, and the next one's "absent" would close it.
package stack

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"switchyard/lookup"
)

// Member is one directory of a stack.
type Member struct {
	Name      string // for errors
	Directory lookup.Directory

	// Domains are those whose names are asked of this member, and of none of
	// the members that list no domains. Nil means every domain that no member
	// lists.
	Domains []string

	// Next says that this member's absent is not the last word: the next
	// member that serves the domain is asked. A login costs such a member one
	// question more, since it has to say first whether it has the account.
	Next bool
}

// Directory is a stack. It is safe for concurrent use.
type Directory struct {
	members []Member
	domains map[string][]int // who serves a domain that somebody lists
	others  []int            // who serves the rest
}

// New returns a stack of the members in their order. Closing them is the
// caller's.
func New(members ...Member) (*Directory, error) {
	d := &Directory{members: members, domains: make(map[string][]int)}
	for i, m := range members {
		if m.Directory == nil {
			return nil, fmt.Errorf("member %d, %q, has no directory", i+1, m.Name)
		}
		if m.Domains == nil {
			d.others = append(d.others, i)
		}
		for _, domain := range m.Domains {
			domain = strings.ToLower(domain)
			route := d.domains[domain]
			if domain == "" || strings.Contains(domain, "@") {
				return nil, fmt.Errorf("member %q: %q is no domain", m.Name, domain)
			}
			if len(route) > 0 && route[len(route)-1] == i {
				return nil, fmt.Errorf("member %q lists %s twice", m.Name, domain)
			}
			d.domains[domain] = append(route, i)
		}
	}
	if len(members) == 0 {
		return nil, errors.New("a stack without a member")
	}
	routes := map[string][]int{"other domains": d.others}
	for domain, route := range d.domains {
		routes[domain] = route
	}
	for domain, route := range routes {
		for at, i := range route {
			last := at == len(route)-1
			switch m := members[i]; {
			case last && m.Next:
				return nil, fmt.Errorf("member %q sends names of %s on, and there is no other", m.Name, domain)
			case !last && !m.Next:
				return nil, fmt.Errorf("member %q is never asked about %s: %q does not send names on", members[route[at+1]].Name, domain, m.Name)
			}
		}
	}
	return d, nil
}

// route is who serves a name, in order; nil when nobody does.
func (d *Directory) route(name string) []int {
	if route, ok := d.domains[lookup.Domain(name)]; ok {
		return route
	}
	return d.others
}

// Lookup implements lookup.Directory. A name that no member serves is absent.
func (d *Directory) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	for _, i := range d.route(name) {
		m := &d.members[i]
		account, err := m.Directory.Lookup(ctx, name)
		switch lookup.AnswerOf(err) {
		case lookup.AnswerFound:
			return account, nil
		case lookup.AnswerAbsent:
			if !m.Next {
				return lookup.Account{}, err
			}
		default:
			return lookup.Account{}, m.unavailable(err)
		}
	}
	return lookup.Account{}, lookup.ErrAbsent
}

// Check implements lookup.Directory. The password is asked of the member that
// has the account, and of no other.
func (d *Directory) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	if c.Password == "" {
		return lookup.Account{}, lookup.ErrRejected
	}
	for _, i := range d.route(c.Name) {
		m := &d.members[i]
		if m.Next {
			_, err := m.Directory.Lookup(ctx, c.Name)
			switch lookup.AnswerOf(err) {
			case lookup.AnswerFound:
			case lookup.AnswerAbsent:
				continue
			default:
				return lookup.Account{}, m.unavailable(err)
			}
		}
		account, err := m.Directory.Check(ctx, c)
		switch lookup.AnswerOf(err) {
		case lookup.AnswerFound:
			return account, nil
		case lookup.AnswerRejected, lookup.AnswerAbsent:
			return lookup.Account{}, lookup.ErrRejected
		default:
			return lookup.Account{}, m.unavailable(err)
		}
	}
	return lookup.Account{}, lookup.ErrRejected
}

func (m *Member) unavailable(err error) error {
	return lookup.Unavailable("ask "+m.Name, err)
}

// Watch implements lookup.Watcher: it tells of the changes of all members that
// can, one at a time. Those of the others are not told of; ErrNoFeed is the
// answer when none can.
func (d *Directory) Watch(ctx context.Context, changed func(lookup.Change)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	ended := make(chan error, len(d.members))
	watched := 0
	for i := range d.members {
		m := &d.members[i]
		w, ok := m.Directory.(lookup.Watcher)
		if !ok {
			continue
		}
		watched++
		go func() {
			err := w.Watch(ctx, func(c lookup.Change) {
				mu.Lock()
				defer mu.Unlock()
				changed(c)
			})
			if err != nil {
				err = fmt.Errorf("watch %s: %w", m.Name, err)
			}
			ended <- err
		}()
	}
	without := 0
	var broken error
	for range watched {
		switch err := <-ended; {
		case errors.Is(err, lookup.ErrNoFeed):
			without++
		case ctx.Err() == nil:
			// No feed ends by itself. The others are ended with it, so that
			// whoever watches begins anew.
			broken = err
			if broken == nil {
				broken = errors.New("a feed of changes ended")
			}
			cancel()
		}
	}
	if broken == nil && without == watched {
		return fmt.Errorf("%w in any of %d directories", lookup.ErrNoFeed, len(d.members))
	}
	return broken
}
