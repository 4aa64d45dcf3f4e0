package lookuptest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
)

func TestScriptedKeepsContract(t *testing.T) {
	var current *strict
	lookuptest.Run(t, lookuptest.Fixture{
		Open: func(*testing.T) lookup.Directory {
			current = &strict{Scripted: lookuptest.NewScripted(lookuptest.Accounts()...), timeout: time.Second}
			return current
		},
		Break:   func(*testing.T) { current.Fail(lookup.Unavailable("script", nil)) },
		Hang:    func(*testing.T) { current.Delay(time.Hour) },
		Mend:    func(*testing.T) { current.Fail(nil); current.Delay(0) },
		Timeout: time.Second,
	})
}

// strict adds to Scripted what the contract asks of a real directory: a
// time-out of its own and an answer to empty passwords without a question.
type strict struct {
	*lookuptest.Scripted
	timeout time.Duration
}

func (s *strict) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.Scripted.Lookup(ctx, name)
}

func (s *strict) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	if c.Password == "" {
		return lookup.Account{}, lookup.ErrRejected
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.Scripted.Check(ctx, c)
}

func TestAccountsAreClean(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range lookuptest.Accounts() {
		clean, err := lookup.CleanName(r.Stored, "")
		if err != nil || clean != r.Name {
			t.Errorf("%s stored as %s: clean is %q, %v", r.Name, r.Stored, clean, err)
		}
		if seen[r.Name] {
			t.Errorf("%s twice", r.Name)
		}
		seen[r.Name] = true
		if r.Password == "" {
			t.Errorf("%s has no password", r.Name)
		}
	}
	for what, name := range lookuptest.HostileNames() {
		if seen[name] {
			t.Errorf("the hostile name %s is an account", what)
		}
	}
}

func TestScriptedHoldAndDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		anna := lookuptest.Account("anna@example.test")
		s := lookuptest.NewScripted(anna)
		release := s.Hold()
		done := make(chan error)
		go func() {
			_, err := s.Lookup(t.Context(), anna.Name)
			done <- err
		}()
		if err := s.WaitHeld(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		s.Delete(anna.Name)
		release()
		if err := <-done; !errors.Is(err, lookup.ErrAbsent) {
			t.Errorf("got %v, want the answer as it is after the hold", err)
		}

		s.Set(anna)
		s.Delay(time.Minute)
		start := time.Now()
		if _, err := s.Lookup(t.Context(), anna.Name); err != nil || time.Since(start) != time.Minute {
			t.Errorf("got %v after %v, want found after a minute", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Lookup(ctx, anna.Name); lookup.AnswerOf(err) != lookup.AnswerUnavailable {
			t.Errorf("got %v, want unavailable at the deadline", err)
		}
		s.Delay(0)
		s.FailName(anna.Name, lookup.Unavailable("script", nil))
		if _, err := s.Lookup(t.Context(), anna.Name); lookup.AnswerOf(err) != lookup.AnswerUnavailable {
			t.Errorf("got %v, want unavailable", err)
		}
		if s.Lookups() != 4 || s.Checks() != 0 || s.Asked(anna.Name) != 4 {
			t.Errorf("counted %d, %d, %d", s.Lookups(), s.Checks(), s.Asked(anna.Name))
		}
	})
}

func TestFaultyKeepsContract(t *testing.T) {
	for name, take := range map[string]func(*lookuptest.Faulty){
		"stops": (*lookuptest.Faulty).Stop,
		"slow":  func(f *lookuptest.Faulty) { f.Slow(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var current *lookuptest.Faulty
			lookuptest.Run(t, lookuptest.Fixture{
				Open: func(*testing.T) lookup.Directory {
					current = lookuptest.NewFaulty(lookuptest.NewScripted(lookuptest.Accounts()...), time.Second)
					return current
				},
				Break:   func(*testing.T) { take(current) },
				Hang:    func(*testing.T) { current.Hang() },
				Mend:    func(*testing.T) { current.Mend() },
				Timeout: time.Second,
			})
		})
	}
}

func TestStumble(t *testing.T) {
	f := lookuptest.NewFaulty(lookuptest.NewScripted(lookuptest.Accounts()...), time.Second)
	f.Stumble(3)
	unavailable := 0
	for range 30 {
		if _, err := f.Lookup(t.Context(), "anna@example.test"); lookup.AnswerOf(err) == lookup.AnswerUnavailable {
			unavailable++
		}
	}
	if unavailable != 10 {
		t.Errorf("%d of 30 were unavailable, want 10", unavailable)
	}
}

func TestManyHostileNames(t *testing.T) {
	lookuptest.RunHostile(t, func(*testing.T) lookup.Directory { return lookuptest.NewScripted(lookuptest.Accounts()...) })
	big := 0
	for name := range lookuptest.ManyHostileNames(10_000) {
		if len(name) >= 1<<20 {
			big++
		}
	}
	if big != 5 {
		t.Errorf("%d names of a megabyte, want 5", big)
	}
}
