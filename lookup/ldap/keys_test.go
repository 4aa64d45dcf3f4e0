package ldap_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	goldap "github.com/go-ldap/ldap/v3"

	"switchyard/lookup"
	"switchyard/lookup/ldap"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/nwauth/hash"
)

// scramHash is one that hash.Keys reads; the keys are nobody's.
const scramHash = "{SCRAM-SHA-256}4096,c2FsdHNhbHQ=,YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=,YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI="

var _ lookup.KeyHolder = (*ldap.Keyed)(nil)

// TestKeysContract: keys in the hashes of a real server's entries. Which
// mechanisms all accounts can use is a promise, not a walk.
func TestKeysContract(t *testing.T) {
	t.Parallel()
	s := startSlapd(t, "accounts.ldif")
	a := &admin{s: s}
	lookuptest.RunKeys(t, lookuptest.KeyFixture{Promised: true, Open: func(t *testing.T, hashes map[string]string) lookup.KeyHolder {
		for name, stored := range hashes {
			a.set(t, lookuptest.Record{Account: lookup.Account{Name: name}, Stored: name})
			a.setHashes(t, name, stored)
		}
		return keyed(t, s, byHash())
	}})
}

// setHashes gives an entry its hashes; one that is empty is none.
func (a *admin) setHashes(t *testing.T, name string, hashes ...string) {
	t.Helper()
	hashes = slices.DeleteFunc(hashes, func(h string) bool { return h == "" })
	a.do(t, func(c *goldap.Conn) error {
		m := goldap.NewModifyRequest("swName="+goldap.EscapeDN(name)+","+base, nil)
		m.Replace("userPassword", hashes)
		return c.Modify(m)
	})
}

func keyed(t *testing.T, s *slapd, opts ldap.Options) *ldap.Keyed {
	t.Helper()
	k, err := ldap.WithKeys(open(t, s.plain, opts), hash.Keys, []string{"SCRAM-SHA-256"})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestKeysAmongHashes: an entry may have several hashes; one that cannot be read
// is not one that is not there; and a directory that is away has not "no keys".
func TestKeysAmongHashes(t *testing.T) {
	t.Parallel()
	s := startSlapd(t, "accounts.ldif")
	a := &admin{s: s}
	const anna, carla = "anna@example.test", "carla@example.test"
	a.setHashes(t, anna, "{SSHA}x", scramHash, "*")
	k := keyed(t, s, byHash())
	if got, err := k.Keys(t.Context(), anna, "SCRAM-SHA-256"); err != nil || got.Iterations != 4096 || string(got.Salt) != "saltsalt" {
		t.Errorf("among others: got %v, %v", got, err)
	}
	if got, err := k.KeyMechanisms(t.Context()); err != nil || !slices.Equal(got, []string{"SCRAM-SHA-256"}) {
		t.Errorf("mechanisms: got %v, %v", got, err)
	}
	// Without a canary nobody knows whether a hash is hidden.
	blind := byHash()
	blind.Canary = ""
	_, err := keyed(t, s, withReader(blind, serviceDN)).Keys(t.Context(), anna, "SCRAM-SHA-256")
	if !errors.Is(err, lookup.ErrUnavailable) || !strings.Contains(err.Error(), "userPassword is missing or may not be read") {
		t.Errorf("hashes that may not be read: got %v, want unavailable", err)
	}
	s.stop(t)
	for _, name := range []string{anna, carla, "nobody@example.test"} {
		if _, err := k.Keys(t.Context(), name, "SCRAM-SHA-256"); !errors.Is(err, lookup.ErrUnavailable) || errors.Is(err, lookup.ErrNoKeys) {
			t.Errorf("%s while the server is away: got %v, want unavailable", name, err)
		}
	}
	s.mend(t)
}

func withReader(o ldap.Options, dn string) ldap.Options {
	o.BindDN = dn
	return o
}

// TestKeysNeedHashes: a bind shows no hash.
func TestKeysNeedHashes(t *testing.T) {
	d := openAll(t, []string{"ldap://127.0.0.1:1"}, base, options())
	if _, err := ldap.WithKeys(d, hash.Keys, nil); err == nil || !strings.Contains(err.Error(), "by hash, not by bind") {
		t.Errorf("got %v", err)
	}
}
