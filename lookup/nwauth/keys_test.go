package nwauth

import (
	"errors"
	"slices"
	"testing"

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
