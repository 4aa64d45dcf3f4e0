package nwauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/nwauth/hash"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

var quickOptions = Options{Argon2: cheap}

func openTest(t testing.TB, dir string, opts Options) *DB {
	t.Helper()
	db, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func contents(t testing.TB, db *DB) string {
	t.Helper()
	var b bytes.Buffer
	if err := db.Export(t.Context(), &b, nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func set(t testing.TB, db *DB, name, password string, labels ...string) {
	t.Helper()
	var p *string
	if password != "" {
		p = &password
	}
	if _, err := db.Set(context.Background(), name, p, pairs(labels...)); err != nil {
		t.Fatalf("set %s: %v", name, err)
	}
}

func pairs(kv ...string) map[string]string {
	m := make(map[string]string)
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

func TestContract(t *testing.T) {
	lookuptest.Run(t, lookuptest.Fixture{Open: func(t *testing.T) lookup.Directory {
		db := openTest(t, t.TempDir(), quickOptions)
		for _, r := range lookuptest.Accounts() {
			if _, err := db.Set(t.Context(), r.Name, &r.Password, labelsOf(r.Account)); err != nil {
				t.Fatal(err)
			}
		}
		return db
	}})
}

func labelsOf(a lookup.Account) map[string]string {
	labels := pairs("tohost", a.Home, "mailstatus", string(a.Status), "quota", fmt.Sprint(a.Quota), "fwd", strings.Join(a.Forwards, ","))
	if a.Generation > 0 || a.Home != "" {
		labels["homegen"] = fmt.Sprint(a.Generation)
	}
	for label, value := range a.Attributes {
		labels[label] = value
	}
	return labels
}

func TestSetMergesAndReopens(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, dir, quickOptions)
	set(t, db, "anna@x.test", "sesame", "quota", "5G", "note", "a: b = c", "fwd", "c@x.test")
	set(t, db, "anna@x.test", "", "note", "", "full_name", "Anna")
	set(t, db, "bob@x.test", "bobs")
	check := func(db *DB) {
		t.Helper()
		r, found := db.Get("anna@x.test")
		want := pairs("quota", "5G", "fwd", "c@x.test", "full_name", "Anna")
		if diff := cmp.Diff(want, r.Labels); !found || diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
		a, err := db.Check(t.Context(), lookup.Credentials{Name: "anna@x.test", Password: "sesame"})
		if err != nil || a.Quota != 5<<30 {
			t.Errorf("check: got %+v, %v", a, err)
		}
		if db.Len() != 2 {
			t.Errorf("got %d users, want 2", db.Len())
		}
	}
	check(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	check(openTest(t, dir, quickOptions))
	text, err := os.ReadFile(filepath.Join(dir, logFile))
	if err != nil || bytes.Contains(text, []byte("sesame")) || !bytes.Contains(text, []byte("{ARGON2ID}")) {
		t.Errorf("the log, %v: it must have argon2id hashes and no password:\n%s", err, text)
	}
}

func TestSetRefuses(t *testing.T) {
	db := openTest(t, t.TempDir(), quickOptions)
	set(t, db, "anna@x.test", "sesame", "tohost", "b1", "homegen", "5")
	before := contents(t, db)
	password := "p"
	for what, c := range map[string]struct {
		name     string
		password *string
		labels   map[string]string
		want     error
	}{
		"unknown without password": {"bob@x.test", nil, nil, lookup.ErrAbsent},
		"colon in the name":        {"a:b@x.test", &password, nil, nil},
		"newline in the name":      {"a\nb@x.test", &password, nil, nil},
		"upper case name":          {"Anna@x.test", &password, nil, nil},
		"quote in a value":         {"anna@x.test", nil, pairs("a", `"`), nil},
		"newline in a value":       {"anna@x.test", nil, pairs("a", "b\nevil@x.test::"), nil},
		"bad quota":                {"anna@x.test", nil, pairs("quota", "lots"), nil},
		"bad homegen":              {"anna@x.test", nil, pairs("homegen", "-1"), nil},
		"homegen goes down":        {"anna@x.test", nil, pairs("homegen", "4"), nil},
		"homegen removed":          {"anna@x.test", nil, pairs("homegen", ""), nil},
		"move with the same":       {"anna@x.test", nil, pairs("tohost", "b2", "homegen", "5"), nil},
		"empty password":           {"anna@x.test", new(string), nil, nil},
	} {
		_, err := db.Set(t.Context(), c.name, c.password, c.labels)
		var refused *RefusedError
		if c.want != nil && !errors.Is(err, c.want) || c.want == nil && !errors.As(err, &refused) {
			t.Errorf("%s: got %v, want %v or a refusal", what, err, c.want)
		}
	}
	// Labels that fit one by one and not together.
	set(t, db, "big@x.test", "p", "a", strings.Repeat("x", 20000))
	var refused *RefusedError
	if _, err := db.Set(t.Context(), "big@x.test", nil, pairs("b", strings.Repeat("x", 20000))); !errors.As(err, &refused) {
		t.Errorf("too much together: got %v, want a refusal", err)
	}
	if err := db.Delete(t.Context(), "big@x.test"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, contents(t, db)); diff != "" {
		t.Errorf("refused changes changed something:\n%s", diff)
	}
}

// TestSetAlias: an alias needs no password, and none logs in to it.
func TestSetAlias(t *testing.T) {
	db := openTest(t, t.TempDir(), quickOptions)
	set(t, db, "team@x.test", "", "alias", "anna@x.test,bob@x.test")
	if a, err := db.Lookup(t.Context(), "team@x.test"); err != nil || a.Attributes["alias"] != "anna@x.test,bob@x.test" {
		t.Errorf("got %+v, %v", a, err)
	}
	for _, password := range []string{"", "*", "x"} {
		if _, err := db.Check(t.Context(), lookup.Credentials{Name: "team@x.test", Password: password}); !errors.Is(err, lookup.ErrRejected) {
			t.Errorf("password %q: %v", password, err)
		}
	}
}

func TestGeneration(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, dir, quickOptions)
	want := func(generation uint64) {
		t.Helper()
		a, err := db.Lookup(t.Context(), "anna@x.test")
		if err != nil || a.Generation != generation {
			t.Errorf("got generation %d, %v, want %d", a.Generation, err, generation)
		}
	}
	set(t, db, "anna@x.test", "p")
	want(0)
	set(t, db, "anna@x.test", "", "tohost", "b1")
	want(1)
	set(t, db, "anna@x.test", "", "tohost", "b1")
	want(1)
	set(t, db, "anna@x.test", "q", "note", "x")
	want(1)
	set(t, db, "anna@x.test", "", "tohost", "b2")
	want(2)
	set(t, db, "anna@x.test", "", "tohost", "")
	want(3)
	set(t, db, "anna@x.test", "", "tohost", "b1", "homegen", "9")
	want(9)
	set(t, db, "anna@x.test", "", "homegen", "9")
	want(9)
	// A deleted account's generation is remembered, over a reopening and a merge.
	if err := db.Delete(t.Context(), "anna@x.test"); err != nil {
		t.Fatal(err)
	}
	if err := db.Delete(t.Context(), "anna@x.test"); !errors.Is(err, lookup.ErrAbsent) {
		t.Errorf("second delete: got %v, want absent", err)
	}
	if _, err := db.Lookup(t.Context(), "anna@x.test"); !errors.Is(err, lookup.ErrAbsent) {
		t.Errorf("deleted: got %v, want absent", err)
	}
	if text := contents(t, db); text != "" {
		t.Errorf("export of deleted accounts: got %q", text)
	}
	db.Close()
	opts := quickOptions
	opts.LogSize = 1
	db = openTest(t, dir, opts)
	set(t, db, "bob@x.test", "p") // starts a merge
	db.Close()
	if text, err := os.ReadFile(filepath.Join(dir, baseFile)); err != nil || !strings.Contains(string(text), "\n:anna@x.test:homegen=\"9\"\n") {
		t.Fatalf("base: got %q, %v", text, err)
	}
	db = openTest(t, dir, quickOptions)
	set(t, db, "anna@x.test", "p", "tohost", "b1")
	want(10)
}

func TestImportExport(t *testing.T) {
	db := openTest(t, t.TempDir(), quickOptions)
	set(t, db, "anna@x.test", "p", "tohost", "b1", "homegen", "7")
	set(t, db, "bob@x.test", "p", "tohost", "b1")
	set(t, db, "keep@x.test", "p")
	keep, _ := db.Get("keep@x.test")
	in := strings.Join([]string{
		`Carla@x.test:{ssha}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA==:quota="200" created="1060034937"`,
		`not a record`,
		`anna@x.test:abnqrLigH.z/s:tohost="b2"`,           // moves: 8
		`bob@x.test:abnqrLigH.z/s:tohost="b2" homegen=40`, // brings its own
		`carla@x.test:again:`,
		"",
		`dora@x.test:*:tohost="b1" homegen="3"`,
	}, "\r\n")
	got, err := db.Import(t.Context(), strings.NewReader(in), nil)
	if err != nil || got.Added != 2 || got.Replaced != 2 || got.Bad != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	var first, second *LineError
	if !errors.As(got.Errors[0], &first) || first.Line != 2 || !errors.As(got.Errors[1], &second) || second.Line != 5 {
		t.Errorf("bad lines: got %v", got.Errors)
	}
	want := `anna@x.test:abnqrLigH.z/s:homegen="8" tohost="b2"
bob@x.test:abnqrLigH.z/s:homegen="40" tohost="b2"
carla@x.test:{ssha}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA==:created="1060034937" quota="200"
dora@x.test:*:homegen="3" tohost="b1"
keep@x.test:` + keep.Hash + ":\n"
	if diff := cmp.Diff(want, contents(t, db)); diff != "" {
		t.Errorf("export (-want +got):\n%s", diff)
	}
	if _, err := db.Check(t.Context(), lookup.Credentials{Name: "carla@x.test", Password: "sämé 1"}); err != nil {
		t.Errorf("check of an imported {ssha}: %v", err)
	}
	// What one database exports, another one imports as it is.
	other := openTest(t, t.TempDir(), quickOptions)
	if got, err := other.Import(t.Context(), strings.NewReader(want), nil); err != nil || got.Added != 5 || got.Bad != 0 {
		t.Fatalf("import of an export: got %+v, %v", got, err)
	}
	if diff := cmp.Diff(want, contents(t, other)); diff != "" {
		t.Errorf("export of an import of an export (-want +got):\n%s", diff)
	}
}

func TestCheckAnswers(t *testing.T) {
	db := openTest(t, t.TempDir(), quickOptions)
	in := "locked@x.test:!:\nempty@x.test::\nodd@x.test:{XYZ}abc:\nfine@x.test:abnqrLigH.z/s:mailstatus=\"suspended\"\n"
	if got, err := db.Import(t.Context(), strings.NewReader(in), nil); err != nil || got.Added != 4 {
		t.Fatalf("import: %+v, %v", got, err)
	}
	for name, want := range map[string]lookup.Answer{
		"locked@x.test": lookup.AnswerRejected, "empty@x.test": lookup.AnswerRejected, "nobody@x.test": lookup.AnswerRejected,
		"odd@x.test":  lookup.AnswerUnavailable, // broken, not wrong
		"fine@x.test": lookup.AnswerFound,
	} {
		_, err := db.Check(t.Context(), lookup.Credentials{Name: name, Password: "sesame"})
		if got := lookup.AnswerOf(err); got != want {
			t.Errorf("%s: got %v (%v), want %v", name, got, err, want)
		}
	}
}

// A name that nobody has is verified against a real account's hash.
func TestDecoys(t *testing.T) {
	d := newDecoys()
	own := d.forName("x", cheap)
	if ok, err := hash.Verify(own, "x"); ok || err != nil {
		t.Errorf("the decoy of an empty database: got %v, %v", ok, err)
	}
	for range 1000 {
		d.offer("new")
		d.offer("")
		d.offer("*")
	}
	if len(d.sample) != decoyCount || d.forName("x", cheap) != "new" {
		t.Errorf("got a sample of %d, %q", len(d.sample), d.forName("x", cheap))
	}
	for i := range 1000 {
		d.offer(fmt.Sprint(i))
	}
	first := d.forName("y", cheap)
	for range 10 {
		if again := d.forName("y", cheap); again != first {
			t.Errorf("a name has two decoys, %q and %q", first, again)
		}
	}
	later := 0
	for _, stored := range d.sample {
		if stored != "new" {
			later++
		}
	}
	if later < 10 || later > 54 {
		t.Errorf("%d of %d are from the later half, want about half", later, decoyCount)
	}
}

func TestSearch(t *testing.T) {
	db := openTest(t, t.TempDir(), quickOptions)
	var in strings.Builder
	for _, name := range []string{"bob@test.com", "bobcat@test.com", "carla@test.com", "jörg@other.org", "bob@other.org"} {
		fmt.Fprintf(&in, "%s:*:\n", name)
	}
	if _, err := db.Import(t.Context(), strings.NewReader(in.String()), nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pattern   string
		from, max int
		want      string
		found     int
	}{
		{"bo*@test.com", 0, 0, "bob@test.com bobcat@test.com", 2},
		{"BOB", 0, 0, "bob@other.org bob@test.com bobcat@test.com", 3},
		{"*", 0, 2, "bob@other.org bob@test.com", 5},
		{"*", 2, 2, "bobcat@test.com carla@test.com", 5},
		{"*", 4, 2, "jörg@other.org", 5},
		{"*", 9, 2, "", 5},
		{"bob@", 0, 0, "bob@other.org bob@test.com", 2},
		{"bob*", 0, 0, "bob@other.org bob@test.com bobcat@test.com", 3},
		{"ob*", 0, 0, "", 0},
		{"j?rg@*", 0, 0, "jörg@other.org", 1},
		{"b?b@*.???", 0, 0, "bob@other.org bob@test.com", 2},
	} {
		names, found, total, err := db.Search(t.Context(), c.pattern, c.from, c.max)
		if got := strings.Join(names, " "); err != nil || got != c.want || found != c.found || total != 5 {
			t.Errorf("%s from %d max %d: got %q, %d of %d, %v, want %q, %d of 5", c.pattern, c.from, c.max, got, found, total, err, c.want, c.found)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in.Reset()
	for i := range 2000 {
		fmt.Fprintf(&in, "u%d@x.test:*:\n", i)
	}
	if _, err := db.Import(t.Context(), strings.NewReader(in.String()), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := db.Search(ctx, "*", 0, 0); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("ended context: got %v, want unavailable", err)
	}
}

func TestWildMatchIsQuick(t *testing.T) {
	if wildMatch(strings.Repeat("*a", 150)+"b", strings.Repeat("a", 320)) {
		t.Error("matched")
	}
	for pattern, want := range map[string]bool{"*": true, "a*": true, "*c": true, "a?c": true, "a??c": false, "": false, "abc*": true, "**": true, "a*b*c": true, "a*d": false, "????": false} {
		if wildMatch(pattern, "abc") != want {
			t.Errorf("%q on abc: got %v", pattern, !want)
		}
	}
	if !wildMatch("\xff*", "\xffx") || wildMatch("\xff", "\xfe") {
		t.Error("bytes that are not UTF-8 are compared wrongly")
	}
}

func TestOneProcessOnly(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, dir, quickOptions)
	if _, err := Open(dir, quickOptions); err == nil || !strings.Contains(err.Error(), "open in another process") {
		t.Errorf("second open: got %v", err)
	}
	db.Close()
	openTest(t, dir, quickOptions)
}

func TestClosed(t *testing.T) {
	db := openTest(t, t.TempDir(), quickOptions)
	set(t, db, "anna@x.test", "p")
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			_, err := db.Set(t.Context(), "anna@x.test", nil, pairs("n", fmt.Sprint(i)))
			if err != nil && !errors.Is(err, lookup.ErrUnavailable) {
				t.Errorf("set while closing: got %v", err)
			}
		})
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := db.Set(t.Context(), "anna@x.test", nil, nil); !errors.Is(err, ErrClosed) || !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("set after close: got %v", err)
	}
	if _, err := db.Lookup(t.Context(), "anna@x.test"); err != nil {
		t.Errorf("lookup after close: got %v", err)
	}
}

func TestOpenBadFiles(t *testing.T) {
	for what, c := range map[string]struct{ base, log, want string }{
		"bad base":      {"anna@x.test:h:\nrubbish\n", "", "nwauth.txt: line 2"},
		"twice in base": {"anna@x.test:h:\nAnna@x.test:h:\n", "", "line 2: anna@x.test is there twice"},
		"bad log":       {"", "anna@x.test:h:\n\x00\x00\x00\nbob@x.test:h:\n", "nwauth.add: line 2"},
	} {
		dir := t.TempDir()
		for file, text := range map[string]string{baseFile: c.base, logFile: c.log} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Open(dir, quickOptions); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error that says %q", what, err, c.want)
		}
		// The lock is free again.
		if err := os.WriteFile(filepath.Join(dir, baseFile), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, logFile), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		openTest(t, dir, quickOptions)
	}
	openTest(t, filepath.Join(t.TempDir(), "made", "if", "missing"), quickOptions)
}
