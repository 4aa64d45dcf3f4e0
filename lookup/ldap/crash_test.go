package ldap_test

import (
	"syscall"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
)

// TestCrash: a server that crashes and is run again at once is one more fault.
// The feed mends itself, and what changed meanwhile is told of.
func TestCrash(t *testing.T) {
	t.Parallel()
	s := startSlapd(t, "accounts.ldif")
	a := &admin{s: s}
	w := watch(t, open(t, s.plain, options()))
	if err := s.process().Signal(syscall.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	r := anna
	r.Home = "b8"
	a.set(t, r)
	want := map[lookup.Change]bool{{}: true, {Name: r.Name, Sessions: true}: true}
	deadline := time.After(20 * time.Second)
	for len(want) > 0 {
		select {
		case c := <-w.ch:
			delete(want, c)
		case <-deadline:
			t.Fatalf("not told of %v", want)
		}
	}
	d := open(t, s.plain, options())
	got, err := d.Lookup(t.Context(), r.Name)
	if err != nil || lookuptest.Diff(r.Account, got) != "" {
		t.Errorf("got %+v, %v", got, err)
	}
}
