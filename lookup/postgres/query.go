package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"switchyard/lookup"
)

// maxAttempts is how often something is done that the database gives up for a
// reason which has nothing to do with it.
const maxAttempts = 5

// maxLost is how often it is done on another connection. One that lay idle
// while the database was restarted is noticed when it is used.
const maxLost = 2

// long is how much longer than other things a search, a piece of an import or
// a migration may take.
const long = 10

// read does what can be done twice. Errors: those of lookup and RefusedError
// as they are, anything else as ErrUnavailable.
func (db *DB) read(ctx context.Context, step string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, db.opts.Timeout+statementGrace)
	defer cancel()
	if err := db.prepare(ctx); err != nil {
		return err
	}
	return db.repeat(ctx, step, do)
}

// readLong is read in one transaction that sees the database at one moment,
// and with more time.
func (db *DB) readLong(ctx context.Context, step string, do func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, long*db.opts.Timeout+statementGrace)
	defer cancel()
	if err := db.prepare(ctx); err != nil {
		return err
	}
	return db.repeat(ctx, step, func(ctx context.Context) error {
		return db.transact(ctx, long, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, do)
	})
}

// write does a change in a transaction, which is repeated when it came to
// nothing for sure. times is how much longer than usual it may take. Errors as
// those of read.
func (db *DB) write(ctx context.Context, step string, times int, do func(context.Context, pgx.Tx) error) error {
	// PostgreSQL's own default may be another one.
	options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(times)*db.opts.Timeout+statementGrace)
	defer cancel()
	if err := db.prepare(ctx); err != nil {
		return err
	}
	return db.repeat(ctx, step, func(ctx context.Context) error { return db.transact(ctx, times, options, do) })
}

// transact runs one transaction.
func (db *DB) transact(ctx context.Context, times int, options pgx.TxOptions, do func(context.Context, pgx.Tx) error) error {
	tx, err := db.pool.BeginTx(ctx, options)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) // nothing to do after Commit
	if times > 1 {
		limit := milliseconds(time.Duration(times) * db.opts.Timeout)
		if _, err := tx.Exec(ctx, `SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $1, true)`, limit); err != nil {
			return err
		}
	}
	if err := do(ctx, tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return commitError{err}
	}
	return nil
}

// commitError is a commit that nobody knows the end of, unless the database
// said so.
type commitError struct{ error }

func (e commitError) Unwrap() error { return e.error }

// repeat runs do until it succeeds, fails for good, or ctx ends.
func (db *DB) repeat(ctx context.Context, step string, do func(context.Context) error) error {
	lost := 0
	for attempt := 1; ; attempt++ {
		err := do(ctx)
		if err == nil || isAnswer(err) {
			return err
		}
		again := attempt < maxAttempts && ctx.Err() == nil
		switch {
		case again && givenUp(err):
		case again && lost < maxLost && isLost(err):
			lost++
			// The others are no better.
			db.pool.Reset()
		default:
			return lookup.Unavailable(step, err)
		}
	}
}

// isAnswer reports whether an error says something about what was asked for,
// and nothing about the database.
func isAnswer(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused) || errors.Is(err, lookup.ErrAbsent)
}

// errStale is what a transaction ends with that finds that another one was
// quicker.
var errStale = errors.New("changed meanwhile")

// givenUp reports whether the database undid everything, and the same may
// succeed the next time.
func givenUp(err error) bool {
	if errors.Is(err, errStale) {
		return true
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "40001", // serialization_failure
		"40P01", // deadlock_detected
		"0A000", // a prepared statement from before a migration
		"26000": // a prepared statement that is not there
		return true
	}
	return false
}

// isLost reports whether a connection broke before anything was decided.
func isLost(err error) bool {
	var commit commitError
	var connect *pgconn.ConnectError
	if errors.As(err, &commit) || errors.As(err, &connect) {
		return false
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "57P01" || pg.Code == "57P02" // shut down, crashed
	}
	var network *net.OpError
	switch {
	case errors.As(err, &network):
		return !network.Timeout()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return true
	}
	return pgconn.SafeToRetry(err)
}

// collect returns a column.
func collect[T any](ctx context.Context, db *DB, sql string, args ...any) ([]T, error) {
	rows, err := db.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[T])
}
