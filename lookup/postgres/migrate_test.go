package postgres

import (
	"context"
	"strings"
	"testing"

	"switchyard/lookup/postgres/postgrestest"
)

// testMigrate: several daemons begin with an empty database at the same time;
// each step is made once. A newer schema is refused.
func testMigrate(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	errs := make(chan error, 6)
	for range cap(errs) {
		go func() {
			db, err := Open(context.Background(), dsn, quickPasswords(), Options{Connections: 2})
			if err == nil {
				err = db.Ready(context.Background())
				db.Close()
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	db := open(t, dsn, Options{})
	steps, err := steps()
	if err != nil {
		t.Fatal(err)
	}
	names, err := collect[string](t.Context(), db, `SELECT name FROM switchyard.migrations ORDER BY version`)
	if err != nil || len(names) != len(steps) {
		t.Errorf("migrations made: %q, %v, want %d", names, err, len(steps))
	}
	postgrestest.ExecSQL(t, dsn, `INSERT INTO switchyard.migrations (version, name) VALUES (99, 'of the future')`)
	if _, err := Open(t.Context(), dsn, quickPasswords(), Options{}); err == nil || !strings.Contains(err.Error(), "newer release") {
		t.Errorf("open with a newer schema: got %v", err)
	}
	c.Exec(t, "postgres", `CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`)
	if _, err := Open(t.Context(), c.DSN("latin"), quickPasswords(), Options{}); err == nil || !strings.Contains(err.Error(), "must be UTF8") {
		t.Errorf("open of a database that is not UTF-8: got %v", err)
	}
	// What the promise rests on is switched on.
	postgrestest.ExecSQL(t, dsn, `DELETE FROM switchyard.migrations WHERE version = 99;
		ALTER DATABASE `+dsn[strings.LastIndex(dsn, "=")+1:]+` SET synchronous_commit = off`)
	got, err := collect[string](t.Context(), open(t, dsn, Options{}), `SELECT current_setting('synchronous_commit')`)
	if err != nil || len(got) != 1 || got[0] != "on" {
		t.Errorf("synchronous_commit is %q, %v, want on", got, err)
	}
}
