package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/postgres/postgrestest"
)

// testPasswords: hashing is bounded, and unknown names are not told by the
// work they make.
func testPasswords(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	load(t, dsn)
	quick := quickPasswords()
	var verified atomic.Int64
	var running, most atomic.Int64
	hold := make(chan struct{})
	passwords := Passwords{Hash: quick.Hash, Verify: func(hash, password string) (bool, error) {
		verified.Add(1)
		n := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if password == "slow" {
			<-hold
		}
		return quick.Verify(hash, password)
	}}
	db, err := Open(t.Context(), dsn, passwords, Options{Hashers: 2, HashWait: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	// A locked account is verified like others, against somebody else's hash.
	postgrestest.ExecSQL(t, dsn, `UPDATE switchyard.users SET hash = '!' || hash WHERE name = 'berta@example.test'`)
	if _, err := db.Set(t.Context(), "team@example.test", nil, map[string]string{"alias": "anna@example.test"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"anna@example.test", "nobody@example.test", "not a name", "berta@example.test", "team@example.test"} {
		before := verified.Load()
		_, err := db.Check(t.Context(), lookup.Credentials{Name: name, Password: "sesame-2"})
		if !errors.Is(err, lookup.ErrRejected) || verified.Load() != before+1 {
			t.Errorf("check of %s: got %v and %d verifications, want rejected and 1", name, err, verified.Load()-before)
		}
	}
	// What can be nobody's password costs nothing.
	for _, password := range []string{"", "(NULL)", "a\x00b", strings.Repeat("p", 1025)} {
		before := verified.Load()
		_, err := db.Check(t.Context(), lookup.Credentials{Name: "anna@example.test", Password: password})
		if !errors.Is(err, lookup.ErrRejected) || verified.Load() != before {
			t.Errorf("check with a bad password of %d bytes: got %v and %d verifications", len(password), err, verified.Load()-before)
		}
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			db.Check(context.Background(), lookup.Credentials{Name: "anna@example.test", Password: "slow"})
		})
	}
	eventually(t, "both hashers busy", func() bool { return running.Load() == 2 })
	_, err = db.Check(t.Context(), lookup.Credentials{Name: "anna@example.test", Password: "sesame-1"})
	if !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("check while all hashers are busy: got %v, want unavailable", err)
	}
	if _, err := db.Set(t.Context(), "anna@example.test", ptr("x"), nil); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("set while all hashers are busy: got %v, want unavailable", err)
	}
	if _, err := db.Lookup(t.Context(), "anna@example.test"); err != nil {
		t.Errorf("lookup while all hashers are busy: %v", err)
	}
	close(hold)
	wg.Wait()
	if most.Load() > 2 {
		t.Errorf("%d passwords were hashed at once, want 2 at most", most.Load())
	}
}

// testUpgrade: a login replaces a hash that is out of date, and ends nobody's
// sessions; a password that was changed meanwhile stays.
func testUpgrade(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	passwords := quickPasswords()
	verify := passwords.Verify
	passwords.Verify = func(stored, password string) (bool, error) {
		if old, found := strings.CutPrefix(stored, "{OLD}"); found {
			return old == password, nil
		}
		return verify(stored, password)
	}
	passwords.Outdated = func(stored string) bool { return strings.HasPrefix(stored, "{OLD}") }
	db, err := Open(t.Context(), dsn, passwords, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f := follow(t, db, db)
	defer f.stop()
	postgrestest.ExecSQL(t, dsn, `INSERT INTO switchyard.users (name, hash) VALUES ('a@x.test', '{OLD}p')`)
	f.next(t)
	for _, password := range []string{"wrong", "p"} {
		_, err := db.Check(t.Context(), lookup.Credentials{Name: "a@x.test", Password: password})
		if (err == nil) != (password == "p") {
			t.Fatalf("check with %s: %v", password, err)
		}
	}
	if got := f.next(t); got != (lookup.Change{Name: "a@x.test"}) {
		t.Errorf("an upgrade is told of as %+v", got)
	}
	want, _ := passwords.Hash("p")
	r, err := db.find(t.Context(), "look", "a@x.test")
	if err != nil || r.Hash != want {
		t.Errorf("after the login the hash is %q, %v, want %q", r.Hash, err, want)
	}
	if err := db.rehash(upgrade{"a@x.test", "{OLD}p", "p"}); err != nil {
		t.Error(err)
	}
	if _, err := db.Set(t.Context(), "a@x.test", ptr("q"), nil); err != nil {
		t.Fatal(err)
	}
	if got := f.next(t); got != (lookup.Change{Name: "a@x.test", Sessions: true}) {
		t.Errorf("a new password is told of as %+v", got)
	}
	if err := db.rehash(upgrade{"a@x.test", "{OLD}p", "p"}); err != nil {
		t.Error(err)
	}
	if _, err := db.Check(t.Context(), lookup.Credentials{Name: "a@x.test", Password: "q"}); err != nil {
		t.Errorf("the new password: %v", err)
	}
}

// TestDecoys: without any account, a hash is made once; with accounts, a name
// always gets the same one.
func TestDecoys(t *testing.T) {
	d := newDecoys()
	made := 0
	hash := func(string) (string, error) { made++; return "own", nil }
	for range 3 {
		if got, err := d.forName("nobody@x.test", hash); got != "own" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if made != 1 {
		t.Errorf("%d hashes were made, want 1", made)
	}
	d.offer("")
	d.offer("!locked")
	for i := range 1000 {
		d.offer(fmt.Sprint("hash", i))
	}
	first, _ := d.forName("nobody@x.test", hash)
	second, _ := d.forName("nobody@x.test", hash)
	if first != second || !strings.HasPrefix(first, "hash") {
		t.Errorf("got %q, then %q", first, second)
	}
	if len(d.sample) != decoyCount {
		t.Errorf("the sample has %d hashes, want %d", len(d.sample), decoyCount)
	}
}

// TestNoSecretInErrors: a connection string that cannot be read or used is not
// shown with its password.
func TestNoSecretInErrors(t *testing.T) {
	for _, dsn := range []string{
		"postgres://u:sesame@127.0.0.1:1/d?connect_timeout=1",
		"postgres://u:sesame@127.0.0.1:notaport/d",
		"postgres://u:sesame@127.0.0.1/d?sslmode=nonsense",
		"host=127.0.0.1 port=1 user=u password=sesame sslmode",
	} {
		for _, opts := range []Options{{}, {Password: "sesame"}} {
			db, err := Open(t.Context(), dsn, quickPasswords(), opts)
			if err == nil { // it can be read, and nobody is there
				err = db.Ready(t.Context())
				db.Close()
			}
			if err == nil || strings.Contains(err.Error(), "sesame") {
				t.Errorf("open %q: got %v", dsn, err)
			}
		}
	}
	r := Record{Name: "anna@x.test", Hash: "sesame"}
	if s := fmt.Sprintf("%v %+v %#v %s", r, r, r, r); strings.Contains(s, "sesame") {
		t.Errorf("a record prints as %q", s)
	}
}
