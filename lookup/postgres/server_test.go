package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/lookuptest"
)

func TestMain(m *testing.M) {
	// The tests wait more than they work.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// quickPasswords are hashes that cost nothing.
func quickPasswords() Passwords {
	hash := func(password string) string {
		sum := sha256.Sum256([]byte(password))
		return "{TEST}" + hex.EncodeToString(sum[:])
	}
	return Passwords{
		Hash: func(password string) (string, error) { return hash(password), nil },
		Verify: func(stored, password string) (bool, error) {
			if !strings.HasPrefix(stored, "{TEST}") {
				return false, errors.New("unknown scheme")
			}
			return stored == hash(password), nil
		},
	}
}

// open opens a database, with few connections: for the server each is a process
// that has to be started.
func open(t testing.TB, dsn string, opts Options) *DB {
	t.Helper()
	if opts.Connections == 0 {
		opts.Connections = 3
	}
	if opts.Timeout == 0 {
		opts.Timeout = patience
	}
	db, err := Open(context.Background(), dsn, quickPasswords(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// load makes a database with the suite's accounts.
func load(t testing.TB, dsn string) {
	t.Helper()
	db, err := Open(context.Background(), dsn, quickPasswords(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, r := range lookuptest.Accounts() {
		setRecord(t, db, r)
	}
}

func setRecord(t testing.TB, db *DB, r lookuptest.Record) {
	t.Helper()
	labels := netwin.Labels(r.Account)
	// Given, so that it is what the suite wants.
	labels[netwin.Generation] = strconv.FormatUint(r.Generation, 10)
	if _, err := db.Set(context.Background(), r.Name, &r.Password, labels); err != nil {
		t.Fatalf("set %s: %v", r.Name, err)
	}
}

// eventually repeats f until it returns true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		<-tick.C
	}
}
