package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
)

// Set adds a user or changes one. A nil password leaves the password as it is,
// which is none for a new alias: nobody can log in to it.
// The labels are merged into those that are there; one with an empty value is
// removed. It returns whether the user is new, once the change is durable.
//
// Errors: lookup.ErrAbsent for a nil password of a user who does not exist,
// RefusedError for what a record cannot hold or a generation that would go
// down, lookup.ErrUnavailable; then the change may have been made, and can be
// repeated.
func (db *DB) Set(ctx context.Context, name string, password *string, labels map[string]string) (added bool, err error) {
	if err := netwin.CheckName(name); err != nil {
		return false, err
	}
	if err := checkLabels(labels); err != nil {
		return false, err
	}
	var hash *string
	if password != nil {
		made, err := db.hash(ctx, *password)
		if err != nil {
			return false, err
		}
		hash = &made
	}
	err = db.write(ctx, "change the user database", 1, func(ctx context.Context, tx pgx.Tx) error {
		old, known, err := lock(ctx, tx, name)
		if err != nil {
			return err
		}
		next, err := old.set(name, hash, labels)
		if err != nil {
			return err
		}
		added = !old.live
		return put(ctx, tx, next, known)
	})
	return added && err == nil, err
}

func (db *DB) hash(ctx context.Context, password string) (hash string, err error) {
	if err := checkPassword(password); err != nil {
		return "", err
	}
	if busy := db.hashers.Do(ctx, func() { hash, err = db.passwords.Hash(password) }); busy != nil {
		return "", busy
	}
	return hash, err
}

// Delete removes a user and everything in the record, but remembers the
// generation. Errors: lookup.ErrAbsent, lookup.ErrUnavailable.
func (db *DB) Delete(ctx context.Context, name string) error {
	if netwin.CheckName(name) != nil {
		return lookup.ErrAbsent
	}
	return db.write(ctx, "change the user database", 1, func(ctx context.Context, tx pgx.Tx) error {
		old, _, err := lock(ctx, tx, name)
		switch {
		case err != nil:
			return err
		case !old.live:
			return lookup.ErrAbsent
		case old.generation == 0:
			_, err = tx.Exec(ctx, `DELETE FROM switchyard.users WHERE name = $1`, name)
		default:
			_, err = tx.Exec(ctx, `UPDATE switchyard.users
				SET live = false, hash = '', labels = '{}', generation = $2::text::numeric, updated = now()
				WHERE name = $1`, name, text(old.generation))
		}
		return err
	})
}

// lock reads what is known about a name, and keeps others from changing it
// until the transaction ends. known says that there is a row; if there is
// none, put finds out whether somebody else was quicker.
func lock(ctx context.Context, tx pgx.Tx, name string) (old state, known bool, err error) {
	err = tx.QueryRow(ctx, selectState+` WHERE name = $1 FOR UPDATE`, name).Scan(old.fields()...)
	if errors.Is(err, pgx.ErrNoRows) {
		return state{}, false, nil
	}
	if err == nil {
		err = old.settle()
	}
	return old, true, err
}

// selectState reads states into their fields.
const selectState = `SELECT name, hash, labels, live, generation::text FROM switchyard.users`

func (s *state) fields() []any {
	return []any{&s.record.Name, &s.record.Hash, &s.record.Labels, &s.live, (*numeral)(&s.generation)}
}

// settle makes a state that was read whole. A label that was written with
// plain SQL raises the generation too.
func (s *state) settle() error {
	if !s.live {
		return nil
	}
	next, err := becomes(s.record)
	if err != nil {
		// A change may not make silently good what is broken.
		return fmt.Errorf("the record of %s: %v", s.record.Name, err)
	}
	s.generation = max(s.generation, next.generation)
	return nil
}

// numeral is an unsigned number as PostgreSQL's numeric: its bigint ends at
// half of ours.
type numeral uint64

// Scan reads the text of a number.
func (n *numeral) Scan(src any) error {
	s, ok := src.(string)
	if !ok {
		return fmt.Errorf("a generation is %T", src)
	}
	value, err := strconv.ParseUint(s, 10, 64)
	*n = numeral(value)
	return err
}

func text(generation uint64) string { return strconv.FormatUint(generation, 10) }

// put writes a state. It is the transaction's last statement, since its
// trigger locks the feed.
func put(ctx context.Context, tx pgx.Tx, s state, known bool) error {
	r := s.record
	if known {
		_, err := tx.Exec(ctx, `UPDATE switchyard.users
			SET hash = $2, labels = $3, live = true, generation = $4::text::numeric, updated = now()
			WHERE name = $1`, r.Name, r.Hash, r.Labels, text(s.generation))
		return err
	}
	done, err := tx.Exec(ctx, `INSERT INTO switchyard.users (name, hash, labels, generation)
		VALUES ($1, $2, $3, $4::text::numeric) ON CONFLICT DO NOTHING`, r.Name, r.Hash, r.Labels, text(s.generation))
	if err == nil && done.RowsAffected() == 0 {
		err = errStale
	}
	return err
}
