package postgres

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/postgres/postgrestest"
)

var (
	_ lookup.Directory = (*DB)(nil)
	_ lookup.Watcher   = (*DB)(nil)
	_ lookup.KeyHolder = (*DB)(nil)
)

// TestPostgres runs everything against one server, each part in a database of
// its own: side by side first, then those that stop the server.
func TestPostgres(t *testing.T) {
	c := postgrestest.New(t)
	type part struct {
		name string
		run  func(*testing.T, *postgrestest.Server)
		long bool // left out with -short
	}
	run := func(t *testing.T, p part) {
		t.Helper()
		if p.long && testing.Short() {
			t.Skip("long")
		}
		p.run(t, c)
	}
	t.Run("while it runs", func(t *testing.T) {
		for _, p := range []part{
			{"migrate", testMigrate, false},
			{"set and delete", testChanges, false},
			{"broken records", testBrokenRecords, false},
			{"what is believed", testBelieved, false},
			{"cut answers", testCut, true},
			{"search", testSearch, false},
			{"passwords", testPasswords, false},
			{"upgrade", testUpgrade, false},
			{"keys", testKeys, false},
			{"import", testImport, false},
			{"import against changes", testImportRace, true},
			{"two daemons", testTwoDaemons, false},
			{"serializable", testSerializable, true},
			{"feed contract", testFeedContract, false},
			{"feed of many", testFeedOrder, true},
			{"feed live", testFeedLive, false},
			{"feed log", testFeedLog, false},
			{"feed interrupted", testFeedInterrupted, false},
			{"hostile names", testHostile, false},
		} {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				run(t, p)
			})
		}
	})
	for _, p := range []part{
		{"locked rows", testLocked, false}, // its time-out passes
		{"contract", testContract, false},
		{"kill", testKill, false},
		{"away at the start", testAway, false},
	} {
		t.Run(p.name, func(t *testing.T) { run(t, p) })
	}
}

func testHostile(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	load(t, dsn)
	lookuptest.RunHostile(t, func(t *testing.T) lookup.Directory { return open(t, dsn, Options{}) })
}

// testContract runs the directory's contract, with a server that is stopped,
// and one that is frozen with all its processes.
func testContract(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	load(t, dsn)
	mend := func(*testing.T) {}
	lookuptest.Run(t, lookuptest.Fixture{
		Open: func(t *testing.T) lookup.Directory {
			opts := Options{}
			if strings.HasSuffix(t.Name(), "/hanging") {
				opts.Timeout = time.Second
			}
			return open(t, dsn, opts)
		},
		Break: func(t *testing.T) {
			c.Stop()
			mend = func(*testing.T) { c.Start() }
		},
		Hang: func(t *testing.T) {
			c.Signal(syscall.SIGSTOP)
			mend = func(*testing.T) { c.Signal(syscall.SIGCONT) }
		},
		Mend:    func(t *testing.T) { mend(t) },
		Timeout: time.Second,
	})
}

// testFeedContract runs the contract of feeds, with changes made in plain SQL.
func testFeedContract(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	load(t, dsn)
	writer := open(t, dsn, Options{})
	lookuptest.RunFeed(t, lookuptest.FeedFixture{
		Open: func(t *testing.T) lookup.Watcher { return open(t, dsn, Options{}) },
		Set: func(t *testing.T, r lookuptest.Record) {
			t.Helper()
			hash, _ := writer.passwords.Hash(r.Password)
			_, err := writer.pool.Exec(t.Context(), `INSERT INTO switchyard.users (name, hash, labels) VALUES ($1, $2, $3)
				ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, labels = excluded.labels, live = true`,
				r.Name, hash, netwin.Labels(r.Account))
			if err != nil {
				t.Fatal(err)
			}
		},
		Delete: func(t *testing.T, name string) {
			t.Helper()
			if err := writer.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		},
	})
}
