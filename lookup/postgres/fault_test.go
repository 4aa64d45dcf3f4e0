package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/postgres/postgrestest"
)

// testCut ends the connection after each number of bytes: the answer is found
// or unavailable, never absent, never rejected, and never half a record.
func testCut(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	load(t, dsn)
	w := lookuptest.NewWire(t, "unix", filepath.Join(c.Root(), ".s.PGSQL.5432"))
	_, port, err := net.SplitHostPort(w.Addr())
	if err != nil {
		t.Fatal(err)
	}
	name := dsn[strings.LastIndex(dsn, "=")+1:]
	db := open(t, fmt.Sprintf("host=127.0.0.1 port=%s user=test dbname=%s sslmode=disable", port, name), Options{Connections: 1, Timeout: 2 * time.Second})
	anna := lookuptest.Account("anna@example.test")
	cut := 0
	for n := 1; n < 600; n += 61 { // each is a few new connections
		w.Truncate(n)
		a, err := db.Lookup(t.Context(), anna.Name)
		switch lookup.AnswerOf(err) {
		case lookup.AnswerFound:
			if diff := lookuptest.Diff(anna.Account, a); diff != "" {
				t.Errorf("cut after %d bytes (-want +got):\n%s", n, diff)
			}
		case lookup.AnswerUnavailable:
			cut++
		default:
			t.Errorf("cut after %d bytes: lookup: got %v", n, err)
		}
		_, err = db.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: anna.Password})
		if answer := lookup.AnswerOf(err); answer != lookup.AnswerFound && answer != lookup.AnswerUnavailable {
			t.Errorf("cut after %d bytes: check: got %v", n, err)
		}
		w.Mend(t)
		// One connection that was cut is noticed and replaced in passing.
		if _, err := db.Lookup(t.Context(), anna.Name); err != nil {
			t.Errorf("after a cut at %d bytes: %v", n, err)
		}
	}
	if cut == 0 {
		t.Error("no answer was cut")
	}
}

// testLocked: somebody holds a row for too long. Changes of it are
// unavailable; everything else goes on, and no connection is lost.
func testLocked(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	load(t, dsn)
	db := open(t, dsn, Options{Timeout: 300 * time.Millisecond, Connections: 2})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `SELECT FROM switchyard.users WHERE name = 'anna@example.test' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	backends := func() []int {
		// Whoever is there, by process id.
		pids, err := collect[int](t.Context(), db, `SELECT pid FROM pg_stat_activity WHERE application_name = 'switchyard'
			AND datname = current_database() ORDER BY pid`)
		if err != nil {
			t.Fatal(err)
		}
		return pids
	}
	before := backends()
	for range 2 {
		start := time.Now()
		if _, err := db.Set(ctx, "anna@example.test", nil, map[string]string{"a": "b"}); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("set of a locked row: got %v, want unavailable", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("set of a locked row took %v", took)
		}
		if err := db.Delete(ctx, "anna@example.test"); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("delete of a locked row: got %v, want unavailable", err)
		}
		if _, err := db.Lookup(ctx, "anna@example.test"); err != nil {
			t.Errorf("lookup of a locked row: %v", err)
		}
		if _, err := db.Set(ctx, "berta@example.test", nil, map[string]string{"a": "b"}); err != nil {
			t.Errorf("set of another row: %v", err)
		}
	}
	if after := backends(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("connections before %v, after %v", before, after)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Set(ctx, "anna@example.test", nil, map[string]string{"a": "b"}); err != nil {
		t.Errorf("set once the lock is gone: %v", err)
	}
}

// testAway opens the database while the server is down: that is no error, and
// nothing has to be done once it is up.
func testAway(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	c.Kill()
	db, err := Open(t.Context(), dsn, quickPasswords(), Options{Timeout: time.Second})
	if err != nil {
		c.Start()
		t.Fatal(err)
	}
	defer db.Close()
	_, lookupErr := db.Lookup(t.Context(), "anna@example.test")
	_, setErr := db.Set(t.Context(), "anna@example.test", ptr("p"), nil)
	readyErr := db.Ready(t.Context())
	c.Start()
	for what, err := range map[string]error{"lookup": lookupErr, "set": setErr, "ready": readyErr} {
		if !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("%s while the server is down: got %v", what, err)
		}
	}
	eventually(t, "an answer once the server is up", func() bool {
		_, err := db.Lookup(t.Context(), "anna@example.test")
		return errors.Is(err, lookup.ErrAbsent)
	})
	if _, err := db.Set(t.Context(), "anna@example.test", ptr("p"), nil); err != nil {
		t.Error(err)
	}
	if err := db.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}
