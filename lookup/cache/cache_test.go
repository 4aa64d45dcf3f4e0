package cache_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"switchyard/lookup"
	"switchyard/lookup/cache"
	"switchyard/lookup/lookuptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	anna  = lookuptest.Account("anna@example.test")
	carla = lookuptest.Account("carla@example.test")
	down  = lookup.Unavailable("script", errors.New("unplugged"))
)

func open(t *testing.T, next lookup.Directory, opts cache.Options) *cache.Cache {
	t.Helper()
	c, err := cache.New(next, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestContract(t *testing.T) {
	for name, opts := range map[string]cache.Options{
		"as it comes": {},
		"tiny":        {Entries: 1},
		"remembers nothing": {
			TTL: -1, NegativeTTL: -1, StaleTTL: -1, PasswordTTL: -1, StaleLogin: -1, BackOff: -1, Jitter: -1,
		},
	} {
		opts.Timeout, opts.Patience = time.Second, 10*time.Millisecond
		if opts.BackOff == 0 {
			opts.BackOff = 30 * time.Millisecond
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var next *lookuptest.Scripted
			lookuptest.Run(t, lookuptest.Fixture{
				Open: func(t *testing.T) lookup.Directory {
					next = lookuptest.NewScripted(lookuptest.Accounts()...)
					return open(t, next, opts)
				},
				Break:   func(*testing.T) { next.Fail(down) },
				Hang:    func(*testing.T) { next.Delay(time.Hour) },
				Mend:    func(*testing.T) { next.Fail(nil); next.Delay(0) },
				Timeout: opts.Timeout,
			})
		})
	}
}

func TestOptionsRefused(t *testing.T) {
	for want, opts := range map[string]cache.Options{
		"stale login of 15m0.000000001s is longer than 15m0s": {StaleLogin: 15*time.Minute + 1},
		"jitter of 1.5 is more than 1":                        {Jitter: 1.5},
	} {
		if _, err := cache.New(&lookuptest.Scripted{}, opts); err == nil || err.Error() != want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// story is a cache over a scripted directory in fake time.
type story struct {
	*testing.T
	next  *lookuptest.Scripted
	cache *cache.Cache
}

// tell runs f in a synctest bubble, without jitter and without questions ahead
// unless opts has some.
func tell(t *testing.T, opts cache.Options, f func(s story)) {
	t.Helper()
	if opts.Jitter == 0 {
		opts.Jitter = -1
	}
	if opts.RefreshAhead == 0 {
		opts.RefreshAhead = -1
	}
	synctest.Test(t, func(t *testing.T) {
		next := lookuptest.NewScripted(lookuptest.Accounts()...)
		f(story{T: t, next: next, cache: open(t, next, opts)})
	})
}

func (s story) lookup(name string, want lookup.Answer, questions int) lookup.Account {
	s.Helper()
	before := s.next.Lookups()
	a, err := s.cache.Lookup(s.Context(), name)
	s.want("lookup "+name, err, want, s.next.Lookups()-before, questions)
	return a
}

func (s story) check(c lookup.Credentials, want lookup.Answer, questions int) lookup.Account {
	s.Helper()
	before := s.next.Checks()
	a, err := s.cache.Check(s.Context(), c)
	s.want("check "+c.Name, err, want, s.next.Checks()-before, questions)
	return a
}

func (s story) want(what string, err error, want lookup.Answer, asked, questions int) {
	s.Helper()
	if got := lookup.AnswerOf(err); got != want {
		s.Errorf("%s: got %v (%v), want %v", what, got, err, want)
	}
	if asked != questions {
		s.Errorf("%s: %d questions to the directory, want %d", what, asked, questions)
	}
}

func login(r lookuptest.Record) lookup.Credentials {
	return lookup.Credentials{Name: r.Name, Password: r.Password, Protocol: "imap", Client: netip.MustParseAddr("192.0.2.1")}
}

func TestFoundForItsTTL(t *testing.T) {
	tell(t, cache.Options{TTL: time.Minute}, func(s story) {
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		time.Sleep(time.Minute - 1)
		s.lookup(anna.Name, lookup.AnswerFound, 0)
		moved := anna
		moved.Home = "b9"
		s.next.Set(moved)
		time.Sleep(time.Nanosecond)
		if a := s.lookup(anna.Name, lookup.AnswerFound, 1); a.Home != "b9" {
			s.Errorf("got home %s, want b9 after the TTL", a.Home)
		}
	})
}

func TestAbsentForItsTTL(t *testing.T) {
	tell(t, cache.Options{NegativeTTL: 10 * time.Second}, func(s story) {
		s.lookup("new@example.test", lookup.AnswerAbsent, 1)
		s.next.Set(lookuptest.Record{Account: lookup.Account{Name: "new@example.test"}, Password: "p"})
		time.Sleep(10*time.Second - 1)
		s.lookup("new@example.test", lookup.AnswerAbsent, 0)
		time.Sleep(time.Nanosecond)
		s.lookup("new@example.test", lookup.AnswerFound, 1)

		// An account that goes takes the memory of its password with it.
		s.check(login(anna), lookup.AnswerFound, 1)
		s.next.Delete(anna.Name)
		time.Sleep(5 * time.Minute)
		s.lookup(anna.Name, lookup.AnswerAbsent, 1)
		s.next.Fail(down)
		s.check(login(anna), lookup.AnswerUnavailable, 1)
	})
}

// An absent answer is not stretched when the directory goes away.
func TestAbsentIsNeverStale(t *testing.T) {
	tell(t, cache.Options{NegativeTTL: 10 * time.Second}, func(s story) {
		s.lookup("nobody@example.test", lookup.AnswerAbsent, 1)
		s.next.Fail(down)
		s.lookup("nobody@example.test", lookup.AnswerAbsent, 0)
		time.Sleep(10 * time.Second)
		s.lookup("nobody@example.test", lookup.AnswerUnavailable, 1)
	})
}

func TestStaleWhileUnavailable(t *testing.T) {
	tell(t, cache.Options{TTL: time.Minute, StaleTTL: time.Hour}, func(s story) {
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		s.next.Fail(down)
		time.Sleep(time.Minute)
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		s.lookup(anna.Name, lookup.AnswerFound, 0) // backed off
		time.Sleep(time.Hour - 1)
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		time.Sleep(time.Second) // the back-off, and the end of StaleTTL
		s.lookup(anna.Name, lookup.AnswerUnavailable, 1)
		s.lookup(carla.Name, lookup.AnswerUnavailable, 1)
		if got := s.cache.Stats(); got.Stale != 3 || got.Hits != 0 {
			s.Errorf("got %+v, want 3 stale answers and no hit", got)
		}
	})
}

// With a directory that hangs, an old answer comes after Patience, and the
// question that goes on refreshes the memory.
func TestPatience(t *testing.T) {
	tell(t, cache.Options{TTL: time.Minute}, func(s story) {
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		time.Sleep(time.Minute)
		moved := anna
		moved.Home = "b9"
		s.next.Set(moved)
		s.next.Delay(5 * time.Second)
		start := time.Now()
		if a := s.lookup(anna.Name, lookup.AnswerFound, 1); a.Home != anna.Home || time.Since(start) != time.Second {
			s.Errorf("got home %s after %v, want the old one after a second", a.Home, time.Since(start))
		}
		time.Sleep(5 * time.Second)
		if a := s.lookup(anna.Name, lookup.AnswerFound, 0); a.Home != "b9" {
			s.Errorf("got home %s, want the new one from memory", a.Home)
		}

		// Nothing old to give: the caller waits for the directory's time-out.
		s.next.Delay(time.Hour)
		start = time.Now()
		s.lookup(carla.Name, lookup.AnswerUnavailable, 1)
		if took := time.Since(start); took != 10*time.Second {
			s.Errorf("gave up after %v, want 10s", took)
		}
	})
}

// A dead directory hears of a name once per BackOff, whoever asks how often.
func TestBackOff(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		s.next.Fail(down)
		for range 600 {
			_, err := s.cache.Lookup(s.Context(), anna.Name)
			s.want("lookup", err, lookup.AnswerUnavailable, 0, 0)
			_, err = s.cache.Check(s.Context(), login(anna))
			s.want("check", err, lookup.AnswerUnavailable, 0, 0)
			_, err = s.cache.Fresh(s.Context(), anna.Name)
			s.want("fresh", err, lookup.AnswerUnavailable, 0, 0)
			time.Sleep(100 * time.Millisecond)
		}
		if n := s.next.Asked(anna.Name); n > 61 {
			s.Errorf("%d questions in a minute, want one a second", n)
		}
		s.next.Fail(nil)
		time.Sleep(time.Second)
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		s.check(login(anna), lookup.AnswerFound, 1)
	})
}

func TestPasswordForItsTTL(t *testing.T) {
	tell(t, cache.Options{TTL: time.Hour, PasswordTTL: time.Minute}, func(s story) {
		s.check(login(anna), lookup.AnswerFound, 1)
		for range 5 {
			time.Sleep(12*time.Second - 1)
			s.check(login(anna), lookup.AnswerFound, 0)
		}
		// Use does not prolong it.
		time.Sleep(5 * time.Nanosecond)
		s.check(login(anna), lookup.AnswerFound, 1)

		// A lookup has not seen the password.
		s.lookup(carla.Name, lookup.AnswerFound, 1)
		s.check(login(carla), lookup.AnswerFound, 1)
	})
}

// What the directory's answer may depend on is part of the memory.
func TestPasswordIsForItsProtocolAndClient(t *testing.T) {
	other := login(anna)
	other.Client = netip.MustParseAddr("2001:db8::1")
	pop := login(anna)
	pop.Protocol = "pop3"
	tell(t, cache.Options{}, func(s story) {
		s.check(login(anna), lookup.AnswerFound, 1)
		s.check(pop, lookup.AnswerFound, 1)
		s.check(other, lookup.AnswerFound, 1)
		for _, c := range []lookup.Credentials{login(anna), pop, other} {
			s.check(c, lookup.AnswerFound, 0)
		}
	})
	tell(t, cache.Options{AnyClient: true}, func(s story) {
		s.check(login(anna), lookup.AnswerFound, 1)
		s.check(other, lookup.AnswerFound, 0)
		s.check(pop, lookup.AnswerFound, 1)
	})
}

func TestRejectedForTheSamePasswordOnly(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		wrong := login(anna)
		wrong.Password = "wrong"
		s.check(wrong, lookup.AnswerRejected, 1)
		s.check(wrong, lookup.AnswerRejected, 0)
		s.check(login(anna), lookup.AnswerFound, 1)
		s.check(login(anna), lookup.AnswerFound, 0)
		s.check(wrong, lookup.AnswerRejected, 0)
		time.Sleep(10 * time.Second)
		s.check(wrong, lookup.AnswerRejected, 1)
		s.check(login(anna), lookup.AnswerFound, 0)

		// The password changes: the old one is believed for PasswordTTL at
		// most, and once the directory says no it is not believed again, not
		// even when the directory goes away.
		changed := anna
		changed.Password = "new"
		s.next.Set(changed)
		s.check(login(changed), lookup.AnswerFound, 1)
		s.check(login(anna), lookup.AnswerFound, 0)
		time.Sleep(5 * time.Minute)
		s.check(login(anna), lookup.AnswerRejected, 1)
		s.next.Fail(down)
		time.Sleep(10 * time.Second)
		s.check(login(anna), lookup.AnswerUnavailable, 1)
		s.check(login(changed), lookup.AnswerFound, 0)
	})
}

// An unknown name is not refused sooner than a known one because a lookup
// has learnt that it is absent.
func TestCheckDoesNotTellWhoExists(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		s.lookup("nobody@example.test", lookup.AnswerAbsent, 1)
		s.check(lookup.Credentials{Name: "nobody@example.test", Password: "a"}, lookup.AnswerRejected, 1)
		s.check(lookup.Credentials{Name: "nobody@example.test", Password: "b"}, lookup.AnswerRejected, 1)
		s.lookup("nobody@example.test", lookup.AnswerAbsent, 0)
	})
}

func TestStaleLoginIsBounded(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		s.check(login(anna), lookup.AnswerFound, 1)
		s.next.Fail(down)
		time.Sleep(15*time.Minute - time.Second)
		s.check(login(anna), lookup.AnswerFound, 1)
		wrong := login(anna)
		wrong.Password = "wrong"
		s.check(wrong, lookup.AnswerUnavailable, 0)
		time.Sleep(time.Second)
		s.check(login(anna), lookup.AnswerUnavailable, 1)
		s.lookup(anna.Name, lookup.AnswerFound, 0) // it still routes
	})
}

func TestForget(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		s.check(login(anna), lookup.AnswerFound, 1)
		s.lookup(carla.Name, lookup.AnswerFound, 1)
		s.lookup("nobody@example.test", lookup.AnswerAbsent, 1)
		s.cache.Forget(anna.Name)
		s.cache.Forget("nobody@example.test")
		s.lookup(carla.Name, lookup.AnswerFound, 0)
		s.lookup("nobody@example.test", lookup.AnswerAbsent, 1)
		s.lookup(anna.Name, lookup.AnswerFound, 1)
		s.check(login(anna), lookup.AnswerFound, 1)
		s.cache.Purge()
		if got := s.cache.Stats(); got.Entries != 0 || got.Unknown != 0 {
			s.Errorf("got %+v after Purge", got)
		}
		s.lookup(carla.Name, lookup.AnswerFound, 1)
		s.next.Fail(down)
		s.cache.Forget(carla.Name)
		s.lookup(carla.Name, lookup.AnswerUnavailable, 1)
	})
}

// TestRemembered: what is remembered is told with its age, nothing is asked for
// it, and it is not kept longer for having been looked at.
func TestRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := lookuptest.NewScripted(lookuptest.Accounts()...)
		c := open(t, next, cache.Options{Jitter: -1, Entries: 2})
		if _, _, ok, err := c.Remembered(anna.Name); ok || err != nil {
			t.Errorf("never asked for: got %v, %v", ok, err)
		}
		asked := time.Now()
		c.Lookup(t.Context(), anna.Name)
		c.Lookup(t.Context(), "nobody@example.test")
		time.Sleep(5 * time.Second)
		account, since, ok, err := c.Remembered(anna.Name)
		if !ok || err != nil || account.Home != anna.Home || !since.Equal(asked) {
			t.Errorf("found: got %+v since %v, %v, %v; want since %v", account, since, ok, err, asked)
		}
		if _, since, ok, err := c.Remembered("nobody@example.test"); !ok || !errors.Is(err, lookup.ErrAbsent) || !since.Equal(asked) {
			t.Errorf("absent: got %v, %v, since %v", ok, err, since)
		}
		time.Sleep(6 * time.Second)
		if _, _, ok, _ := c.Remembered("nobody@example.test"); ok {
			t.Error("absent is remembered past its time")
		}
		if n := next.Lookups(); n != 2 {
			t.Errorf("%d questions", n)
		}
		// Two others push out anna, though she was looked at last.
		c.Lookup(t.Context(), carla.Name)
		c.Remembered(anna.Name)
		for _, r := range lookuptest.Accounts() {
			if r.Name != anna.Name && r.Name != carla.Name {
				c.Lookup(t.Context(), r.Name)
				break
			}
		}
		if _, _, ok, _ := c.Remembered(anna.Name); ok {
			t.Error("looking keeps an account in memory")
		}
		c.Purge()
		if _, _, ok, _ := c.Remembered(carla.Name); ok {
			t.Error("purged, and remembered")
		}
	})
}

// An answer that was under way when the name was forgotten is not remembered,
// and a question after it does not join the one before.
func TestForgetDuringAQuestion(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		release := s.next.Hold()
		before := make(chan error, 2)
		go func() {
			_, err := s.cache.Lookup(s.Context(), anna.Name)
			before <- err
		}()
		go func() {
			_, err := s.cache.Check(s.Context(), login(anna))
			before <- err
		}()
		synctest.Wait()
		s.cache.Forget(anna.Name)
		after := make(chan error)
		go func() {
			_, err := s.cache.Check(s.Context(), login(anna))
			after <- err
		}()
		synctest.Wait()
		if s.next.Checks() != 2 {
			s.Errorf("%d checks under way, want the one after Forget to be its own", s.next.Checks())
		}
		s.next.Hold() // whoever asks from here on hangs
		release()
		for range 2 {
			if err := <-before; err != nil {
				s.Errorf("before: got %v", err)
			}
		}
		if err := <-after; err != nil {
			s.Errorf("after: got %v", err)
		}
		s.cache.Forget(anna.Name)
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		if _, err := s.cache.Lookup(ctx, anna.Name); lookup.AnswerOf(err) != lookup.AnswerUnavailable {
			s.Errorf("got %v from memory, want a question", err)
		}
	})
}

func TestFresh(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		s.check(login(anna), lookup.AnswerFound, 1)
		moved := anna
		moved.Home, moved.Generation = "b9", 8
		s.next.Set(moved)
		if a := s.lookup(anna.Name, lookup.AnswerFound, 0); a.Home != anna.Home {
			s.Fatalf("the cache is not warm: %s", a.Home)
		}
		if a, err := s.cache.Fresh(s.Context(), anna.Name); err != nil || a.Home != "b9" {
			s.Errorf("got %s, %v, want b9", a.Home, err)
		}
		if a := s.lookup(anna.Name, lookup.AnswerFound, 0); a.Home != "b9" {
			s.Errorf("got %s from memory, want b9", a.Home)
		}
		// The password was not in question.
		if a := s.check(login(anna), lookup.AnswerFound, 0); a.Home != "b9" {
			s.Errorf("got %s from memory, want b9", a.Home)
		}
		// Without the directory there is no fresh answer, and the memory is
		// old from then on.
		s.next.Fail(down)
		if _, err := s.cache.Fresh(s.Context(), anna.Name); lookup.AnswerOf(err) != lookup.AnswerUnavailable {
			s.Errorf("got %v, want unavailable", err)
		}
		s.next.Fail(nil)
		time.Sleep(time.Second)
		s.lookup(anna.Name, lookup.AnswerFound, 1)
	})
}

// Callers of Fresh share a question only when it was asked after they came: of
// many, the first and one more ask.
func TestFreshIsSharedButNeverOld(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		// A plain question with the old answer is under way the whole time.
		releaseOld := s.next.Hold()
		old := make(chan struct{})
		go func() {
			s.cache.Lookup(s.Context(), anna.Name)
			close(old)
		}()
		synctest.Wait()
		release := s.next.Hold()
		answers := make(chan lookup.Account, 50)
		ask := func() {
			a, err := s.cache.Fresh(s.Context(), anna.Name)
			if err != nil {
				s.Error(err)
			}
			answers <- a
		}
		go ask()
		synctest.Wait()
		for range 49 {
			go ask()
		}
		synctest.Wait()
		release()
		for range 50 {
			<-answers
		}
		if n := s.next.Lookups(); n != 3 {
			s.Errorf("%d questions, want the plain one and two fresh ones", n)
		}
		moved := anna
		moved.Home = "b9"
		s.next.Set(moved)
		if _, err := s.cache.Fresh(s.Context(), anna.Name); err != nil {
			s.Error(err)
		}
		s.next.Set(anna) // what the slow question will bring: the old home
		releaseOld()
		<-old
		if a := s.lookup(anna.Name, lookup.AnswerFound, 0); a.Home != "b9" {
			s.Errorf("got %s: an older answer replaced the fresh one", a.Home)
		}
	})
}

// The first of those who wait goes away; the others get their answer, from one
// question.
func TestLeaverDoesNotPoisonTheFlight(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		for _, ask := range []func(context.Context) error{
			func(ctx context.Context) error { _, err := s.cache.Lookup(ctx, anna.Name); return err },
			func(ctx context.Context) error { _, err := s.cache.Check(ctx, login(carla)); return err },
		} {
			release := s.next.Hold()
			first, cancel := context.WithCancel(s.Context())
			gone := make(chan error)
			go func() { gone <- ask(first) }()
			synctest.Wait()
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if err := ask(s.Context()); err != nil {
						s.Errorf("got %v, want found", err)
					}
				})
			}
			synctest.Wait()
			cancel()
			if err := <-gone; !errors.Is(err, lookup.ErrUnavailable) || !errors.Is(err, context.Canceled) {
				s.Errorf("the leaver got %v, want unavailable", err)
			}
			release()
			wg.Wait()
		}
		if s.next.Lookups() != 1 || s.next.Checks() != 1 {
			s.Errorf("%d lookups and %d checks, want one each", s.next.Lookups(), s.next.Checks())
		}
		if got := s.cache.Stats(); got.Shared != 40 || got.Misses != 2 {
			s.Errorf("got %+v, want 40 shared and 2 misses", got)
		}
	})
}

// Different passwords at the same time never share an answer.
func TestChecksOfDifferentPasswordsAreApart(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		release := s.next.Hold()
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				c, want := login(anna), lookup.AnswerFound
				if i%2 == 1 {
					c.Password, want = fmt.Sprint("wrong", i), lookup.AnswerRejected
				}
				_, err := s.cache.Check(s.Context(), c)
				s.want("check", err, want, 0, 0)
			})
		}
		synctest.Wait()
		release()
		wg.Wait()
		if s.next.Checks() != 6 {
			s.Errorf("%d checks, want 6", s.next.Checks())
		}
	})
}

func TestGuessedNamesDoNotPushOutAccounts(t *testing.T) {
	tell(t, cache.Options{Entries: 40}, func(s story) {
		for _, r := range lookuptest.Accounts() {
			s.lookup(r.Name, lookup.AnswerFound, 1)
		}
		for i := range 1000 {
			name := fmt.Sprintf("guess%d@example.test", i)
			s.lookup(name, lookup.AnswerAbsent, 1)
			s.check(lookup.Credentials{Name: name, Password: "x"}, lookup.AnswerRejected, 1)
		}
		for _, name := range lookuptest.HostileNames() {
			s.lookup(name, lookup.AnswerAbsent, 1)
		}
		for _, r := range lookuptest.Accounts() {
			s.lookup(r.Name, lookup.AnswerFound, 0)
		}
		if got := s.cache.Stats(); got.Unknown != 10 || got.Entries != len(lookuptest.Accounts()) {
			s.Errorf("got %+v, want 10 unknown names beside the accounts", got)
		}
	})
}

func TestEntriesAreBounded(t *testing.T) {
	tell(t, cache.Options{Entries: 3}, func(s story) {
		for _, r := range lookuptest.Accounts() {
			s.lookup(r.Name, lookup.AnswerFound, 1)
		}
		if got := s.cache.Stats(); got.Entries != 3 {
			s.Errorf("got %+v, want 3 entries", got)
		}
		long := strings.Repeat("x", 321)
		s.lookup(long, lookup.AnswerAbsent, 1)
		s.lookup(long, lookup.AnswerAbsent, 1) // too long to be remembered
	})
}

// What was learnt together does not expire together, and never after its TTL.
func TestJitter(t *testing.T) {
	tell(t, cache.Options{TTL: 100 * time.Second, Jitter: 0.5}, func(s story) {
		const n = 400
		for i := range n {
			name := fmt.Sprintf("user%d@example.test", i)
			s.next.Set(lookuptest.Record{Account: lookup.Account{Name: name}})
			s.lookup(name, lookup.AnswerFound, 1)
		}
		expired := func(after time.Duration) int {
			time.Sleep(after)
			before := s.next.Lookups()
			for i := range n {
				if _, err := s.cache.Lookup(s.Context(), fmt.Sprintf("user%d@example.test", i)); err != nil {
					s.Error(err)
				}
			}
			return s.next.Lookups() - before
		}
		if got := expired(50*time.Second - 1); got != 0 {
			s.Errorf("%d expired before half of the TTL", got)
		}
		if got := expired(25 * time.Second); got < n/4 || got > 3*n/4 {
			s.Errorf("%d of %d expired at three quarters of the TTL, want about half", got, n)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := lookuptest.NewScripted(lookuptest.Accounts()...)
		c, err := cache.New(next, cache.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Lookup(t.Context(), carla.Name); err != nil {
			t.Fatal(err)
		}
		next.Hold()
		answer := make(chan error)
		go func() {
			_, err := c.Lookup(t.Context(), anna.Name)
			answer <- err
		}()
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-answer; !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("got %v under way at Close, want unavailable", err)
		}
		time.Sleep(time.Second)
		if _, err := c.Lookup(t.Context(), anna.Name); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("got %v after Close, want unavailable", err)
		}
		if _, err := c.Lookup(t.Context(), carla.Name); err != nil {
			t.Errorf("got %v from memory after Close", err)
		}
		if next.Lookups() != 2 {
			t.Errorf("%d questions, want none after Close", next.Lookups())
		}
	})
}

// broken answers what no directory should.
type broken struct{ err error }

func (b broken) Lookup(context.Context, string) (lookup.Account, error) { return b.answer() }
func (b broken) Check(context.Context, lookup.Credentials) (lookup.Account, error) {
	return b.answer()
}
func (b broken) answer() (lookup.Account, error) {
	if b.err == nil {
		panic("a bug in the directory")
	}
	return lookup.Account{}, b.err
}

func TestBrokenDirectories(t *testing.T) {
	for name, c := range map[string]struct {
		err           error
		lookup, check lookup.Answer
	}{
		"panics":            {nil, lookup.AnswerUnavailable, lookup.AnswerUnavailable},
		"unknown error":     {errors.New("?"), lookup.AnswerUnavailable, lookup.AnswerUnavailable},
		"always rejects":    {lookup.ErrRejected, lookup.AnswerUnavailable, lookup.AnswerRejected},
		"absent from Check": {lookup.ErrAbsent, lookup.AnswerAbsent, lookup.AnswerRejected},
	} {
		d := open(t, broken{c.err}, cache.Options{BackOff: -1})
		_, err := d.Lookup(t.Context(), anna.Name)
		if got := lookup.AnswerOf(err); got != c.lookup {
			t.Errorf("%s: lookup: got %v (%v), want %v", name, got, err, c.lookup)
		}
		_, err = d.Check(t.Context(), login(anna))
		if got := lookup.AnswerOf(err); got != c.check {
			t.Errorf("%s: check: got %v (%v), want %v", name, got, err, c.check)
		}
	}
}

// A remembered password does not make the account older than its TTL: who was
// suspended meanwhile is seen to be.
func TestRememberedPasswordWithAnOldAccount(t *testing.T) {
	tell(t, cache.Options{TTL: time.Minute, PasswordTTL: time.Hour}, func(s story) {
		s.check(login(anna), lookup.AnswerFound, 1)
		suspended := anna
		suspended.Status = lookup.StatusSuspended
		s.next.Set(suspended)
		time.Sleep(time.Minute)
		if a := s.check(login(anna), lookup.AnswerFound, 1); a.Status != lookup.StatusSuspended {
			s.Errorf("got status %q after the account's TTL", a.Status)
		}
	})
}
