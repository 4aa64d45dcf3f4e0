package nwauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/nwauth/hash"
)

var replicaOptions = Options{Argon2: cheap, Primary: "primary:7070"}

// follow streams until stop is called, which returns how the stream ended.
func follow(t testing.TB, from *DB, r *Replica) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- from.Stream(ctx, r.Begin(), r) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { stop() })
	return stop
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		<-tick.C
	}
}

// caughtUp waits until a replica holds what its primary does.
func caughtUp(t testing.TB, primary, replica *DB) {
	t.Helper()
	eventually(t, "the replica has caught up", func() bool {
		_, a := primary.history.last()
		_, b := replica.history.last()
		return a == b && !replica.empty.Load()
	})
	if want, got := contents(t, primary), contents(t, replica); want != got {
		t.Fatalf("at one mark the primary has\n%.500s\nand the replica\n%.500s", want, got)
	}
}

func TestReplica(t *testing.T) {
	primary := openTest(t, t.TempDir(), quickOptions)
	set(t, primary, "anna@x.test", "p", "tohost", "b1", "note", "ä")
	set(t, primary, "bob@x.test", "p", "tohost", "b1")
	if err := primary.Delete(t.Context(), "bob@x.test"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	db := openTest(t, dir, replicaOptions)

	// Before its first copy it knows nothing, and says so.
	if _, err := db.Lookup(t.Context(), "nobody@x.test"); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("lookup before the copy: got %v, want unavailable", err)
	}
	if _, err := db.Check(t.Context(), lookup.Credentials{Name: "anna@x.test", Password: "p"}); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("check before the copy: got %v, want unavailable", err)
	}
	if _, _, _, err := db.Search(t.Context(), "*", 0, 0); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("search before the copy: got %v, want unavailable", err)
	}
	if db.Ready(t.Context()) == nil {
		t.Error("it is ready before the copy")
	}
	if err := db.Stream(t.Context(), nil, nil); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("it streams before the copy: %v", err)
	}

	r := db.Replica()
	stop := follow(t, primary, r)
	caughtUp(t, primary, db)
	set(t, primary, "carla@x.test", "p", "tohost", "b2")
	set(t, primary, "anna@x.test", "", "tohost", "b2")
	caughtUp(t, primary, db)
	if err := db.Ready(t.Context()); err != nil {
		t.Errorf("ready: %v", err)
	}
	if _, err := db.Check(t.Context(), lookup.Credentials{Name: "carla@x.test", Password: "p"}); err != nil {
		t.Errorf("check at the replica: %v", err)
	}
	if s := r.Status(); !s.Whole || s.Behind() != 0 || s.Heard.IsZero() || s.Mark != s.Newest {
		t.Errorf("status: %+v", s)
	}

	// It refuses changes, and names who takes them.
	password := "p"
	for what, f := range map[string]func() error{
		"set":    func() error { _, err := db.Set(t.Context(), "anna@x.test", &password, nil); return err },
		"delete": func() error { return db.Delete(t.Context(), "anna@x.test") },
		"import": func() error { _, err := db.Import(t.Context(), strings.NewReader("a@x.test:*:\n"), nil); return err },
	} {
		var refused *RefusedError
		if err := f(); !errors.As(err, &refused) || !strings.Contains(err.Error(), "primary:7070") {
			t.Errorf("%s: got %v, want a refusal that names the primary", what, err)
		}
	}

	// Away for a while, it goes on where it was.
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("the stream ended with %v", err)
	}
	db.Close()
	set(t, primary, "dora@x.test", "p")
	db = openTest(t, dir, replicaOptions)
	if a, err := db.Lookup(t.Context(), "anna@x.test"); err != nil || a.Home != "b2" {
		t.Errorf("lookup after a restart: %+v, %v", a, err)
	}
	counted := &counter{Replica: db.Replica()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- primary.Stream(ctx, counted.Begin(), counted) }()
	caughtUp(t, primary, db)
	cancel()
	<-done
	if counted.copies != 0 || counted.changes != 1 {
		t.Errorf("after a restart: %d copies and %d changes, want 0 and 1", counted.copies, counted.changes)
	}

	// An import at the primary makes it begin anew.
	broken := make(chan error, 1)
	again := db.Replica()
	go func() { broken <- primary.Stream(t.Context(), again.Begin(), again) }()
	eventually(t, "the stream lives", func() bool { return !again.Status().Heard.IsZero() })
	if _, err := primary.Import(t.Context(), strings.NewReader("zoe@x.test:*:a=\"b\"\n"), nil); err != nil {
		t.Fatal(err)
	}
	if err := <-broken; !errors.Is(err, ErrBehind) {
		t.Errorf("after an import at the primary the stream ended with %v", err)
	}
	follow(t, primary, db.Replica())
	caughtUp(t, primary, db)
}

// counter counts what a stream sends.
type counter struct {
	*Replica
	copies, changes int
}

func (c *counter) Copy(at netwin.Mark, n int) error { c.copies++; return c.Replica.Copy(at, n) }
func (c *counter) Change(line string, at netwin.Mark, sessions bool) error {
	c.changes++
	return c.Replica.Change(line, at, sessions)
}

// TestReplicaUnderChanges: copies that begin at any moment, streams that break
// at any moment, merges on both sides all the time, and restarts; in the end
// both hold the same.
func TestReplicaUnderChanges(t *testing.T) {
	opts := quickOptions
	opts.LogSize = 3 << 10
	primaryDir, replicaDir := t.TempDir(), t.TempDir()
	primary := openTest(t, primaryDir, opts)
	replicaOpts := replicaOptions
	replicaOpts.LogSize = 2 << 10
	db := openTest(t, replicaDir, replicaOpts)
	for round := range 12 {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range 40 {
					name := fmt.Sprintf("user%d@x.test", rand.IntN(30))
					if i%5 == 4 {
						if err := primary.Delete(ctx, name); err != nil && !errors.Is(err, lookup.ErrAbsent) {
							t.Error(err)
						}
						continue
					}
					set(t, primary, name, "p", "n", fmt.Sprint(round, w, i), "tohost", fmt.Sprint("b", rand.IntN(3)))
				}
			})
		}
		breaking := &breaker{Replica: db.Replica(), after: 20 + rand.IntN(100)}
		err := primary.Stream(ctx, breaking.Begin(), breaking)
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Fatalf("round %d: %v", round, err)
		}
		wg.Wait()
		cancel()
		if round%4 == 1 {
			db.Close()
			db = openTest(t, replicaDir, replicaOpts)
		}
		if round%4 == 3 {
			primary.Close()
			primary = openTest(t, primaryDir, opts)
		}
	}
	follow(t, primary, db.Replica())
	caughtUp(t, primary, db)
	// A second replica, of the first one.
	second := openTest(t, t.TempDir(), replicaOptions)
	follow(t, db, second.Replica())
	caughtUp(t, primary, second)
	set(t, primary, "last@x.test", "p")
	caughtUp(t, primary, second)
}

// breaker is a stream that breaks.
type breaker struct {
	*Replica
	after int
}

func (b *breaker) step() error {
	if b.after--; b.after < 0 {
		return io.ErrClosedPipe
	}
	return nil
}

func (b *breaker) Line(line string) error { return errors.Join(b.Replica.Line(line), b.step()) }
func (b *breaker) Copied(until netwin.Mark) error {
	return errors.Join(b.Replica.Copied(until), b.step())
}
func (b *breaker) Change(line string, at netwin.Mark, sessions bool) error {
	return errors.Join(b.Replica.Change(line, at, sessions), b.step())
}

// A replica never takes over what makes no sense.
func TestReplicaRefuses(t *testing.T) {
	at := netwin.Mark{Position: 7, Sum: 9}
	for what, f := range map[string]func(r *Replica) error{
		"a line outside a copy":   func(r *Replica) error { return r.Line("a@x.test:*:") },
		"the end of no copy":      func(r *Replica) error { return r.Copied(at) },
		"another mark":            func(r *Replica) error { return r.Change("a@x.test:*:", at, false) },
		"no record":               func(r *Replica) error { return errors.Join(r.Copy(at, 1), r.Line("rubbish")) },
		"not as it is kept":       func(r *Replica) error { return errors.Join(r.Copy(at, 1), r.Line("A@x.test:*:")) },
		"labels in another order": func(r *Replica) error { return errors.Join(r.Copy(at, 1), r.Line(`a@x.test:*:b="1" a="2"`)) },
		"a line end":              func(r *Replica) error { return errors.Join(r.Copy(at, 1), r.Line("a@x.test:*:\n")) },
		"continuing somewhere":    func(r *Replica) error { return r.Continue(at) },
		"a line behind the copy": func(r *Replica) error {
			return errors.Join(r.Copy(at, 1), r.Copied(at.Next("x")), r.Line("a@x.test:*:"))
		},
		"a change with a line end": func(r *Replica) error { return r.Change("a@x.test:*:\n", r.mark.Next("a@x.test:*:\n"), false) },
	} {
		db := openTest(t, t.TempDir(), replicaOptions)
		r := db.Replica()
		r.Begin()
		if err := f(r); err == nil {
			t.Errorf("%s: got no error", what)
		}
		if db.Len() != 0 || !db.empty.Load() {
			t.Errorf("%s: it shows", what)
		}
		db.Close()
	}
}

// A restored backup has another history: the replica notices and begins anew.
func TestRestoredBackup(t *testing.T) {
	dir, backup := t.TempDir(), t.TempDir()
	primary := openTest(t, dir, quickOptions)
	set(t, primary, "anna@x.test", "p", "n", "1")
	db := openTest(t, t.TempDir(), replicaOptions)
	stop := follow(t, primary, db.Replica())
	caughtUp(t, primary, db)
	primary.Close()
	if err := os.CopyFS(filepath.Join(backup, "b"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	stop()
	primary = openTest(t, dir, quickOptions)
	set(t, primary, "anna@x.test", "p", "n", "2")
	stop = follow(t, primary, db.Replica())
	caughtUp(t, primary, db)
	stop()
	restored := openTest(t, filepath.Join(backup, "b"), quickOptions)
	set(t, restored, "anna@x.test", "p", "n", "other")
	set(t, restored, "anna@x.test", "p", "n", "others")
	follow(t, restored, db.Replica())
	caughtUp(t, restored, db)
}

// TestCopyAtEachStep crashes while a whole content replaces another: what is
// opened afterwards is the old or the new one, never a mixture.
func TestCopyAtEachStep(t *testing.T) {
	dir, copies := t.TempDir(), memoryDir(t)
	var mu sync.Mutex // the committer and a merge take steps
	var seen []string
	var before, after string
	armed := false
	check := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		if !armed {
			return
		}
		seen = append(seen, what)
		c := filepath.Join(copies, fmt.Sprint(len(seen)))
		if err := os.CopyFS(c, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		db, err := Open(c, quickOptions)
		if err != nil {
			t.Errorf("crash at %s: %v", what, err)
			return
		}
		defer db.Close()
		if got := contents(t, db); got != before && got != after {
			t.Errorf("crash at %s: got\n%s", what, got)
		}
		_, mark := db.history.last()
		set(t, db, "more@x.test", "p")
		if _, next := db.history.last(); next.Position != mark.Position+1 {
			t.Errorf("crash at %s: mark %s, then %s", what, mark, next)
		}
	}
	arm := func(on bool) {
		mu.Lock()
		defer mu.Unlock()
		armed = on
	}
	opts := quickOptions
	opts.LogSize = 200
	db, err := open(dir, opts, check)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range 20 {
		set(t, db, fmt.Sprintf("u%d@x.test", i%5), "p", "n", fmt.Sprint(i))
	}
	eventually(t, "merges are over", func() bool {
		_, err := os.Stat(filepath.Join(dir, oldLogFile))
		return err != nil
	})
	before = contents(t, db)
	in := "u1@x.test:*:n=\"new\"\nzoe@x.test:*:\n"
	// What it will be, from another database.
	other := openTest(t, t.TempDir(), quickOptions)
	if _, err := other.Import(t.Context(), strings.NewReader(before+"\n"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Import(t.Context(), strings.NewReader(in), nil); err != nil {
		t.Fatal(err)
	}
	after = contents(t, other)
	arm(true)
	if _, err := db.Import(t.Context(), strings.NewReader(in), nil); err != nil {
		t.Fatal(err)
	}
	arm(false)
	if got := contents(t, db); got != after {
		t.Errorf("got\n%s\nwant\n%s", got, after)
	}
	if got := strings.Join(seen, ", "); !strings.HasSuffix(got, "new base, base written, base synced, content replaced, log restarted") {
		t.Errorf("steps: %s", got)
	}
	// The log that the base has replaced would undo the import.
	db.Close()
	db = openTest(t, dir, quickOptions)
	if got := contents(t, db); got != after {
		t.Errorf("after reopening: got\n%s", got)
	}
}

func TestFeedContract(t *testing.T) {
	var db *DB
	lookuptest.RunFeed(t, lookuptest.FeedFixture{
		Open: func(t *testing.T) lookup.Watcher {
			db = openTest(t, t.TempDir(), quickOptions)
			for _, r := range lookuptest.Accounts() {
				if _, err := db.Set(t.Context(), r.Name, &r.Password, labelsOf(r.Account)); err != nil {
					t.Fatal(err)
				}
			}
			return db
		},
		Set: func(t *testing.T, r lookuptest.Record) {
			password := &r.Password
			if _, err := db.Check(t.Context(), lookup.Credentials{Name: r.Name, Password: r.Password}); err == nil {
				password = nil // as it is
			}
			labels := labelsOf(r.Account)
			delete(labels, "homegen") // the database counts
			if _, err := db.Set(t.Context(), r.Name, password, labels); err != nil {
				t.Fatal(err)
			}
		},
		Delete: func(t *testing.T, name string) {
			if err := db.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		},
		Interrupt: func(t *testing.T) {
			if _, err := db.Import(t.Context(), strings.NewReader("imported@x.test:*:\n"), nil); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// Which changes end sessions, and in which order they are told of.
func TestFeed(t *testing.T) {
	db := openTest(t, t.TempDir(), quickOptions)
	set(t, db, "anna@x.test", "p", "tohost", "b1")
	ctx, cancel := context.WithCancel(t.Context())
	live, changes, done := make(chan struct{}), make(chan lookup.Change, 100), make(chan error, 1)
	go func() {
		done <- db.Feed(ctx, func() { close(live) }, func(c lookup.Change) { changes <- c })
	}()
	<-live
	for _, step := range []struct {
		labels   []string
		password string
		sessions bool
	}{
		{[]string{"quota", "5"}, "", false},
		{[]string{"tohost", "b2"}, "", true},
		{[]string{"mailstatus", "paydue"}, "", false},
		{[]string{"mailstatus", "Suspended"}, "", true},
		{[]string{"mailstatus", "ok"}, "", true},
		{nil, "q", true},
		{[]string{"fwd", "a@b.test"}, "", false},
	} {
		set(t, db, "anna@x.test", step.password, step.labels...)
		if got := <-changes; got != (lookup.Change{Name: "anna@x.test", Sessions: step.sessions}) {
			t.Errorf("%v, password %q: got %+v", step.labels, step.password, got)
		}
	}
	if err := db.Delete(t.Context(), "anna@x.test"); err != nil {
		t.Fatal(err)
	}
	if got := <-changes; !got.Sessions {
		t.Errorf("deleted: got %+v", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// A reader that is slower than the history is long learns that it missed
// something, and the history stays bounded.
func TestHistoryIsBounded(t *testing.T) {
	start := netwin.Mark{Sum: 1}
	h := newHistory(start)
	slow, _ := h.last()
	pinned, _ := h.pin()
	publish := func(n, size int) {
		for range n {
			line := strings.Repeat("x", size)
			_, end := h.last()
			h.publish([]event{{line: line, at: end.Next(line), name: "a@x.test"}})
		}
	}
	publish(1000, 64<<10)
	if h.bytes > pinnedBytes {
		t.Errorf("pinned, it has %d bytes", h.bytes)
	}
	if _, _, _, ok := h.next(pinned); !ok {
		t.Error("what is pinned is lost early")
	}
	h.unpin(pinned)
	publish(1, 10)
	if h.bytes > historyBytes {
		t.Errorf("it has %d bytes", h.bytes)
	}
	if _, _, _, ok := h.next(slow); ok {
		t.Error("a slow reader does not know that it missed something")
	}
	if events, _, _, ok := h.next(slow); !ok || len(events) != 0 {
		t.Errorf("afterwards: %d events, %v", len(events), ok)
	}
	if _, ok := h.behind(start); ok {
		t.Error("a mark that is long gone is known")
	}
	if _, ok := h.behind(h.end); !ok {
		t.Error("the newest mark is not known")
	}
	if _, ok := h.behind(h.start); !ok {
		t.Error("the oldest mark is not known")
	}
	if _, ok := h.behind(netwin.Mark{Position: h.end.Position, Sum: h.end.Sum + 1}); ok {
		t.Error("another history's mark is known")
	}
	// However much is pinned, there is an end.
	h.pin()
	publish(1200, 64<<10)
	if h.bytes > pinnedBytes {
		t.Errorf("with a pin that nobody takes away it has %d bytes", h.bytes)
	}
}

// A login makes its weak hash a strong one, once, durably, and nobody's session
// ends by it.
func TestUpgrade(t *testing.T) {
	dir := t.TempDir()
	opts := quickOptions
	opts.Upgrade = true
	db := openTest(t, dir, opts)
	in := "anna@x.test:abnqrLigH.z/s:homegen=\"4\" tohost=\"b1\"\n" +
		"scram@x.test:{SCRAM-SHA-256}4096,c2FsdFNBTFRzYWx0U0FMVA==,fTYQTMCkPp9nk9xuV8t0NQDHC29qbx0oKt7FtPOdMF8=,AwTdhPCm+gIJEp071SwonWqeSWE333n6AfyVU/BvL+o=:\n"
	if _, err := db.Import(t.Context(), strings.NewReader(in), nil); err != nil {
		t.Fatal(err)
	}
	live, changes := make(chan struct{}), make(chan lookup.Change, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- db.Feed(ctx, func() { close(live) }, func(c lookup.Change) { changes <- c })
	}()
	defer func() { cancel(); <-done }()
	<-live
	login := func(name, password string, want lookup.Answer) {
		t.Helper()
		_, err := db.Check(t.Context(), lookup.Credentials{Name: name, Password: password})
		if got := lookup.AnswerOf(err); got != want {
			t.Errorf("%s with %q: got %v", name, password, err)
		}
	}
	login("anna@x.test", "wrong", lookup.AnswerRejected)
	login("scram@x.test", "sämé 1", lookup.AnswerFound)
	for range 5 {
		login("anna@x.test", "sesame", lookup.AnswerFound)
	}
	eventually(t, "the hash is new", func() bool {
		r, _ := db.Get("anna@x.test")
		return strings.HasPrefix(r.Hash, "{ARGON2ID}")
	})
	if got := <-changes; got != (lookup.Change{Name: "anna@x.test"}) {
		t.Errorf("told of %+v", got)
	}
	login("anna@x.test", "sesame", lookup.AnswerFound)
	login("anna@x.test", "sesamE", lookup.AnswerRejected)
	// The traditional crypt looked at eight characters; the new one at all.
	r, _ := db.Get("anna@x.test")
	if ok, err := hash.Verify(r.Hash, "sesame"); !ok || err != nil || r.Labels["homegen"] != "4" || r.Labels["tohost"] != "b1" {
		t.Errorf("got %v, %v, labels %v", ok, err, r.Labels)
	}
	want := contents(t, db)
	db.Close()
	if got := contents(t, openTest(t, dir, opts)); got != want {
		t.Error("it is another one after reopening")
	}
	if !strings.Contains(want, "{SCRAM-SHA-256}") {
		t.Error("SCRAM keys were replaced")
	}
	if len(changes) > 0 {
		t.Errorf("told of %+v too", <-changes)
	}
	// A password that was set meanwhile stays.
	if err := db.rehash(upgrade{"anna@x.test", "stale", "sesame"}); err != nil {
		t.Errorf("stale: %v", err)
	}
}

// Hashes that nobody can verify are taken over, and reported.
func TestImportUnverifiable(t *testing.T) {
	db := openTest(t, t.TempDir(), quickOptions)
	in := "a@x.test:$y$j9T$F5Jx5fExrKuPp53xLKQ..1$2XG8TbeFGEUHepjXSRRwTEN/pknneEfp/PquC6DSDN4:\nb@x.test:$y$j9T$x$y:\nc@x.test:*:\n"
	got, err := db.Import(t.Context(), strings.NewReader(in), nil)
	if err != nil || got.Added != 3 || got.Unverifiable != 2 || len(got.Schemes) != 1 || !strings.Contains(got.Schemes[0], "yescrypt") {
		t.Errorf("got %+v, %v", got, err)
	}
}
