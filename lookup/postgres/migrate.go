package postgres

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// migrations holds the steps from nothing to the schema that this release
// needs, NNNN-what.sql in their order. A step that was released never changes.
// Since daemons of the release before go on while it is made, a step must
// leave what they use.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrationLock is the advisory lock that one process at a time migrates
// under: "swyd" in ASCII.
const migrationLock = 0x73777964

type migration struct {
	version int
	name    string
	sql     string
}

// steps returns the migrations in order; their versions are 1, 2, ….
func steps() ([]migration, error) {
	files, err := fs.Glob(migrations, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var steps []migration
	for i, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "migrations/"), ".sql")
		digits, _, _ := strings.Cut(name, "-")
		version, err := strconv.Atoi(digits)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s is not number %d", name, i+1)
		}
		sql, err := fs.ReadFile(migrations, file)
		if err != nil {
			return nil, err
		}
		steps = append(steps, migration{version, name, string(sql)})
	}
	return steps, nil
}

// migrate brings the schema up to date. A role that may not create anything
// can use a schema that is.
func (db *DB) migrate(ctx context.Context) error {
	steps, err := steps()
	if err != nil {
		return err
	}
	var version int
	err = db.read(ctx, "read the version of the schema", func(ctx context.Context) error {
		version, err = schemaVersion(ctx, db.pool)
		return err
	})
	switch {
	case err != nil:
		return err
	case version > len(steps):
		return &RefusedError{Reason: fmt.Sprintf("the schema has version %d, made by a newer release; this one knows %d", version, len(steps))}
	case version == len(steps):
		return nil
	}
	return db.write(ctx, "bring the schema up to date", long, func(ctx context.Context, tx pgx.Tx) error {
		return db.applySteps(ctx, tx, steps)
	})
}

func (db *DB) applySteps(ctx context.Context, tx pgx.Tx, steps []migration) error {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
		return err
	}
	var encoding string
	if err := tx.QueryRow(ctx, `SELECT current_setting('server_encoding')`).Scan(&encoding); err != nil {
		return err
	}
	if encoding != "UTF8" {
		return &RefusedError{Reason: fmt.Sprintf("the database's encoding is %s; it must be UTF8", encoding)}
	}
	// Somebody else may have been quicker.
	version, err := schemaVersion(ctx, tx)
	if err != nil {
		return err
	}
	if version == 0 {
		_, err := tx.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS switchyard;
			CREATE TABLE switchyard.migrations (
				version integer PRIMARY KEY,
				name    text NOT NULL,
				at      timestamptz NOT NULL DEFAULT now()
			)`)
		if err != nil {
			return err
		}
	}
	for _, step := range steps[min(version, len(steps)):] {
		if _, err := tx.Exec(ctx, step.sql); err != nil {
			return fmt.Errorf("migration %s: %w", step.name, err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO switchyard.migrations (version, name) VALUES ($1, $2)`, step.version, step.name); err != nil {
			return err
		}
		db.opts.Logger.Info("schema migrated", zap.String("step", step.name))
	}
	return nil
}

// schemaVersion returns the newest step that was made, 0 for none.
func schemaVersion(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (int, error) {
	// to_regclass would remember what it saw before the lock was there.
	var exists bool
	err := q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'switchyard' AND c.relname = 'migrations')`).Scan(&exists)
	if err != nil || !exists {
		return 0, err
	}
	var version int
	err = q.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM switchyard.migrations`).Scan(&version)
	return version, err
}
