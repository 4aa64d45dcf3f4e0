package nwauth

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/nwauth/hash"
)

// TestKeys: the database hands out the SCRAM keys of its accounts, and names a
// mechanism only while every account can use it.
func TestKeys(t *testing.T) {
	db, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var _ lookup.KeyHolder = db
	stored, err := hash.NewSCRAM("sesame", 0)
	if err != nil {
		t.Fatal(err)
	}
	name, st, err := Record{Name: "anna@example.test", Hash: stored}.state()
	if err != nil {
		t.Fatal(err)
	}
	db.table.Load().put(name, st)
	want, _ := hash.ParseSCRAM(stored)
	keys, err := db.Keys(t.Context(), name, "SCRAM-SHA-256")
	if err != nil || keys.Iterations != want.Iterations || !slices.Equal(keys.Salt, want.Salt) ||
		!slices.Equal(keys.StoredKey, want.StoredKey) || !slices.Equal(keys.ServerKey, want.ServerKey) {
		t.Errorf("got %v, %v, want %v", keys, err, want)
	}
	if got, err := db.KeyMechanisms(t.Context()); err != nil || !slices.Equal(got, []string{"SCRAM-SHA-256"}) {
		t.Errorf("mechanisms: got %v, %v", got, err)
	}
	if _, err := db.Keys(t.Context(), name, "SCRAM-SHA-1"); !errors.Is(err, lookup.ErrNoKeys) {
		t.Errorf("another mechanism: got %v", err)
	}
	if _, err := db.Keys(t.Context(), "nobody@example.test", "SCRAM-SHA-256"); !errors.Is(err, lookup.ErrAbsent) {
		t.Errorf("nobody: got %v", err)
	}
	other, st, err := Record{Name: "bert@example.test", Hash: "{SHA}Lve95gjOVATpfV8EL5X4nxwjKHE="}.state()
	if err != nil {
		t.Fatal(err)
	}
	db.table.Load().put(other, st)
	if got, err := db.KeyMechanisms(t.Context()); err != nil || got != nil {
		t.Errorf("mechanisms beside another hash: got %v, %v", got, err)
	}
}

// TestKeysContract holds the database against what all key holders promise.
func TestKeysContract(t *testing.T) {
	lookuptest.RunKeys(t, lookuptest.KeyFixture{Open: func(t *testing.T, hashes map[string]string) lookup.KeyHolder {
		db, err := Open(t.TempDir(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		for name, hash := range hashes {
			_, st, err := Record{Name: name, Hash: hash}.state()
			if err != nil {
				t.Fatal(err)
			}
			db.table.Load().put(name, st)
		}
		return db
	}})
}

// TestKindsAreCounted: whatever is put, in whatever order, also into a copy, the
// counts are those of the accounts that are there.
func TestKindsAreCounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SampledFrom([]string{"anna@x", "bob@x", "carl@x", "dora@x"})
		rests := rapid.SampledFrom([]string{
			"", "*:", "!{SSHA}x:", ":a=\"b\"", "{SSHA}x:", "$2b$x:tohost=\"b1\"", "{SCRAM-SHA-256}1,2,3,4:", "{scram-sha-256}x:", "{SCRAM-SHA-1}x:a=\"{SSHA}\"",
		})
		first := newTable(0)
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			first.put(names.Draw(t, "name"), state{rest: rests.Draw(t, "rest"), generation: 7})
		}
		copied := newTable(0)
		first.copyTo(copied)
		for what, tab := range map[string]*table{"table": first, "copy": copied} {
			var want [kindCount]int64
			for l := range tab.all() {
				want[kindOf(state{rest: l.rest})]++
			}
			for kind := kindOther; kind < kindCount; kind++ {
				if got := tab.kinds[kind].Load(); got != want[kind] {
					t.Fatalf("%s: %d accounts of kind %d are counted, and %d are there", what, got, kind, want[kind])
				}
			}
		}
	})
}
