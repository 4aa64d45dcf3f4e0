package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
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
	if db.passwords.Outdated == nil || !db.passwords.Outdated(r.Hash) {
		return
	}
	select {
	case db.upgrades <- upgrade{r.Name, r.Hash, password}:
	default:
	}
}

// upgradeLoop makes new hashes, one at a time.
func (db *DB) upgradeLoop() {
	for {
		select {
		case <-db.closing:
			return
		case u := <-db.upgrades:
			if err := db.rehash(u); err != nil {
				db.opts.Logger.Warn("password hash stays out of date", zap.String("user", u.name), zap.Error(err))
			}
		}
	}
}

// rehash replaces a hash, unless it is not there any more. It ends nobody's
// sessions.
func (db *DB) rehash(u upgrade) error {
	ctx, cancel := context.WithTimeout(context.Background(), upgradeTime)
	defer cancel()
	hash, err := db.hash(ctx, u.password)
	if err != nil {
		return err
	}
	return db.write(ctx, "upgrade a password hash", 1, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('switchyard.quiet', 'on', true)`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE switchyard.users SET hash = $3, updated = now()
			WHERE name = $1 AND hash = $2 AND live`, u.name, u.stored, hash)
		return err
	})
}
