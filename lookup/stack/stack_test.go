package stack_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"switchyard/lookup"
	"switchyard/lookup/cache"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/stack"
	"switchyard/lookup/static"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var down = lookup.Unavailable("script", errors.New("unplugged"))

func open(t *testing.T, members ...stack.Member) *stack.Directory {
	t.Helper()
	d, err := stack.New(members...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// split deals the suite's accounts out: one domain to a member of its own, and
// every other account of the rest to the directory that they move to.
func split() (own, moved, rest []lookuptest.Record) {
	for i, r := range lookuptest.Accounts() {
		switch {
		case lookup.Domain(r.Name) == "status.test":
			own = append(own, r)
		case i%2 == 0:
			moved = append(moved, r)
		default:
			rest = append(rest, r)
		}
	}
	return own, moved, rest
}

// three is a stack of three directories behind fault injectors.
type three struct{ faults []*lookuptest.Faulty }

func (s *three) open(t *testing.T) lookup.Directory {
	own, moved, rest := split()
	s.faults = nil
	member := func(records []lookuptest.Record, m stack.Member) stack.Member {
		f := lookuptest.NewFaulty(lookuptest.NewScripted(records...), time.Second)
		s.faults = append(s.faults, f)
		m.Directory = f
		return m
	}
	return open(t,
		member(moved, stack.Member{Name: "new", Next: true}),
		member(own, stack.Member{Name: "own", Domains: []string{"Status.Test"}}),
		member(rest, stack.Member{Name: "old"}))
}

func (s *three) all(f func(*lookuptest.Faulty)) func(*testing.T) {
	return func(*testing.T) {
		for _, fault := range s.faults {
			f(fault)
		}
	}
}

func TestContract(t *testing.T) {
	t.Parallel()
	s := &three{}
	f := lookuptest.Fixture{
		Open:  s.open,
		Break: s.all((*lookuptest.Faulty).Stop), Hang: s.all((*lookuptest.Faulty).Hang), Mend: s.all((*lookuptest.Faulty).Mend),
		Timeout: 2 * time.Second, // a login asks two questions
	}
	lookuptest.Run(t, f)
	f.Open = func(t *testing.T) lookup.Directory {
		c, err := cache.New(s.open(t), cache.Options{Timeout: 2 * time.Second, Patience: 10 * time.Millisecond, BackOff: 30 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	t.Run("behind a cache", func(t *testing.T) { lookuptest.Run(t, f) })
}

func record(name, home string) lookuptest.Record {
	return lookuptest.Record{Account: lookup.Account{Name: name, Home: home}, Password: home}
}

func TestRoutes(t *testing.T) {
	com := lookuptest.NewScripted(record("a@com.test", "com"), record("a@other.test", "stray"))
	next := lookuptest.NewScripted(record("moved@other.test", "next"), record("a@com.test", "stray"))
	last := lookuptest.NewScripted(record("moved@other.test", "last"), record("old@other.test", "last"), record("bare", "last"))
	d := open(t, stack.Member{Name: "next", Directory: next, Next: true},
		stack.Member{Name: "com", Directory: com, Domains: []string{"COM.test"}}, stack.Member{Name: "last", Directory: last})
	for name, want := range map[string]string{
		"a@com.test": "com", "b@com.test": "absent", "moved@other.test": "next", "old@other.test": "last",
		"a@other.test": "absent", "bare": "last", "a@sub.com.test": "absent",
	} {
		a, err := d.Lookup(t.Context(), name)
		got := a.Home
		if err != nil {
			got = lookup.AnswerOf(err).String()
		}
		if got != want {
			t.Errorf("%s: got %s (%v), want %s", name, got, err, want)
		}
		a, err = d.Check(t.Context(), lookup.Credentials{Name: name, Password: want})
		if want == "absent" && lookup.AnswerOf(err) != lookup.AnswerRejected || want != "absent" && a.Home != want {
			t.Errorf("check %s: got %s, %v, want %s", name, a.Home, err, want)
		}
	}
	// The password that a directory behind has for a moved account opens
	// nothing.
	if _, err := d.Check(t.Context(), lookup.Credentials{Name: "moved@other.test", Password: "last"}); !errors.Is(err, lookup.ErrRejected) {
		t.Errorf("got %v, want rejected", err)
	}
	if com.Asked("a@other.test") > 0 || last.Checks() == 0 || last.Asked("a@com.test") > 0 || next.Asked("a@com.test") > 0 {
		t.Error("a directory was asked about a name that it does not serve")
	}

	// What is unavailable is not sent on, whatever the others say.
	next.Fail(down)
	for _, name := range []string{"moved@other.test", "old@other.test", "nobody@other.test"} {
		_, err := d.Lookup(t.Context(), name)
		_, checked := d.Check(t.Context(), lookup.Credentials{Name: name, Password: "last"})
		for _, err := range []error{err, checked} {
			if lookup.AnswerOf(err) != lookup.AnswerUnavailable || !strings.Contains(err.Error(), "ask next") {
				t.Errorf("%s: got %v, want unavailable", name, err)
			}
		}
	}
	if a, err := d.Lookup(t.Context(), "a@com.test"); err != nil || a.Home != "com" {
		t.Errorf("another domain: got %v, %v", a, err)
	}
	next.Fail(errors.New("a bug"))
	if _, err := d.Lookup(t.Context(), "old@other.test"); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	next.Fail(nil)
	last.Fail(down)
	if a, err := d.Lookup(t.Context(), "moved@other.test"); err != nil || a.Home != "next" {
		t.Errorf("got %v, %v, want the one that needs no other", a, err)
	}
}

func TestNewRefuses(t *testing.T) {
	d := lookuptest.NewScripted()
	for want, members := range map[string][]stack.Member{
		"a stack without a member":                                                  nil,
		`member 1, "a", has no directory`:                                           {{Name: "a"}},
		`member "a" sends names of other domains on, and there is no other`:         {{Name: "a", Directory: d, Next: true}},
		`member "a" sends names of x.test on, and there is no other`:                {{Name: "a", Directory: d, Next: true, Domains: []string{"x.test"}}, {Name: "b", Directory: d}},
		`member "b" is never asked about other domains: "a" does not send names on`: {{Name: "a", Directory: d}, {Name: "b", Directory: d}},
		`member "a" lists x.test twice`:                                             {{Name: "a", Directory: d, Domains: []string{"x.test", "X.test"}}},
		`member "a": "" is no domain`:                                               {{Name: "a", Directory: d, Domains: []string{""}}},
	} {
		if _, err := stack.New(members...); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// plain is the hash of these tests.
func plain(hash, password string) bool { return hash == password }

func staticRecords(records []lookuptest.Record) []static.Record {
	var out []static.Record
	for _, r := range records {
		out = append(out, static.Record{Account: r.Account, Hash: r.Password})
	}
	return out
}

// TestFeed: the feeds of two directories are one, beside one without a feed.
func TestFeed(t *testing.T) {
	t.Parallel()
	own, moved, rest := split()
	one, err := static.New(plain, static.Options{Records: staticRecords(own)})
	if err != nil {
		t.Fatal(err)
	}
	records := append(moved, rest...)
	two, err := static.New(plain, static.Options{Records: staticRecords(records)})
	if err != nil {
		t.Fatal(err)
	}
	replace := func(t *testing.T) {
		if err := two.Replace(staticRecords(records)); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) {
		var kept []lookuptest.Record
		for _, r := range records {
			if r.Name != name {
				kept = append(kept, r)
			}
		}
		records = kept
	}
	lookuptest.RunFeed(t, lookuptest.FeedFixture{
		Open: func(t *testing.T) lookup.Watcher {
			return open(t, stack.Member{Name: "one", Directory: one, Domains: []string{"status.test"}},
				stack.Member{Name: "silent", Directory: lookuptest.NewScripted(), Next: true}, stack.Member{Name: "two", Directory: two})
		},
		Set: func(t *testing.T, r lookuptest.Record) {
			remove(r.Name)
			records = append(records, r)
			replace(t)
		},
		Delete: func(t *testing.T, name string) { remove(name); replace(t) },
	})
}

func TestFeedsThatEnd(t *testing.T) {
	lookuptest.NoFeed(t, open(t, stack.Member{Directory: lookuptest.NewScripted()}))
	a, b := lookuptest.NewWatched(), lookuptest.NewWatched()
	d := open(t, stack.Member{Name: "a", Directory: a, Domains: []string{"a.test"}}, stack.Member{Name: "b", Directory: b})
	a.EndFeed(lookup.ErrNoFeed)
	told := make(chan lookup.Change, 1)
	ended := make(chan error)
	go func() { ended <- d.Watch(t.Context(), func(c lookup.Change) { told <- c }) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.WaitWatched(ctx, 1); err != nil {
		t.Fatal(err)
	}
	b.Tell(lookup.Change{Name: "x@b.test"})
	if got := <-told; got.Name != "x@b.test" {
		t.Errorf("got %+v", got)
	}
	b.EndFeed(errors.New("a bug"))
	if err := <-ended; err == nil || errors.Is(err, lookup.ErrNoFeed) || !strings.Contains(err.Error(), "watch b: a bug") {
		t.Errorf("got %v, want the bug", err)
	}
	b.EndFeed(lookup.ErrNoFeed)
	lookuptest.NoFeed(t, d)
}
