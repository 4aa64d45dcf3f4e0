package postgres

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/postgres/postgrestest"
)

// feed is a Watch in the background.
type feed struct {
	changes chan lookup.Change
	stop    func()
}

// follow starts a Watch and waits until it is live.
func follow(t *testing.T, db *DB, writer *DB) *feed {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &feed{changes: make(chan lookup.Change, 100_000)}
	done := make(chan error, 1)
	go func() { done <- db.Watch(ctx, func(c lookup.Change) { f.changes <- c }) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	t.Cleanup(f.stop)
	n := 0
	eventually(t, "the feed is live", func() bool {
		n++
		if _, err := writer.Set(t.Context(), "live@x.test", ptr("p"), map[string]string{"n": fmt.Sprint(n)}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-f.changes:
			return true
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
	// What was told of it until now does not count.
	if _, err := writer.Set(t.Context(), "last@x.test", ptr("p"), map[string]string{"n": fmt.Sprint(n)}); err != nil {
		t.Fatal(err)
	}
	for f.next(t).Name != "last@x.test" {
	}
	return f
}

// testFeedLive: once a feed says that it is live, not even the very next change
// is missed.
func testFeedLive(t *testing.T, c *postgrestest.Server) {
	db := open(t, c.NewDatabase(t), Options{})
	for round := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		live, changes, done := make(chan struct{}), make(chan lookup.Change, 100), make(chan error, 1)
		go func() {
			done <- db.Feed(ctx, func() { close(live) }, func(c lookup.Change) { changes <- c })
		}()
		select {
		case <-live:
		case <-time.After(patience):
			t.Fatal("the feed does not get live")
		}
		name := fmt.Sprintf("user%d@x.test", round)
		if _, err := db.Set(t.Context(), name, ptr("p"), nil); err != nil {
			t.Fatal(err)
		}
		select {
		case c := <-changes:
			if c.Name != name {
				t.Errorf("round %d: told of %+v", round, c)
			}
		case <-time.After(patience):
			t.Fatalf("round %d: a change behind live was missed", round)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func (f *feed) next(t *testing.T) lookup.Change {
	t.Helper()
	select {
	case c := <-f.changes:
		return c
	case <-time.After(patience):
		t.Fatalf("no change was told of in %v", patience)
		return lookup.Change{}
	}
}

// testFeedOrder: many writers on two DBs; each change is told of once, and
// those of one account in their order.
func testFeedOrder(t *testing.T, c *postgrestest.Server) {
	const writers, rounds = 8, 30
	dsn := c.NewDatabase(t)
	dbs := []*DB{open(t, dsn, Options{}), open(t, dsn, Options{})}
	f := follow(t, open(t, dsn, Options{Poll: 10 * time.Millisecond}), dbs[0])
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			name := fmt.Sprintf("user%d@x.test", w)
			for n := range rounds {
				if _, err := dbs[w%2].Set(context.Background(), name, ptr("p"), map[string]string{"n": fmt.Sprint(n)}); err != nil {
					t.Errorf("set: %v", err)
				}
			}
			if err := dbs[w%2].Delete(context.Background(), name); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	}
	wg.Wait()
	told := make(map[string]int)
	for range writers * (rounds + 1) {
		change := f.next(t)
		told[change.Name]++
		if last := told[change.Name] == rounds+1; change.Sessions != last {
			t.Fatalf("change %d of %s bears on sessions: %v", told[change.Name], change.Name, change.Sessions)
		}
	}
	for w := range writers {
		if got := told[fmt.Sprintf("user%d@x.test", w)]; got != rounds+1 {
			t.Errorf("writer %d: %d changes were told of, want %d", w, got, rounds+1)
		}
	}
}

// testFeedLog: what plain SQL writes into the log.
func testFeedLog(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	db := open(t, dsn, Options{})
	f := follow(t, db, db)
	set := func(name string, sql string) string {
		return fmt.Sprintf(`UPDATE switchyard.users SET %s WHERE name = '%s'`, sql, name)
	}
	postgrestest.ExecSQL(t, dsn, `INSERT INTO switchyard.users (name, hash, live) VALUES ('a@x.test', 'h', true), ('gone@x.test', '', false)`)
	if got := f.next(t); got != (lookup.Change{Name: "a@x.test"}) {
		t.Fatalf("an account added: got %+v", got)
	}
	for _, step := range []struct {
		what string
		sql  string
		want []lookup.Change
	}{
		{"quota", set("a@x.test", `labels = '{"quota": "1"}'`), []lookup.Change{{Name: "a@x.test"}}},
		{"the same again", set("a@x.test", `labels = '{"quota": "1"}', updated = now()`), nil},
		{"status", set("a@x.test", `labels = labels || '{"mailstatus": "suspended"}'`), []lookup.Change{{Name: "a@x.test", Sessions: true}}},
		{"other words", set("a@x.test", `labels = labels || '{"mailstatus": "PayUp"}'`), []lookup.Change{{Name: "a@x.test"}}},
		{"good again", set("a@x.test", `labels = labels || '{"mailstatus": "good"}'`), []lookup.Change{{Name: "a@x.test", Sessions: true}}},
		{"the same in other words", set("a@x.test", `labels = labels - 'mailstatus'`), []lookup.Change{{Name: "a@x.test"}}},
		{"home", set("a@x.test", `labels = labels || '{"tohost": "b1"}'`), []lookup.Change{{Name: "a@x.test", Sessions: true}}},
		{"password", set("a@x.test", `hash = 'i'`), []lookup.Change{{Name: "a@x.test", Sessions: true}}},
		{"generation", set("a@x.test", `generation = 5`), []lookup.Change{{Name: "a@x.test"}}},
		{"deleted", set("a@x.test", `live = false`), []lookup.Change{{Name: "a@x.test", Sessions: true}}},
		{"made anew", set("a@x.test", `live = true, hash = 'n'`), []lookup.Change{{Name: "a@x.test"}}},
		{"deleted", set("a@x.test", `live = false`), []lookup.Change{{Name: "a@x.test", Sessions: true}}},
		{"forgotten", `DELETE FROM switchyard.users WHERE name IN ('a@x.test', 'gone@x.test')`, nil},
		{"removed", `DELETE FROM switchyard.users WHERE name = 'live@x.test'`, []lookup.Change{{Name: "live@x.test", Sessions: true}}},
		{"a thousand", `INSERT INTO switchyard.users (name) SELECT i || '@y.test' FROM generate_series(1, 1001) i`, []lookup.Change{{Sessions: true}}},
		{"all", `TRUNCATE switchyard.users`, []lookup.Change{{Sessions: true}}},
		{"undone", `BEGIN; INSERT INTO switchyard.users (name) VALUES ('undone@x.test'); ROLLBACK`, nil},
		{"the end", `INSERT INTO switchyard.users (name) VALUES ('end@x.test')`, []lookup.Change{{Name: "end@x.test"}}},
	} {
		postgrestest.ExecSQL(t, dsn, step.sql)
		for _, want := range step.want {
			if got := f.next(t); got != want {
				t.Errorf("%s: got %+v, want %+v", step.what, got, want)
			}
		}
	}
}

// testFeedInterrupted: what happens while the connection is broken is told of
// afterwards, in full where the log reaches back, else in one word.
func testFeedInterrupted(t *testing.T, c *postgrestest.Server) {
	dsn := c.NewDatabase(t)
	name := dsn[strings.LastIndex(dsn, "=")+1:]
	writer := open(t, dsn, Options{})
	f := follow(t, open(t, strings.Replace(dsn, "user=test", "user=test application_name=watcher", 1), Options{}), writer)
	// interrupt keeps the watcher out while do changes things.
	interrupt := func(do func()) {
		postgrestest.ExecSQL(t, c.DSN("postgres"), `ALTER DATABASE `+name+` ALLOW_CONNECTIONS false`)
		postgrestest.ExecSQL(t, c.DSN("postgres"), `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'watcher'`)
		do()
		postgrestest.ExecSQL(t, c.DSN("postgres"), `ALTER DATABASE `+name+` ALLOW_CONNECTIONS true`)
	}
	set := func(user string) {
		t.Helper()
		if _, err := writer.Set(context.Background(), user, ptr("p"), nil); err != nil {
			t.Fatal(err)
		}
	}
	exec := func(sql string) {
		t.Helper()
		if _, err := writer.pool.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	interrupt(func() {
		set("one@x.test")
		set("two@x.test")
	})
	for _, want := range []string{"one@x.test", "two@x.test"} {
		if got := f.next(t); got.Name != want {
			t.Errorf("after an interruption: got %+v, want %s", got, want)
		}
	}
	interrupt(func() {
		exec(`UPDATE switchyard.feed SET keep = 5`)
		for i := range 10 {
			set(fmt.Sprintf("more%d@x.test", i))
		}
	})
	if got := f.next(t); got != (lookup.Change{Sessions: true}) {
		t.Errorf("after the log was cut: got %+v, want anything changed", got)
	}
	set("after@x.test")
	if got := f.next(t); got.Name != "after@x.test" {
		t.Errorf("after that: got %+v", got)
	}
	// The database goes back in time, and other changes get the same numbers.
	interrupt(func() {
		exec(`UPDATE switchyard.feed SET seq = seq - 2`)
		exec(`DELETE FROM switchyard.changes WHERE seq > (SELECT seq FROM switchyard.feed)`)
		for i := range 4 {
			set(fmt.Sprintf("again%d@x.test", i))
		}
	})
	if got := f.next(t); got != (lookup.Change{Sessions: true}) {
		t.Errorf("after the database went back: got %+v, want anything changed", got)
	}
	var kept int
	if err := writer.pool.QueryRow(t.Context(), `SELECT count(*) FROM switchyard.changes`).Scan(&kept); err != nil || kept > 6 {
		t.Errorf("the log has %d entries, %v, want about 5", kept, err)
	}
}
