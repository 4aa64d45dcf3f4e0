package module

import (
	"errors"
	"maps"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"switchyard/lookup"
)

func ptr(s string) *string { return &s }

// TestChanges: what each change sends, and what is refused before it.
func TestChanges(t *testing.T) {
	t.Parallel()
	w := &world{t.TempDir()}
	m := w.open(t, Options{Processes: 2})
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
		{what: "new", password: ptr("one"), labels: labels{"phone": "1", "homegen": "6", "tohost": "b1"}, want: labels{"phone": "1", "tohost": "b1"}, homegen: 6, added: true},
		{what: "the same home", labels: labels{"tohost": "b1", "x": "y"}, want: labels{"phone": "1", "tohost": "b1", "x": "y"}, homegen: 6},
		{what: "removed", labels: labels{"x": ""}, want: labels{"phone": "1", "tohost": "b1"}, homegen: 6},
		{what: "moved", labels: labels{"tohost": "b2"}, want: labels{"phone": "1", "tohost": "b2"}, homegen: 7},
		{what: "too low", labels: labels{"homegen": "6"}, fails: "too low"},
		{what: "too low for a move", labels: labels{"tohost": "b4", "homegen": "7"}, fails: "at least 8"},
		{what: "no number", labels: labels{"homegen": "x"}, fails: "not a whole number"},
		{what: "no quota", labels: labels{"quota": "much"}, fails: "not a number of bytes"},
		{what: "quote", labels: labels{"a": `"`}, fails: "quote"},
		{what: "line", labels: labels{"a": "b\ndel anna@x.test"}, fails: "control"},
		{what: "the word for no password", password: ptr("(NULL)"), fails: "never a password"},
		{what: "empty password", password: ptr(""), fails: "empty"},
		{what: "two words", password: ptr("a b"), fails: "space"},
		{what: "quote in the password", password: ptr(`a"b`), fails: "quote"},
		{what: "line in the password", password: ptr("a\nb"), fails: "control"},
		{what: "long password", password: ptr(strings.Repeat("p", maxPassword+1)), fails: "longer"},
		{what: "the last one", labels: labels{"homegen": strconv.FormatUint(math.MaxUint64, 10)}, want: labels{"phone": "1", "tohost": "b2"}, homegen: math.MaxUint64},
		{what: "past the last one", labels: labels{"tohost": "b3"}, fails: "there is no homegen above"},
		{what: "deleted", delete: true},
		{what: "deleted again", delete: true, fails: "no such account"},
	} {
		var added bool
		var err error
		if step.delete {
			err = m.Delete(t.Context(), name)
		} else {
			added, err = m.Set(t.Context(), name, step.password, step.labels)
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
		account, err := m.Lookup(t.Context(), name)
		if step.delete {
			if lookup.AnswerOf(err) != lookup.AnswerAbsent {
				t.Errorf("%s: lookup: got %v, want absent", step.what, err)
			}
			continue
		}
		got := maps.Clone(account.Attributes)
		delete(got, "homegen")
		if diff := cmp.Diff(step.want, got); diff != "" || account.Generation != step.homegen {
			t.Errorf("%s: generation %d, want %d; labels (-want +got):\n%s", step.what, account.Generation, step.homegen, diff)
		}
	}
	// An account made anew has a later generation than the module remembers.
	before := uint64(time.Now().Unix())
	if _, err := m.Set(t.Context(), name, ptr("two"), labels{"tohost": "b1"}); err != nil {
		t.Fatal(err)
	}
	if a, err := m.Lookup(t.Context(), name); err != nil || a.Generation < before {
		t.Errorf("made anew: generation %d, %v, want %d at least", a.Generation, err, before)
	}
	w.fault(t, "chatty") // refuses everything
	var refused *RefusedError
	if err := m.change(t.Context(), request("del", name)); !errors.As(err, &refused) {
		t.Errorf("a change that the module refuses: got %v", err)
	}
	if _, _, _, err := m.Search(t.Context(), "*", 0, 0); !errors.As(err, &refused) {
		t.Errorf("a search that the module refuses: got %v", err)
	}
	for _, bad := range []string{"Anna@x.test", "a b@x.test", "", "a\n@x.test", `a"@x.test`} {
		if _, err := m.Set(t.Context(), bad, ptr("p"), nil); !errors.As(err, &refused) {
			t.Errorf("set %q: got %v, want refused", bad, err)
		}
		if err := m.Delete(t.Context(), bad); !errors.Is(err, lookup.ErrAbsent) {
			t.Errorf("delete %q: got %v, want absent", bad, err)
		}
	}
	for _, fault := range []string{"die", "garbage", "data", "dead"} {
		w.fault(t, fault)
		if _, err := m.Set(t.Context(), name, ptr("p"), nil); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("set with the fault %s: got %v, want unavailable", fault, err)
		}
		if err := m.Delete(t.Context(), name); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("delete with the fault %s: got %v, want unavailable", fault, err)
		}
	}
	for _, fault := range []string{"die", "garbage", "dead"} {
		w.fault(t, fault)
		if _, _, _, err := m.Search(t.Context(), "*", 0, 0); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("search with the fault %s: got %v, want unavailable", fault, err)
		}
	}
}

func TestSearch(t *testing.T) {
	t.Parallel()
	w := &world{t.TempDir()}
	for _, name := range []string{"bob@x.test", "bobcat@x.test", "zoe@x.test", `odd"name@x.test`} {
		write(w.dir, name, "p", nil)
	}
	m := w.open(t, Options{Processes: 1, Timeout: 2 * time.Second})
	for _, s := range []struct {
		pattern   string
		from, max int
		want      string
		found     int
	}{
		{"*", 0, 0, "bob@x.test bobcat@x.test zoe@x.test", 4}, // one is no account's name
		{"bob", 0, 0, "bob@x.test bobcat@x.test", 2},
		{"bob", 1, 1, "bobcat@x.test", 2},
		{"nobody", 0, 0, "", 0},
	} {
		names, found, total, err := m.Search(t.Context(), s.pattern, s.from, s.max)
		got := strings.Join(names, " ")
		if err != nil || got != s.want || found != s.found || total != 4 {
			t.Errorf("search %q: got %q, %d, %d, %v, want %q, %d", s.pattern, got, found, total, err, s.want, s.found)
		}
	}
	var refused *RefusedError
	for _, pattern := range []string{"", "a b", "a\nb", `a"`} {
		if _, _, _, err := m.Search(t.Context(), pattern, 0, 0); !errors.As(err, &refused) {
			t.Errorf("search %q: got %v, want refused", pattern, err)
		}
	}
	w.fault(t, "flood")
	if _, _, _, err := m.Search(t.Context(), "*", 0, 3); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("more names than asked for: got %v, want unavailable", err)
	}
}

// TestASCII: what the module refuses never reaches it.
func TestASCII(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.open(t, Options{Processes: 1, ASCII: true})
	var refused *RefusedError
	if _, err := m.Lookup(t.Context(), "jörg@example.test"); !errors.Is(err, lookup.ErrAbsent) {
		t.Errorf("lookup: got %v, want absent", err)
	}
	for _, c := range []lookup.Credentials{{Name: "jörg@example.test", Password: "pässwörd-ß"}, {Name: "anna@example.test", Password: "sesämé"}} {
		if _, err := m.Check(t.Context(), c); !errors.Is(err, lookup.ErrRejected) {
			t.Errorf("check of %s: got %v, want rejected", c.Name, err)
		}
		if _, err := m.Set(t.Context(), c.Name, &c.Password, nil); !errors.As(err, &refused) {
			t.Errorf("set of %s: got %v, want refused", c.Name, err)
		}
	}
	if _, err := m.Set(t.Context(), "anna@example.test", nil, map[string]string{"cn": "Jörg"}); !errors.As(err, &refused) {
		t.Errorf("set of a label: got %v, want refused", err)
	}
	if _, _, _, err := m.Search(t.Context(), "jö", 0, 0); !errors.As(err, &refused) {
		t.Errorf("search: got %v, want refused", err)
	}
	if _, err := m.Lookup(t.Context(), "anna@example.test"); err != nil {
		t.Error(err)
	}
	if seen := w.seen(); len(seen) != 1 || seen[0] != "lookup anna@example.test" {
		t.Errorf("the module saw %q", seen)
	}
}
