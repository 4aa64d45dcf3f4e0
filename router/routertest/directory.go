package routertest

import (
	"context"
	"sync"

	"switchyard/lookup"
)

// Directory is a router.Directory that holds what it is given, and fails when
// it is told to.
type Directory struct {
	mu        sync.Mutex
	accounts  map[string]lookup.Account
	passwords map[string]string
	fresh     map[string]lookup.Account
	fail      func(verb, name string) error
	asked     []string
}

// NewDirectory makes an empty one.
func NewDirectory() *Directory {
	return &Directory{accounts: make(map[string]lookup.Account), passwords: make(map[string]string), fresh: make(map[string]lookup.Account)}
}

// Add adds an account.
func (d *Directory) Add(a lookup.Account, password string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.accounts[a.Name] = a
	d.passwords[a.Name] = password
}

// Alias gives an account another name.
func (d *Directory) Alias(alias, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.accounts[alias], d.passwords[alias] = d.accounts[name], d.passwords[name]
}

// Move changes what Fresh answers, and what the rest answers behind a Forget:
// the account has moved under a warm cache.
func (d *Directory) Move(name, home string, generation uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.accounts[name]
	a.Home, a.Generation = home, generation
	d.fresh[name] = a
}

// Fail makes every question whose verb (check, lookup, fresh) and name f has an
// error for end with that error.
func (d *Directory) Fail(f func(verb, name string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = f
}

// Asked returns the questions so far, as "verb name".
func (d *Directory) Asked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.asked...)
}

func (d *Directory) ask(verb, name string, from map[string]lookup.Account) (lookup.Account, error) {
	d.asked = append(d.asked, verb+" "+name)
	if d.fail != nil {
		if err := d.fail(verb, name); err != nil {
			return lookup.Account{}, err
		}
	}
	a, ok := from[name]
	if !ok {
		a, ok = d.accounts[name]
	}
	if !ok {
		return lookup.Account{}, lookup.ErrAbsent
	}
	return a, nil
}

// Lookup implements lookup.Directory.
func (d *Directory) Lookup(_ context.Context, name string) (lookup.Account, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ask("lookup", name, nil)
}

// Check implements lookup.Directory.
func (d *Directory) Check(_ context.Context, c lookup.Credentials) (lookup.Account, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, err := d.ask("check", c.Name, nil)
	if err == nil && d.passwords[c.Name] != c.Password || err == lookup.ErrAbsent {
		return lookup.Account{}, lookup.ErrRejected
	}
	return a, err
}

// Fresh implements router.Directory.
func (d *Directory) Fresh(_ context.Context, name string) (lookup.Account, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ask("fresh", name, d.fresh)
}

// Purge implements router.Directory.
func (d *Directory) Purge() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, "purge")
	for name, a := range d.fresh {
		d.accounts[name] = a
	}
}

// Remove deletes an account.
func (d *Directory) Remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.accounts, name)
	delete(d.fresh, name)
	delete(d.passwords, name)
}

// Forget implements router.Directory.
func (d *Directory) Forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, "forget "+name)
	if a, ok := d.fresh[name]; ok {
		d.accounts[name] = a
	}
}
