package cache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"switchyard/lookup"
	"switchyard/lookup/cache"
	"switchyard/lookup/lookuptest"
)

// edition is what the directory held for the name from a moment on.
type edition struct {
	since    time.Time
	exists   bool
	home     string
	password string
}

// world is a directory with one name, all its editions, and the cache before
// it, in a time that the test moves.
type world struct {
	now      time.Time
	next     *lookuptest.Watched
	cache    *cache.Cache
	opts     cache.Options
	up       bool
	editions []edition

	// Editions before these are not an answer any more: the feed told of a
	// change; it told that something may have changed, which counts while the
	// directory answers.
	told, maybe int
}

const modelName = "anna@example.test"

func (w *world) set(e edition) {
	e.since = w.now
	w.editions = append(w.editions, e)
	if !e.exists {
		w.next.Delete(modelName)
		return
	}
	w.next.Set(lookuptest.Record{Account: lookup.Account{Name: modelName, Home: e.home}, Password: e.password})
}

func (w *world) current() edition { return w.editions[len(w.editions)-1] }

// within reports whether an edition that is right was current at some moment
// of the last d, and since the feed told of a change.
func (w *world) within(d time.Duration, right func(edition) bool) bool {
	first := w.told
	if w.up {
		first = max(first, w.maybe)
	}
	for i := len(w.editions) - 1; i >= first; i-- {
		if right(w.editions[i]) {
			return true
		}
		if w.now.Sub(w.editions[i].since) >= d {
			return false
		}
	}
	return false
}

// verify holds an answer against what the directory said, and when.
func (w *world) verify(t *rapid.T, what, password string, a lookup.Account, err error) {
	memory, passwords := w.opts.TTL, w.opts.PasswordTTL
	if !w.up {
		memory, passwords = w.opts.TTL+w.opts.StaleTTL, w.opts.StaleLogin
	}
	var ok bool
	switch lookup.AnswerOf(err) {
	case lookup.AnswerFound:
		ok = w.within(memory, func(e edition) bool { return e.exists && e.home == a.Home })
		if password != "" {
			ok = ok && w.within(passwords, func(e edition) bool { return e.exists && e.password == password })
		}
	case lookup.AnswerAbsent:
		ok = password == "" && w.within(w.opts.NegativeTTL, func(e edition) bool { return !e.exists })
	case lookup.AnswerRejected:
		ok = password != "" && w.within(w.opts.NegativeTTL, func(e edition) bool { return !e.exists || e.password != password })
	case lookup.AnswerUnavailable:
		ok = !w.up
	}
	if !ok {
		t.Fatalf("%s with the directory up=%v: got home %q, %v; editions %+v at %v", what, w.up, a.Home, err, w.editions, w.now)
	}
}

// TestModel: whatever happens in whatever order, an answer is one that the
// directory could have given within the time that the options allow.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{now: time.Unix(1e9, 0), next: lookuptest.NewWatched(), up: true}
		w.opts = cache.Options{
			TTL: time.Minute, NegativeTTL: 10 * time.Second, StaleTTL: 30 * time.Minute, PasswordTTL: 2 * time.Minute,
			StaleLogin: 10 * time.Minute, BackOff: time.Second, RefreshAhead: 0.3, Now: func() time.Time { return w.now },
		}
		var err error
		if w.cache, err = cache.New(w.next, w.opts); err != nil {
			t.Fatal(err)
		}
		defer w.cache.Close()
		if err := w.next.WaitWatched(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		w.set(edition{})
		passwords := rapid.SampledFrom([]string{"p", "q", "r"})
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				w.set(edition{exists: true, home: fmt.Sprint("b", rapid.IntRange(1, 3).Draw(t, "home")), password: passwords.Draw(t, "password")})
			},
			"delete": func(*rapid.T) { w.set(edition{}) },
			"down":   func(*rapid.T) { w.up = false; w.next.Fail(down) },
			"up": func(*rapid.T) {
				w.up = true
				w.next.Fail(nil)
				w.now = w.now.Add(w.opts.BackOff)
			},
			"wait": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{1, 5, 9, 10, 55, 60, 119, 120, 590, 600, 1800}).Draw(t, "seconds")) * time.Second)
			},
			"": func(*rapid.T) { w.cache.Settle() },
			"tell": func(*rapid.T) {
				w.next.Tell(lookup.Change{Name: modelName, Sessions: true})
				w.told = len(w.editions) - 1
			},
			"tell of something": func(*rapid.T) {
				w.next.Tell(lookup.Change{})
				w.maybe = len(w.editions) - 1
			},
			"forget": func(*rapid.T) { w.cache.Forget(modelName) },
			"lookup": func(t *rapid.T) {
				a, err := w.cache.Lookup(t.Context(), modelName)
				w.verify(t, "lookup", "", a, err)
			},
			"check": func(t *rapid.T) {
				p := passwords.Draw(t, "password")
				a, err := w.cache.Check(t.Context(), lookup.Credentials{Name: modelName, Password: p})
				w.verify(t, "check "+p, p, a, err)
			},
			"fresh": func(t *rapid.T) {
				a, err := w.cache.Fresh(t.Context(), modelName)
				now := w.current()
				switch lookup.AnswerOf(err) {
				case lookup.AnswerFound:
					if !w.up || !now.exists || a.Home != now.home {
						t.Fatalf("fresh: got %q, want what the directory has now, %+v", a.Home, now)
					}
				case lookup.AnswerAbsent:
					if !w.up || now.exists {
						t.Fatalf("fresh: got absent, want %+v", now)
					}
				default:
					if w.up {
						t.Fatalf("fresh: got %v from a directory that is up", err)
					}
				}
			},
		})
	})
}
