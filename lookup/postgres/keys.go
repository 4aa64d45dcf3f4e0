package postgres

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"switchyard/lookup"
)

// Keys implements lookup.KeyHolder, for hashes that hold SCRAM keys.
func (db *DB) Keys(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	r, err := db.find(ctx, "ask the user database for keys", name)
	switch {
	case err != nil:
		return lookup.Keys{}, err
	case locked(r.Hash):
		return lookup.Keys{}, lookup.ErrAbsent
	case db.passwords.Keys == nil:
		return lookup.Keys{}, lookup.ErrNoKeys
	}
	keys, ok := db.passwords.Keys(r.Hash)
	if !ok || keys.Mechanism != mechanism {
		return lookup.Keys{}, lookup.ErrNoKeys
	}
	return keys, nil
}

// KeyMechanisms implements lookup.KeyHolder. It looks at the scheme of every
// hash until it finds a second one: at all of them when all can use SCRAM. What
// is behind the scheme it does not read; a hash that is broken there lets nobody
// in by any mechanism.
func (db *DB) KeyMechanisms(ctx context.Context) ([]string, error) {
	if db.passwords.Keys == nil {
		return nil, nil
	}
	const usable = `live AND hash <> '' AND left(hash, 1) NOT IN ('*', '!')`
	var all []string
	err := db.readLong(ctx, "ask the user database for keys", func(ctx context.Context, tx pgx.Tx) error {
		all = nil
		var hash string
		err := tx.QueryRow(ctx, `SELECT hash FROM switchyard.users WHERE `+usable+` LIMIT 1`).Scan(&hash)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		keys, ok := db.passwords.Keys(hash)
		if !ok {
			return nil
		}
		scheme, _, _ := strings.Cut(hash, "}")
		var others bool
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM switchyard.users
			WHERE `+usable+` AND NOT starts_with(upper(hash), upper($1)))`, scheme+"}").Scan(&others)
		if err == nil && !others {
			all = []string{keys.Mechanism}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}
