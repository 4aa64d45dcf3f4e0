package cache

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"switchyard/lookup"
)

// one is a directory with one account, for tests that look inside the cache:
// lookuptest puts caches in front of directories itself.
type one struct {
	name, password string
	checks         atomic.Int32
}

func (o *one) Lookup(_ context.Context, name string) (lookup.Account, error) {
	if name != o.name {
		return lookup.Account{}, lookup.ErrAbsent
	}
	return lookup.Account{Name: name, Home: "b1"}, nil
}

func (o *one) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	o.checks.Add(1)
	if c.Name != o.name || c.Password != o.password {
		return lookup.Account{}, lookup.ErrRejected
	}
	return o.Lookup(ctx, c.Name)
}

// No form of a password that another process could use stays in memory.
func TestPasswordsAreNotKept(t *testing.T) {
	r := &one{name: "x@example.test", password: "open sesame"}
	var macs []mac
	for range 2 {
		c, err := New(r, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		cred := lookup.Credentials{Name: r.name, Password: r.password}
		if _, err := c.Check(t.Context(), cred); err != nil {
			t.Fatal(err)
		}
		cred.Password = "open wrong"
		if _, err := c.Check(t.Context(), cred); lookup.AnswerOf(err) != lookup.AnswerRejected {
			t.Fatal(err)
		}
		e, ok := c.known.peek(r.name)
		if !ok || len(e.logins) != 1 || e.rejected == (mac{}) {
			t.Fatalf("got %+v, want a login and a rejection", e)
		}
		if s := fmt.Sprintf("%+v", *e); strings.Contains(s, "open") {
			t.Errorf("a password is in %s", s)
		}
		macs = append(macs, e.logins[0].mac)
	}
	if macs[0] == macs[1] {
		t.Error("two processes would remember a password alike")
	}
}

func TestLoginsAreBounded(t *testing.T) {
	r := &one{name: "anna@example.test", password: "sesame-1"}
	c, err := New(r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 3 * maxLogins {
		if _, err := c.Check(t.Context(), lookup.Credentials{Name: r.name, Password: r.password, Protocol: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if e, _ := c.known.peek(r.name); len(e.logins) != maxLogins {
		t.Errorf("%d logins, want %d", len(e.logins), maxLogins)
	}
	// The newest are the ones kept.
	before := r.checks.Load()
	for i := 2 * maxLogins; i < 3*maxLogins; i++ {
		if _, err := c.Check(t.Context(), lookup.Credentials{Name: r.name, Password: r.password, Protocol: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if r.checks.Load() != before {
		t.Errorf("%d questions for remembered logins", r.checks.Load()-before)
	}
}

// The parts of a login cannot be shifted into each other.
func TestMACKeepsPartsApart(t *testing.T) {
	c, err := New(&one{}, Options{AnyClient: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	seen := make(map[mac]lookup.Credentials)
	for _, cred := range []lookup.Credentials{
		{Name: "a", Password: "bc"}, {Name: "ab", Password: "c"}, {Name: "a", Protocol: "b", Password: "c"},
		{Name: "a", Protocol: "bc"}, {Name: "abc"}, {Password: "abc"}, {Name: "a\x00b", Password: "c"}, {Name: "a", Password: "\x00bc"},
	} {
		m := c.mac(cred)
		if other, twice := seen[m]; twice {
			t.Errorf("%v and %v have the same MAC", cred, other)
		}
		seen[m] = cred
	}
}
