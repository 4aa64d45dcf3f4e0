package cache_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"switchyard/lookup"
	"switchyard/lookup/cache"
	"switchyard/lookup/lookuptest"
)

// heard keeps what OnChange was told.
type heard struct {
	mu      sync.Mutex
	changes []lookup.Change
}

func (h *heard) add(c lookup.Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes = append(h.changes, c)
}

// want checks what was told since the last call.
func (h *heard) want(t *testing.T, what string, want ...lookup.Change) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	same := len(h.changes) == len(want)
	for i := range want {
		same = same && h.changes[i] == want[i]
	}
	if !same {
		t.Errorf("%s: OnChange heard %+v, want %+v", what, h.changes, want)
	}
	h.changes = nil
}

// tellFed is tell with a directory that has a feed.
func tellFed(t *testing.T, opts cache.Options, f func(s story, feed *lookuptest.Watched)) {
	t.Helper()
	opts.Jitter, opts.RefreshAhead = -1, -1
	synctest.Test(t, func(t *testing.T) {
		next := lookuptest.NewWatched(lookuptest.Accounts()...)
		s := story{T: t, next: next.Scripted, cache: open(t, next, opts)}
		synctest.Wait()
		f(s, next)
	})
}

func TestFeedDropsWhatChanged(t *testing.T) {
	h := &heard{}
	tellFed(t, cache.Options{TTL: time.Hour, PasswordTTL: time.Hour, OnChange: h.add}, func(s story, feed *lookuptest.Watched) {
		s.check(login(anna), lookup.AnswerFound, 1)
		s.check(login(carla), lookup.AnswerFound, 1)
		s.lookup("new@example.test", lookup.AnswerAbsent, 1)
		changed := anna
		changed.Password, changed.Status = "new", lookup.StatusSuspended
		s.next.Set(changed)
		s.check(login(anna), lookup.AnswerFound, 0)
		feed.Tell(lookup.Change{Name: anna.Name, Sessions: true})
		h.want(s.T, "a change", lookup.Change{Name: anna.Name, Sessions: true})
		s.check(login(anna), lookup.AnswerRejected, 1)
		if a := s.check(login(changed), lookup.AnswerFound, 1); a.Status != lookup.StatusSuspended {
			s.Errorf("got status %q", a.Status)
		}
		s.check(login(carla), lookup.AnswerFound, 0)

		// What is known to be wrong is not given while the directory is away.
		feed.Tell(lookup.Change{Name: carla.Name, Sessions: true})
		s.next.Fail(down)
		s.lookup(carla.Name, lookup.AnswerUnavailable, 1)
		s.next.Fail(nil)

		s.next.Set(lookuptest.Record{Account: lookup.Account{Name: "new@example.test"}, Password: "p"})
		feed.Tell(lookup.Change{Name: "new@example.test"})
		s.lookup("new@example.test", lookup.AnswerFound, 1)
		if got := s.cache.Stats().Changes; got != 3 {
			s.Errorf("%d changes counted, want 3", got)
		}
	})
}

// A change that is not about sessions makes the account old and leaves its
// password alone.
func TestFeedOfOtherChanges(t *testing.T) {
	h := &heard{}
	tellFed(t, cache.Options{TTL: time.Hour, PasswordTTL: time.Hour, OnChange: h.add}, func(s story, feed *lookuptest.Watched) {
		s.check(login(anna), lookup.AnswerFound, 1)
		changed := anna
		changed.Quota = 1
		s.next.Set(changed)
		feed.Tell(lookup.Change{Name: anna.Name})
		h.want(s.T, "a change", lookup.Change{Name: anna.Name})
		if a := s.lookup(anna.Name, lookup.AnswerFound, 1); a.Quota != 1 {
			s.Errorf("got quota %d, want the new one", a.Quota)
		}
		s.check(login(anna), lookup.AnswerFound, 0)
		h.want(s.T, "a new quota")

		// The answer may tell more than the feed did.
		changed.Home = "b9"
		s.next.Set(changed)
		feed.Tell(lookup.Change{Name: anna.Name})
		s.next.Fail(down)
		if a := s.lookup(anna.Name, lookup.AnswerFound, 1); a.Home != anna.Home {
			s.Errorf("got home %s, want the old one while the directory is away", a.Home)
		}
		s.next.Fail(nil)
		time.Sleep(time.Second)
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		h.want(s.T, "a move", lookup.Change{Name: anna.Name}, lookup.Change{Name: anna.Name, Sessions: true})
	})
}

// After an interruption everything is asked again, and old answers are given
// only where there are no new ones.
func TestFeedInterrupted(t *testing.T) {
	h := &heard{}
	tellFed(t, cache.Options{TTL: time.Hour, PasswordTTL: time.Hour, OnChange: h.add}, func(s story, feed *lookuptest.Watched) {
		wrong := login(anna)
		wrong.Password = "wrong"
		s.check(login(anna), lookup.AnswerFound, 1)
		s.check(wrong, lookup.AnswerRejected, 1)
		s.lookup(carla.Name, lookup.AnswerFound, 1)
		s.lookup("nobody@example.test", lookup.AnswerAbsent, 1)
		feed.Tell(lookup.Change{})
		h.want(s.T, "an interruption", lookup.Change{})
		s.check(wrong, lookup.AnswerRejected, 1)
		s.next.Fail(down)
		s.lookup(carla.Name, lookup.AnswerFound, 1)
		s.check(login(anna), lookup.AnswerFound, 1)
		s.lookup("nobody@example.test", lookup.AnswerUnavailable, 1)
		s.next.Fail(nil)
		time.Sleep(time.Second)
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		s.lookup(anna.Name, lookup.AnswerFound, 0)
		// The account was seen in the new era, its password was not.
		s.check(login(anna), lookup.AnswerFound, 1)
		s.check(login(anna), lookup.AnswerFound, 0)
		h.want(s.T, "nothing else")
	})
}

// An answer that was under way when the change came is not remembered.
func TestFeedDuringAQuestion(t *testing.T) {
	for what, change := range map[string]lookup.Change{
		"of sessions": {Name: anna.Name, Sessions: true}, "of something": {Name: anna.Name}, "of anything": {},
	} {
		tellFed(t, cache.Options{}, func(s story, feed *lookuptest.Watched) {
			release := s.next.Hold()
			answered := make(chan error)
			go func() {
				_, err := s.cache.Lookup(s.Context(), anna.Name)
				answered <- err
			}()
			synctest.Wait()
			feed.Tell(change)
			release()
			if err := <-answered; err != nil {
				s.Errorf("%s: got %v", what, err)
			}
			s.lookup(anna.Name, lookup.AnswerFound, 1)
		})
	}
}

func TestFeedThatEnds(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	tellFed(t, cache.Options{TTL: time.Hour, Logger: zap.New(core)}, func(s story, feed *lookuptest.Watched) {
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		feed.EndFeed(errors.New("a bug"))
		synctest.Wait()
		s.lookup(anna.Name, lookup.AnswerFound, 1) // something may have been missed
		feed.MendFeed()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if feed.Watchers() != 1 {
			s.Errorf("%d watch, want the cache to be back", feed.Watchers())
		}
		feed.EndFeed(lookup.ErrNoFeed)
		synctest.Wait()
		feed.MendFeed()
		time.Sleep(time.Hour)
		if feed.Watchers() != 0 {
			s.Error("the cache watches a directory that has no feed")
		}
		var said []string
		for _, l := range logs.All() {
			said = append(said, l.Message)
		}
		if len(said) != 2 || said[0] != "feed of changes ended" || said[1] != "directory has no feed of changes" {
			s.Errorf("the log says %q", said)
		}
	})
}

// Without a feed, what a question brings to light is a change too.
func TestChangesWithoutAFeed(t *testing.T) {
	h := &heard{}
	tell(t, cache.Options{TTL: time.Minute, PasswordTTL: time.Minute, OnChange: h.add}, func(s story) {
		change := lookup.Change{Name: anna.Name, Sessions: true}
		now := anna
		refreshed := func(what string, want ...lookup.Change) {
			s.Helper()
			s.next.Set(now)
			time.Sleep(time.Minute)
			s.lookup(anna.Name, lookup.AnswerFound, 1)
			h.want(s.T, what, want...)
		}
		s.check(login(anna), lookup.AnswerFound, 1)
		refreshed("nothing")
		now.Quota++
		refreshed("another quota")
		now.Status = lookup.StatusPayDue
		refreshed("a status that opens the same doors")
		now.Status = lookup.StatusPayUp
		refreshed("a suspension", change)
		now.Status = lookup.StatusOK
		refreshed("its end")
		now.Home = "b9"
		refreshed("a move", change)
		now.Generation++
		refreshed("a move there and back", change)

		now.Password = "new"
		s.next.Set(now)
		s.check(login(anna), lookup.AnswerRejected, 1)
		h.want(s.T, "a password that was right is wrong", change)
		time.Sleep(time.Minute)
		s.check(login(anna), lookup.AnswerRejected, 1)
		h.want(s.T, "a wrong password")

		s.next.Fail(down)
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		h.want(s.T, "an outage")
		s.next.Fail(nil)
		s.next.Delete(anna.Name)
		time.Sleep(time.Minute)
		s.lookup(anna.Name, lookup.AnswerAbsent, 1)
		h.want(s.T, "a deletion", change)
		time.Sleep(time.Minute)
		s.lookup(anna.Name, lookup.AnswerAbsent, 1)
		h.want(s.T, "an absence")
	})
}

func TestRefreshAhead(t *testing.T) {
	h := &heard{}
	tell(t, cache.Options{TTL: 100 * time.Second, RefreshAhead: 0.1, OnChange: h.add}, func(s story) {
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		moved := anna
		moved.Home = "b9"
		s.next.Set(moved)
		time.Sleep(90*time.Second - time.Microsecond)
		s.lookup(anna.Name, lookup.AnswerFound, 0)
		synctest.Wait()
		if s.next.Lookups() != 1 {
			s.Fatalf("asked before the last part of the TTL")
		}
		time.Sleep(time.Microsecond)
		// The answer is still the old one, and one question brings the new one.
		for range 10 {
			if a, err := s.cache.Lookup(s.Context(), anna.Name); err != nil || a.Home != anna.Home && a.Home != "b9" {
				s.Errorf("got %s, %v", a.Home, err)
			}
		}
		synctest.Wait()
		if n := s.next.Lookups(); n != 2 {
			s.Errorf("%d questions, want one more", n)
		}
		h.want(s.T, "a move", lookup.Change{Name: anna.Name, Sessions: true})
		time.Sleep(50 * time.Second)
		if a := s.lookup(anna.Name, lookup.AnswerFound, 0); a.Home != "b9" {
			s.Errorf("got home %s, want the new one without waiting", a.Home)
		}

		// A directory that is away is asked about it once a BackOff.
		time.Sleep(45 * time.Second)
		s.next.Fail(down)
		before := s.next.Lookups()
		for range 40 {
			if a, err := s.cache.Lookup(s.Context(), anna.Name); err != nil || a.Home != "b9" {
				s.Errorf("got %s, %v while the directory is away", a.Home, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := s.next.Lookups() - before; n > 5 {
			s.Errorf("%d questions in 4 s, want one a second", n)
		}
		if s.cache.Stats().Ahead < 2 {
			s.Errorf("got %+v, want the questions ahead counted", s.cache.Stats())
		}
	})
}

// A password in steady use is verified again before its time is over, and one
// that was changed is found out.
func TestRefreshAheadOfPasswords(t *testing.T) {
	h := &heard{}
	tell(t, cache.Options{TTL: time.Hour, PasswordTTL: 100 * time.Second, RefreshAhead: 0.1, OnChange: h.add}, func(s story) {
		s.check(login(anna), lookup.AnswerFound, 1)
		for range 20 {
			time.Sleep(15 * time.Second)
			s.check(login(anna), lookup.AnswerFound, 0)
			synctest.Wait()
		}
		if n := s.next.Checks(); n < 3 || n > 5 {
			s.Errorf("%d questions in 300 s, want one for each 100", n)
		}
		changed := anna
		changed.Password = "new"
		s.next.Set(changed)
		for range 7 {
			time.Sleep(15 * time.Second)
			s.cache.Check(s.Context(), login(anna))
			synctest.Wait()
		}
		before := s.next.Checks()
		_, err := s.cache.Check(s.Context(), login(anna))
		s.want("check", err, lookup.AnswerRejected, 0, 0)
		h.want(s.T, "a changed password", lookup.Change{Name: anna.Name, Sessions: true})
		if s.next.Checks()-before > 1 {
			s.Errorf("%d questions", s.next.Checks()-before)
		}
	})
}
