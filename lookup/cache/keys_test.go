package cache_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/cache"
	"switchyard/lookup/lookuptest"
)

const scram = "SCRAM-SHA-256"

// holder is a directory with a feed that holds keys: of everybody whom it knows.
type holder struct {
	*lookuptest.Watched
	salt  string // of the keys now
	asked int
}

func (h *holder) Keys(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	h.asked++
	if _, err := h.Lookup(ctx, name); err != nil {
		return lookup.Keys{}, err
	}
	if mechanism != scram {
		return lookup.Keys{}, lookup.ErrNoKeys
	}
	return lookup.Keys{Mechanism: scram, Iterations: 4096, Salt: []byte(h.salt)}, nil
}

func (h *holder) KeyMechanisms(ctx context.Context) ([]string, error) {
	if _, err := h.Lookup(ctx, anna.Name); err != nil {
		return nil, err
	}
	return []string{scram}, nil
}

// tellKeyed is tellFed with a directory that holds keys.
func tellKeyed(t *testing.T, opts cache.Options, f func(t *testing.T, h *holder, c *cache.Cache)) {
	t.Helper()
	opts.Jitter, opts.RefreshAhead = -1, -1
	synctest.Test(t, func(t *testing.T) {
		h := &holder{Watched: lookuptest.NewWatched(lookuptest.Accounts()...), salt: "old"}
		c := open(t, h, opts)
		synctest.Wait()
		f(t, h, c)
	})
}

var _ lookup.KeyHolder = (*cache.Cache)(nil)

// TestKeysAreNotRemembered: each question about keys goes to the directory, so that
// a new password counts at once, feed or no feed, and no key lies in memory.
func TestKeysAreNotRemembered(t *testing.T) {
	tellKeyed(t, cache.Options{TTL: time.Hour}, func(t *testing.T, h *holder, c *cache.Cache) {
		if _, err := c.Lookup(t.Context(), anna.Name); err != nil {
			t.Fatal(err)
		}
		for n, salt := range []string{"old", "old", "new"} {
			h.salt = salt
			got, err := c.Keys(t.Context(), anna.Name, scram)
			if err != nil || string(got.Salt) != salt || h.asked != n+1 {
				t.Errorf("got a salt %q, %v after %d questions, want %q after %d", got.Salt, err, h.asked, salt, n+1)
			}
		}
		h.salt = "newest"
		h.Tell(lookup.Change{Name: anna.Name, Sessions: true})
		if got, err := c.Keys(t.Context(), anna.Name, scram); err != nil || string(got.Salt) != "newest" {
			t.Errorf("behind a change: got %q, %v", got.Salt, err)
		}
	})
}

// TestKeysAnswers: the cache changes no answer into another, whatever it remembers
// of the account itself.
func TestKeysAnswers(t *testing.T) {
	tellKeyed(t, cache.Options{TTL: time.Hour, NegativeTTL: time.Hour}, func(t *testing.T, h *holder, c *cache.Cache) {
		const nobody = "nobody@example.test"
		want := func(what, name, mechanism string, want error) {
			t.Helper()
			got, err := c.Keys(t.Context(), name, mechanism)
			if !errors.Is(err, want) || got.Salt != nil {
				t.Errorf("%s: got %v, %v, want %v", what, got, err, want)
			}
			for _, other := range []error{lookup.ErrAbsent, lookup.ErrNoKeys, lookup.ErrUnavailable} {
				if other != want && errors.Is(err, other) {
					t.Errorf("%s: %v is %v as well", what, err, other)
				}
			}
		}
		want("nobody", nobody, scram, lookup.ErrAbsent)
		want("no keys", anna.Name, "SCRAM-SHA-1", lookup.ErrNoKeys)
		// The account is known; its keys are not.
		if _, err := c.Lookup(t.Context(), anna.Name); err != nil {
			t.Fatal(err)
		}
		h.Fail(down)
		want("away", anna.Name, scram, lookup.ErrUnavailable)
		want("nobody, away", nobody, scram, lookup.ErrUnavailable)
		if got, err := c.KeyMechanisms(t.Context()); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("mechanisms, away: got %v, %v", got, err)
		}
		h.Fail(nil)
		if got, err := c.Keys(t.Context(), anna.Name, scram); err != nil || got.Mechanism != scram {
			t.Errorf("back: got %v, %v", got, err)
		}
		if got, err := c.KeyMechanisms(t.Context()); err != nil || !slices.Equal(got, []string{scram}) {
			t.Errorf("mechanisms, back: got %v, %v", got, err)
		}
		// An account that was absent a moment ago, and is remembered as that.
		if _, err := c.Lookup(t.Context(), "new@example.test"); !errors.Is(err, lookup.ErrAbsent) {
			t.Fatal(err)
		}
		h.Set(lookuptest.Record{Account: lookup.Account{Name: "new@example.test"}})
		if got, err := c.Keys(t.Context(), "new@example.test", scram); err != nil || got.Mechanism != scram {
			t.Errorf("a new account: got %v, %v", got, err)
		}
	})
}

// TestKeysAreBounded: a directory that hangs costs Timeout.
func TestKeysAreBounded(t *testing.T) {
	tellKeyed(t, cache.Options{Timeout: 3 * time.Second}, func(t *testing.T, h *holder, c *cache.Cache) {
		h.Delay(time.Hour)
		for what, ask := range map[string]func() error{
			"keys":       func() error { _, err := c.Keys(t.Context(), anna.Name, scram); return err },
			"mechanisms": func() error { _, err := c.KeyMechanisms(t.Context()); return err },
		} {
			start := time.Now()
			if err := ask(); !errors.Is(err, lookup.ErrUnavailable) || time.Since(start) != 3*time.Second {
				t.Errorf("%s: got %v after %v, want unavailable after 3s", what, err, time.Since(start))
			}
		}
		h.Delay(0)
	})
}

// TestKeysOfNoHolder: a directory without keys has none of anybody, and offers
// nothing.
func TestKeysOfNoHolder(t *testing.T) {
	c := open(t, lookuptest.NewScripted(lookuptest.Accounts()...), cache.Options{})
	if _, err := c.Keys(t.Context(), anna.Name, scram); !errors.Is(err, lookup.ErrNoKeys) {
		t.Errorf("got %v", err)
	}
	if got, err := c.KeyMechanisms(t.Context()); err != nil || got != nil {
		t.Errorf("mechanisms: got %v, %v", got, err)
	}
}
