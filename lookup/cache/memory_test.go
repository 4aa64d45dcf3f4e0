package cache

import (
	"fmt"
	"strings"
	"testing"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
)

// No form of a password that another process could use stays in memory.
func TestPasswordsAreNotKept(t *testing.T) {
	r := lookuptest.Record{Account: lookup.Account{Name: "x@example.test"}, Password: "open sesame"}
	var macs []mac
	for range 2 {
		c, err := New(lookuptest.NewScripted(r), Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		cred := lookup.Credentials{Name: r.Name, Password: r.Password}
		if _, err := c.Check(t.Context(), cred); err != nil {
			t.Fatal(err)
		}
		cred.Password = "open wrong"
		if _, err := c.Check(t.Context(), cred); lookup.AnswerOf(err) != lookup.AnswerRejected {
			t.Fatal(err)
		}
		e, ok := c.known.peek(r.Name)
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
	r := lookuptest.Account("anna@example.test")
	next := lookuptest.NewScripted(r)
	c, err := New(next, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 3 * maxLogins {
		if _, err := c.Check(t.Context(), lookup.Credentials{Name: r.Name, Password: r.Password, Protocol: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if e, _ := c.known.peek(r.Name); len(e.logins) != maxLogins {
		t.Errorf("%d logins, want %d", len(e.logins), maxLogins)
	}
	// The newest are the ones kept.
	before := next.Checks()
	for i := 2 * maxLogins; i < 3*maxLogins; i++ {
		if _, err := c.Check(t.Context(), lookup.Credentials{Name: r.Name, Password: r.Password, Protocol: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if next.Checks() != before {
		t.Errorf("%d questions for remembered logins", next.Checks()-before)
	}
}

// The parts of a login cannot be shifted into each other.
func TestMACKeepsPartsApart(t *testing.T) {
	c, err := New(&lookuptest.Scripted{}, Options{AnyClient: true})
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
