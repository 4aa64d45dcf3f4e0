package nwauth

import (
	"context"

	"switchyard/lookup"
	"switchyard/lookup/nwauth/hash"
)

// Keys implements lookup.KeyHolder, for hashes that hold SCRAM keys. It never
// waits.
func (db *DB) Keys(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	if err := ctx.Err(); err != nil {
		return lookup.Keys{}, lookup.Unavailable("ask the user database for keys", err)
	}
	if err := db.whole(); err != nil {
		return lookup.Keys{}, err
	}
	r, found := db.table.Load().get(name)
	if !found || hash.Locked(r.Hash) {
		return lookup.Keys{}, lookup.ErrAbsent
	}
	keys, ok := hash.Keys(r.Hash)
	if !ok || keys.Mechanism != mechanism {
		return lookup.Keys{}, lookup.ErrNoKeys
	}
	return keys, nil
}

// kind is what the owner of a hash can log in with.
type kind int

const (
	kindNone kind = iota // nothing: no account, or one that is locked
	kindOther
	kindSHA1
	kindSHA256
	kindCount
)

func kindOf(st state) kind {
	stored := st.hash()
	if hash.Locked(stored) {
		return kindNone
	}
	switch hash.KeyMechanism(stored) {
	case "SCRAM-SHA-1":
		return kindSHA1
	case "SCRAM-SHA-256":
		return kindSHA256
	}
	return kindOther
}

// KeyMechanisms implements lookup.KeyHolder. The accounts are counted as they
// change: it costs nothing. A hash is for one mechanism, so there is one at most.
func (db *DB) KeyMechanisms(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, lookup.Unavailable("ask the user database for keys", err)
	}
	if err := db.whole(); err != nil {
		return nil, err
	}
	kinds := &db.table.Load().kinds
	old, young := kinds[kindSHA1].Load() > 0, kinds[kindSHA256].Load() > 0
	switch {
	case kinds[kindOther].Load() > 0, old == young:
		return nil, nil
	case old:
		return []string{"SCRAM-SHA-1"}, nil
	}
	return []string{"SCRAM-SHA-256"}, nil
}
