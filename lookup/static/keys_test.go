package static_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/nwauth/hash"
	"switchyard/lookup/static"
)

// readKeys is a Reader of hashes like "scram:SCRAM-SHA-256".
func readKeys(hash string) (lookup.Keys, bool) {
	mechanism, ok := strings.CutPrefix(hash, "scram:")
	return lookup.Keys{Mechanism: mechanism, Iterations: 4096}, ok
}

func keyed(t *testing.T, hashes map[string]string) *static.Keyed {
	t.Helper()
	var records []static.Record
	for name, hash := range hashes {
		records = append(records, static.Record{Account: lookup.Account{Name: name}, Hash: hash})
	}
	d, err := static.New(func(hash, password string) bool { return hash == password }, static.Options{Records: records})
	if err != nil {
		t.Fatal(err)
	}
	return static.WithKeys(d, readKeys)
}

// TestKeys: an account's keys are found, and what has none is told apart from
// what is not there.
func TestKeys(t *testing.T) {
	d := keyed(t, map[string]string{"a@x": "scram:SCRAM-SHA-256", "b@x": "plain", "c@x": "", "d@x": "!scram:SCRAM-SHA-256"})
	var _ lookup.KeyHolder = d
	for name, want := range map[string]error{
		"a@x": nil, "b@x": lookup.ErrNoKeys, "c@x": lookup.ErrAbsent, "d@x": lookup.ErrAbsent, "nobody@x": lookup.ErrAbsent,
	} {
		if _, err := d.Keys(t.Context(), name, "SCRAM-SHA-256"); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
	if _, err := d.Keys(t.Context(), "a@x", "SCRAM-SHA-1"); !errors.Is(err, lookup.ErrNoKeys) {
		t.Errorf("another mechanism: got %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Keys(ended, "nobody@x", "SCRAM-SHA-256"); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("behind the end: got %v", err)
	}
}

// TestKeyMechanisms: a mechanism is named when every account that can log in has
// its keys, and not when one has none.
func TestKeyMechanisms(t *testing.T) {
	for want, hashes := range map[string]map[string]string{
		"SCRAM-SHA-256": {"a@x": "scram:SCRAM-SHA-256", "b@x": "scram:SCRAM-SHA-256", "locked@x": "*", "none@x": ""},
		"":              {"a@x": "scram:SCRAM-SHA-256", "b@x": "plain"},
		"SCRAM-SHA-1":   {"a@x": "scram:SCRAM-SHA-1"},
	} {
		got, err := keyed(t, hashes).KeyMechanisms(t.Context())
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("got %v, %v, want %q", got, err, want)
		}
	}
	for _, hashes := range []map[string]string{{}, {"a@x": "scram:SCRAM-SHA-1", "b@x": "scram:SCRAM-SHA-256"}} {
		if got, err := keyed(t, hashes).KeyMechanisms(t.Context()); err != nil || got != nil {
			t.Errorf("got %v, %v, want none", got, err)
		}
	}
}

// TestKeysContract holds the directory against what all key holders promise.
func TestKeysContract(t *testing.T) {
	lookuptest.RunKeys(t, lookuptest.KeyFixture{Open: func(t *testing.T, hashes map[string]string) lookup.KeyHolder {
		var records []static.Record
		for name, hash := range hashes {
			records = append(records, static.Record{Account: lookup.Account{Name: name}, Hash: hash})
		}
		d, err := static.New(func(string, string) bool { return false }, static.Options{Records: records})
		if err != nil {
			t.Fatal(err)
		}
		return static.WithKeys(d, hash.Keys)
	}})
}
