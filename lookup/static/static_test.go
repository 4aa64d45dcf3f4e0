package static_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/static"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plain is the hash of these tests.
func plain(hash, password string) bool { return hash == "plain:"+password }

func records() []static.Record {
	var out []static.Record
	for _, r := range lookuptest.Accounts() {
		a := r.Account
		a.Name = r.Stored
		out = append(out, static.Record{Account: a, Hash: "plain:" + r.Password})
	}
	return out
}

func TestContract(t *testing.T) {
	lookuptest.Run(t, lookuptest.Fixture{Open: func(t *testing.T) lookup.Directory {
		d, err := static.New(plain, static.Options{Records: records()})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}})
}

func TestReplaceRefuses(t *testing.T) {
	d, err := static.New(plain, static.Options{Records: records()})
	if err != nil {
		t.Fatal(err)
	}
	before := d.Len()
	for name, c := range map[string]struct {
		names []string
		want  string
	}{
		"the same twice":       {[]string{"a@b.test", "a@b.test"}, "record 2: account a@b.test is there twice"},
		"twice but for case":   {[]string{"a@b.test", "x@b.test", "A@B.test"}, "record 3: account a@b.test is there twice"},
		"empty name":           {[]string{""}, "record 1: account \"\": bad account name: empty"},
		"a name with a space":  {[]string{"a b@c.test"}, "record 1: account \"a b@c.test\": bad account name: has the character U+0020"},
		"a name without limit": {[]string{strings.Repeat("a", 1<<20)}, "longer than 320 bytes"},
	} {
		var rs []static.Record
		for _, n := range c.names {
			rs = append(rs, static.Record{Account: lookup.Account{Name: n}})
		}
		err := d.Replace(rs)
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 300 {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if d.Len() != before {
			t.Fatalf("%s: the old records are gone", name)
		}
	}
}

// A reader never sees half of a Replace: both accounts are always of the same
// edition.
func TestReplaceIsAtomic(t *testing.T) {
	edition := func(n int) []static.Record {
		home := fmt.Sprint("b", n)
		return []static.Record{{Account: lookup.Account{Name: "x@y.test", Home: home}}, {Account: lookup.Account{Name: fmt.Sprint(home, "@y.test")}}}
	}
	d, err := static.New(plain, static.Options{Records: edition(0)})
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				if _, err := d.Lookup(t.Context(), "x@y.test"); err != nil {
					t.Errorf("got %v during a Replace", err)
					return
				}
				if d.Len() != 2 {
					t.Errorf("got %d accounts during a Replace", d.Len())
					return
				}
			}
		})
	}
	for n := range 2000 {
		if err := d.Replace(edition(n)); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	a, err := d.Lookup(t.Context(), "x@y.test")
	if err != nil || a.Home != "b1999" {
		t.Errorf("got %q, %v, want the last edition", a.Home, err)
	}
}

// An account that does not exist, or has no hash, costs one verification like
// any other.
func TestUnknownNamesCostTheSame(t *testing.T) {
	var verified atomic.Int32
	d, err := static.New(func(hash, password string) bool {
		verified.Add(1)
		return plain(hash, password)
	}, static.Options{Records: []static.Record{
		{Account: lookup.Account{Name: "locked@y.test"}},
		{Account: lookup.Account{Name: "open@y.test"}, Hash: "plain:p"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"open@y.test", "locked@y.test", "nobody@y.test"} {
		before := verified.Load()
		// "p" is right for the decoy: it must not open another's door.
		_, err := d.Check(t.Context(), lookup.Credentials{Name: name, Password: "p"})
		if (err == nil) != (name == "open@y.test") || err != nil && !errors.Is(err, lookup.ErrRejected) {
			t.Errorf("%s: got %v", name, err)
		}
		if got := verified.Load() - before; got != 1 {
			t.Errorf("%s: %d verifications, want 1", name, got)
		}
	}
}

func TestHashersAreBounded(t *testing.T) {
	inside, leave := make(chan struct{}, 1), make(chan struct{})
	d, err := static.New(func(string, string) bool {
		inside <- struct{}{}
		<-leave
		return true
	}, static.Options{Hashers: 1, Records: []static.Record{{Account: lookup.Account{Name: "a@y.test"}, Hash: "h"}}})
	if err != nil {
		t.Fatal(err)
	}
	c := lookup.Credentials{Name: "a@y.test", Password: "p"}
	first := make(chan error)
	go func() {
		_, err := d.Check(t.Context(), c)
		first <- err
	}()
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := d.Check(ctx, c); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("got %v beside a full pool, want unavailable", err)
	}
	close(leave)
	if err := <-first; err != nil {
		t.Errorf("got %v, want found", err)
	}
}
