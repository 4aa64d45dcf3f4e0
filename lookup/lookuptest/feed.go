package lookuptest

import (
	"context"
	"errors"
	"testing"
	"time"

	"switchyard/lookup"
)

// feedTime is how soon a change is told of.
const feedTime = 5 * time.Second

// FeedFixture tells the suite of feeds how to make a directory and how to
// change what it holds, past it.
type FeedFixture struct {
	// Open makes a directory that holds Accounts.
	Open func(t *testing.T) lookup.Watcher

	// Set changes an account to what r says, or adds it. Delete removes it.
	Set    func(t *testing.T, r Record)
	Delete func(t *testing.T, name string)

	// Interrupt breaks the feed and lets it mend itself. Nil for one that
	// depends on nothing.
	Interrupt func(t *testing.T)
}

// RunFeed holds a directory against the contract of lookup.Watcher.
func RunFeed(t *testing.T, f FeedFixture) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan lookup.Change, 1000)
	done := make(chan error, 1)
	w := f.Open(t)
	go func() { done <- w.Watch(ctx, func(c lookup.Change) { changes <- c }) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch ended with %v, want nil when its context ends", err)
		}
	}()
	waitLive(t, f, changes, done)
	for _, step := range []struct {
		what     string
		change   func(r *Record)
		sessions bool
	}{
		{"a move", func(r *Record) { r.Home, r.Generation = "b9", r.Generation+1 }, true},
		{"a new password", func(r *Record) { r.Password = "another-1" }, true},
		{"a suspension", func(r *Record) { r.Status = lookup.StatusSuspended }, true},
		{"a new quota", func(r *Record) { r.Quota = 77 }, false},
	} {
		r := Account("anna@example.test")
		f.Set(t, r)
		settle(t, changes)
		step.change(&r)
		f.Set(t, r)
		wantChange(t, step.what, changes, r.Name, step.sessions)
	}
	if f.Interrupt != nil {
		settle(t, changes)
		f.Interrupt(t)
		wantChange(t, "an interruption", changes, "", false)
	}
	settle(t, changes)
	f.Set(t, Record{Account: lookup.Account{Name: "new@example.test", Home: "b1"}, Stored: "new@example.test", Password: "p"})
	wantChange(t, "a new account", changes, "new@example.test", false)
	settle(t, changes)
	f.Delete(t, "new@example.test")
	wantChange(t, "a deletion", changes, "new@example.test", true)
}

// waitLive makes changes until one is told of: how soon a feed begins is its
// own affair.
func waitLive(t *testing.T, f FeedFixture, changes <-chan lookup.Change, done <-chan error) {
	t.Helper()
	deadline := time.After(recovery)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := int64(1); ; i++ {
		r := Account("berta@example.test")
		r.Quota = i
		f.Set(t, r)
		select {
		case c := <-changes:
			if c.Name == r.Name {
				return
			}
		case err := <-done:
			t.Fatalf("Watch ended with %v", err)
		case <-deadline:
			t.Fatalf("no change was told of in %v", recovery)
		case <-tick.C:
		}
	}
}

// settle drops what is told of until a while has passed without anything.
func settle(t *testing.T, changes <-chan lookup.Change) {
	t.Helper()
	quiet := 150 * time.Millisecond
	for {
		select {
		case <-changes:
		case <-time.After(quiet):
			return
		}
	}
}

// wantChange waits until a change is told of. A change that bears on sessions
// must say so; one that does not may say so too, where the directory cannot
// know better.
func wantChange(t *testing.T, what string, changes <-chan lookup.Change, name string, sessions bool) {
	t.Helper()
	limit := feedTime
	if name == "" {
		limit = recovery
	}
	deadline := time.After(limit + grace)
	for {
		select {
		case c := <-changes:
			if c.Name == name && (c.Sessions || !sessions) {
				return
			}
		case <-deadline:
			t.Fatalf("%s: not told of in %v", what, limit)
		}
	}
}

// NoFeed checks that a directory without a feed says so at once.
func NoFeed(t *testing.T, w lookup.Watcher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), recovery)
	defer cancel()
	err := w.Watch(ctx, func(c lookup.Change) { t.Errorf("told of %+v", c) })
	if !errors.Is(err, lookup.ErrNoFeed) {
		t.Errorf("Watch: got %v, want no feed", err)
	}
}
