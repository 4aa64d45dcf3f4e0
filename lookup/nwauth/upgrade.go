package nwauth

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"switchyard/lookup"
	"switchyard/lookup/nwauth/hash"
)

const (
	// upgradeQueue bounds the passwords that wait to be hashed anew. One that
	// finds no room is hashed at a later login.
	upgradeQueue = 64

	// upgradeTime is how long one may take, its turn among logins included.
	upgradeTime = 10 * time.Second
)

// upgrade is a password that was right for a hash that is out of date.
type upgrade struct {
	name, stored, password string
}

// offerUpgrade looks at a login that succeeded. It does not wait.
func (db *DB) offerUpgrade(r Record, password string) {
	if !db.opts.Upgrade || db.opts.Primary != "" || !hash.Outdated(r.Hash, db.opts.Argon2) {
		return
	}
	select {
	case db.upgrade <- upgrade{r.Name, r.Hash, password}:
	default:
	}
}

// upgradeLoop makes new hashes, one at a time.
func (db *DB) upgradeLoop() {
	for {
		select {
		case <-db.closing:
			return
		case u := <-db.upgrade:
			if err := db.rehash(u); err != nil {
				db.opts.Logger.Warn("password hash stays out of date", zap.String("user", u.name), zap.Error(err))
			}
		}
	}
}

var errSuperseded = errors.New("the password was changed meanwhile")

// rehash replaces a hash, unless it is not there any more. The login and the
// sessions of the account stay as they are, and so does its generation.
func (db *DB) rehash(u upgrade) error {
	ctx, cancel := context.WithTimeout(context.Background(), upgradeTime)
	defer cancel()
	if rest, _ := db.table.Load().rest(u.name); (state{rest: rest}).hash() != u.stored {
		return nil // another login was quicker
	}
	stored, err := db.hash(ctx, u.password)
	if err != nil {
		return err
	}
	err = db.submit(ctx, &change{name: u.name, quiet: true, next: func(old state) (state, error) {
		if old.hash() != u.stored {
			return state{}, errSuperseded
		}
		return old.set(u.name, &stored, nil)
	}})
	if errors.Is(err, errSuperseded) || errors.Is(err, lookup.ErrAbsent) || errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}
