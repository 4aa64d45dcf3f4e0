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

// KeyMechanisms implements lookup.KeyHolder. It goes through the users until
// one is found whose hash is of another kind: through all of them when all can
// use SCRAM.
func (db *DB) KeyMechanisms(ctx context.Context) ([]string, error) {
	if err := db.whole(); err != nil {
		return nil, err
	}
	all := ""
	for l := range db.table.Load().all() {
		stored := l.hash()
		if hash.Locked(stored) {
			continue
		}
		keys, ok := hash.ParseSCRAM(stored)
		if !ok || all != "" && keys.Mechanism != all {
			return nil, nil
		}
		all = keys.Mechanism
	}
	switch {
	case ctx.Err() != nil:
		return nil, lookup.Unavailable("ask the user database for keys", ctx.Err())
	case all == "":
		return nil, nil
	}
	return []string{all}, nil
}
