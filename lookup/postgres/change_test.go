package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/lookup"
	"switchyard/lookup/postgres/postgrestest"
)

func ptr(s string) *string { return &s }

// testChanges: what each change makes of a record.
func testChanges(t *testing.T, c *postgrestest.Server) {
	db := open(t, c.NewDatabase(t), Options{})
	const name = "anna@x.test"
	type labels = map[string]string
	for _, step := range []struct {
		what     string
		delete   bool
		password *string
		labels   labels
		want     labels // after it, without homegen
		homegen  uint64
		added    bool
		fails    string // part of the error
	}{
		{what: "no password, no user", labels: labels{"tohost": "b1"}, fails: "no such account"},
		{what: "delete nobody", delete: true, fails: "no such account"},
		{what: "new without a home", password: ptr("one"), labels: labels{"phone": "1"}, want: labels{"phone": "1"}, added: true},
		{what: "first home", labels: labels{"tohost": "b1"}, want: labels{"phone": "1", "tohost": "b1"}, homegen: 1},
		{what: "the same home", labels: labels{"tohost": "b1", "x": "y"}, want: labels{"phone": "1", "tohost": "b1", "x": "y"}, homegen: 1},
		{what: "removed", labels: labels{"x": "", "nothing": ""}, want: labels{"phone": "1", "tohost": "b1"}, homegen: 1},
		{what: "moved", labels: labels{"tohost": "b2"}, want: labels{"phone": "1", "tohost": "b2"}, homegen: 2},
		{what: "given", labels: labels{"tohost": "b3", "homegen": "7"}, want: labels{"phone": "1", "tohost": "b3"}, homegen: 7},
		{what: "too low", labels: labels{"homegen": "6"}, fails: "too low"},
		{what: "too low for a move", labels: labels{"tohost": "b4", "homegen": "7"}, fails: "at least 8"},
		{what: "generation removed", labels: labels{"homegen": ""}, fails: "too low"},
		{what: "no home any more", labels: labels{"tohost": ""}, want: labels{"phone": "1"}, homegen: 8},
		{what: "no number", labels: labels{"homegen": "x"}, fails: "not a whole number"},
		{what: "no quota", labels: labels{"quota": "much"}, fails: "not a number of bytes"},
		{what: "quote", labels: labels{"a": `"`}, fails: "quote"},
		{what: "not UTF-8", labels: labels{"a": "\xff"}, fails: "UTF-8"},
		{what: "the word for no password", password: ptr("(NULL)"), fails: "never a password"},
		{what: "empty password", password: ptr(""), fails: "empty"},
		{what: "deleted", delete: true},
		{what: "deleted again", delete: true, fails: "no such account"},
		{what: "no password, deleted user", labels: labels{"tohost": "b1"}, fails: "no such account"},
		{what: "anew, too low", password: ptr("two"), labels: labels{"homegen": "8"}, fails: "at least 9"},
		{what: "anew", password: ptr("two"), labels: labels{"tohost": "b1"}, want: labels{"tohost": "b1"}, homegen: 9, added: true},
		{what: "the last one", labels: labels{"homegen": strconv.FormatUint(math.MaxUint64, 10)}, want: labels{"tohost": "b1"}, homegen: math.MaxUint64},
		{what: "past the last one", labels: labels{"tohost": "b2"}, fails: "there is no homegen above"},
	} {
		var added bool
		var err error
		if step.delete {
			err = db.Delete(t.Context(), name)
		} else {
			added, err = db.Set(t.Context(), name, step.password, step.labels)
		}
		if step.fails != "" {
			if err == nil || !strings.Contains(err.Error(), step.fails) || errors.Is(err, lookup.ErrUnavailable) {
				t.Errorf("%s: got %v, want %q", step.what, err, step.fails)
			}
			continue
		}
		if err != nil || added != step.added {
			t.Fatalf("%s: got %v, %v, want %v", step.what, added, err, step.added)
		}
		account, err := db.Lookup(t.Context(), name)
		if step.delete {
			if lookup.AnswerOf(err) != lookup.AnswerAbsent {
				t.Errorf("%s: lookup: got %v, want absent", step.what, err)
			}
			continue
		}
		got := account.Attributes
		delete(got, "homegen")
		if diff := cmp.Diff(step.want, got); diff != "" || account.Generation != step.homegen || account.Home != step.want["tohost"] {
			t.Errorf("%s: generation %d, want %d; labels (-want +got):\n%s", step.what, account.Generation, step.homegen, diff)
		}
	}
	for _, name := range []string{"Anna@x.test", "a b@x.test", "a:b@x.test", "", "a\x00@x.test"} {
		var refused *RefusedError
		if _, err := db.Set(t.Context(), name, ptr("p"), nil); !errors.As(err, &refused) {
			t.Errorf("set %q: got %v, want refused", name, err)
		}
		if err := db.Delete(t.Context(), name); !errors.Is(err, lookup.ErrAbsent) {
			t.Errorf("delete %q: got %v, want absent", name, err)
		}
	}
}

// testTwoDaemons: changes to the same accounts through two DBs; none is lost,
// and each move counts.
func testTwoDaemons(t *testing.T, c *postgrestest.Server) {
	const writers, rounds, users = 8, 12, 2
	dsn := c.NewDatabase(t)
	dbs := []*DB{open(t, dsn, Options{}), open(t, dsn, Options{})}
	var mu sync.Mutex
	added := 0
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range rounds {
				name := fmt.Sprintf("user%d@x.test", n%users)
				is, err := dbs[w%2].Set(context.Background(), name, ptr("p"), map[string]string{
					"tohost": fmt.Sprintf("b%d-%d", w, n), fmt.Sprintf("w%d", w): strconv.Itoa(n),
				})
				if err != nil {
					t.Errorf("set: %v", err)
				}
				mu.Lock()
				if is {
					added++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if added != users {
		t.Errorf("%d sets added a user, want %d", added, users)
	}
	for u := range users {
		a, err := dbs[0].Lookup(t.Context(), fmt.Sprintf("user%d@x.test", u))
		if err != nil {
			t.Fatal(err)
		}
		if want := uint64(writers * rounds / users); a.Generation != want {
			t.Errorf("user %d: generation %d after %d moves", u, a.Generation, want)
		}
		for w := range writers {
			if got, want := a.Attributes[fmt.Sprintf("w%d", w)], strconv.Itoa(rounds-users+u); got != want {
				t.Errorf("user %d, writer %d: label is %q, want %q", u, w, got, want)
			}
		}
	}
}

// testSerializable: a database whose transactions are serializable by default
// gives some of them up, and nobody notices.
func testSerializable(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	postgrestest.ExecSQL(t, dsn, `ALTER DATABASE `+dsn[strings.LastIndex(dsn, "=")+1:]+` SET default_transaction_isolation = 'serializable'`)
	testAdds(t, open(t, dsn, Options{}), open(t, dsn, Options{}))
}

// testAdds: of several that add the same name at the same moment one adds it.
func testAdds(t *testing.T, dbs ...*DB) {
	t.Helper()
	for round := range 10 {
		results := make(chan bool, 8)
		for i := range cap(results) {
			go func() {
				added, err := dbs[i%len(dbs)].Set(context.Background(), fmt.Sprintf("new%d@x.test", round), ptr("p"), map[string]string{"tohost": "b1"})
				if err != nil {
					t.Errorf("set: %v", err)
				}
				results <- added
			}()
		}
		added := 0
		for range cap(results) {
			if <-results {
				added++
			}
		}
		if added != 1 {
			t.Errorf("round %d: %d sets added the user, want 1", round, added)
		}
	}
}

// testBrokenRecords: what cannot be read is unavailable, not absent and not
// something else.
func testBrokenRecords(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	db := open(t, dsn, Options{})
	hash, _ := db.passwords.Hash("p")
	for name, row := range map[string]string{
		"generation": `'` + hash + `', '{"homegen": "many"}'`,
		"number":     `'` + hash + `', '{"tohost": 7}'`,
		"nested":     `'` + hash + `', '{"tohost": {"a": "b"}}'`,
		"scheme":     `'{OTHER}x', '{}'`,
	} {
		name += "@x.test"
		postgrestest.ExecSQL(t, dsn, fmt.Sprintf(`INSERT INTO switchyard.users (name, hash, labels) VALUES ('%s', %s)`, name, row))
		if name != "scheme@x.test" {
			if _, err := db.Lookup(t.Context(), name); !errors.Is(err, lookup.ErrUnavailable) {
				t.Errorf("lookup of %s: got %v, want unavailable", name, err)
			}
			if _, err := db.Set(t.Context(), name, nil, map[string]string{"tohost": "b1"}); !errors.Is(err, lookup.ErrUnavailable) {
				t.Errorf("set of %s: got %v, want unavailable", name, err)
			}
		}
		if _, err := db.Check(t.Context(), lookup.Credentials{Name: name, Password: "p"}); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("check of %s: got %v, want unavailable", name, err)
		}
	}
	// The table itself takes no nonsense.
	postgrestest.ExecSQL(t, dsn, `DO $$ BEGIN
		INSERT INTO switchyard.users (name, labels) VALUES ('array@x.test', '[]');
		RAISE EXCEPTION 'accepted';
	EXCEPTION WHEN check_violation THEN END $$`)
}

// testBelieved: hidden rows, a lost table and a server that takes no writes
// are unavailable, never absent.
func testBelieved(t *testing.T, c *postgrestest.Server) {
	unavailable := func(t *testing.T, db *DB) {
		t.Helper()
		for _, name := range []string{"anna@example.test", "nobody@example.test"} {
			if _, err := db.Lookup(t.Context(), name); !errors.Is(err, lookup.ErrUnavailable) {
				t.Errorf("lookup of %s: got %v, want unavailable", name, err)
			}
			if _, err := db.Check(t.Context(), lookup.Credentials{Name: name, Password: "x"}); !errors.Is(err, lookup.ErrUnavailable) {
				t.Errorf("check of %s: got %v, want unavailable", name, err)
			}
		}
		if db.Ready(t.Context()) == nil && strings.HasSuffix(t.Name(), "read-only") {
			t.Error("ready")
		}
	}
	t.Run("row security", func(t *testing.T) {
		dsn := c.NewDatabase(t)
		load(t, dsn)
		postgrestest.ExecSQL(t, dsn, `DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA switchyard TO reader;
			GRANT SELECT ON ALL TABLES IN SCHEMA switchyard TO reader`)
		db := open(t, strings.Replace(dsn, "user=test", "user=reader", 1), Options{})
		if _, err := db.Lookup(t.Context(), "anna@example.test"); err != nil {
			t.Fatalf("a role that may only read: %v", err)
		}
		if _, err := db.Set(t.Context(), "anna@example.test", nil, map[string]string{"a": "b"}); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("set by a role that may only read: got %v, want unavailable", err)
		}
		postgrestest.ExecSQL(t, dsn, `ALTER TABLE switchyard.users ENABLE ROW LEVEL SECURITY`)
		unavailable(t, db)
		postgrestest.ExecSQL(t, dsn, `DROP OWNED BY reader; DROP ROLE reader`)
	})
	t.Run("no table", func(t *testing.T) {
		dsn := c.NewDatabase(t)
		load(t, dsn)
		db := open(t, dsn, Options{})
		postgrestest.ExecSQL(t, dsn, `ALTER TABLE switchyard.users RENAME TO gone`)
		unavailable(t, db)
	})
	t.Run("read-only", func(t *testing.T) {
		dsn := c.NewDatabase(t)
		load(t, dsn)
		db := open(t, dsn, Options{})
		postgrestest.ExecSQL(t, dsn, `ALTER DATABASE `+dsn[strings.LastIndex(dsn, "=")+1:]+` SET default_transaction_read_only = on`)
		db.pool.Reset()
		unavailable(t, db)
	})
}

// testSearch compares with what a search by hand finds.
func testSearch(t *testing.T, c *postgrestest.Server) {
	db := open(t, c.NewDatabase(t), Options{})
	for _, name := range []string{"bob@test.com", "bobcat@test.com", "a_b@test.com", "axb@test.com", "100%@test.com", "jörg@test.com", `zoe@test.org`} {
		if _, err := db.Set(t.Context(), name, ptr("p"), map[string]string{"homegen": "1"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Delete(t.Context(), "zoe@test.org"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		pattern   string
		from, max int
		want      string
		found     int
	}{
		{"*", 0, 0, "100%@test.com a_b@test.com axb@test.com bob@test.com bobcat@test.com jörg@test.com", 6},
		{"", 0, 1, "100%@test.com", 6},
		{"bo*@test.com", 0, 0, "bob@test.com bobcat@test.com", 2},
		{"BOB", 0, 0, "bob@test.com bobcat@test.com", 2},
		{"*", 4, 1, "bobcat@test.com", 6},
		{"*", 9, 1, "", 6},
		{"bo*", 1, 0, "bobcat@test.com", 2},
		{"a_b", 0, 0, "a_b@test.com", 1},
		{"a?b*", 0, 0, "a_b@test.com axb@test.com", 2},
		{"%", 0, 0, "100%@test.com", 1},
		{`\`, 0, 0, "", 0},
		{`\*`, 0, 0, "", 0},
		{"j?rg@*", 0, 0, "jörg@test.com", 1},
		{"'; DROP TABLE switchyard.users; --", 0, 0, "", 0},
		{"\xff", 0, 0, "", 0},
		{"a\x00", 0, 0, "", 0},
		{"*zoe*", 0, 0, "", 0},
	} {
		names, found, total, err := db.Search(t.Context(), s.pattern, s.from, s.max)
		if err != nil || strings.Join(names, " ") != s.want || found != s.found || total != 6 {
			t.Errorf("search %q -from %d -max %d: got %q, %d, %d, %v, want %q, %d", s.pattern, s.from, s.max, names, found, total, err, s.want, s.found)
		}
	}
	if n, err := db.Count(t.Context()); n != 6 || err != nil {
		t.Errorf("count: got %d, %v, want 6", n, err)
	}
}
