package lookuptest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"switchyard/lookup"
)

// Fixture tells the suite how to make a directory, and how to take it away.
type Fixture struct {
	// Open makes a directory that holds Accounts and nothing else. It is
	// called several times, and each call must give one that has not been
	// asked anything yet. What it starts ends with t.Cleanup.
	Open func(t *testing.T) lookup.Directory

	// Break stops what the last opened directory asks: connections are
	// refused or closed. Hang leaves it there, accepting and never
	// answering. Mend undoes either. Nil Break or Hang leaves those checks
	// out, for a directory that depends on nothing; with either of them Mend
	// is needed.
	Break func(t *testing.T)
	Hang  func(t *testing.T)
	Mend  func(t *testing.T)

	// Timeout is how long the directory waits for an answer on its own
	// account, without a deadline in the context. Zero means 2 seconds.
	// Fixtures set their directory's time-outs low, so that the suite is
	// quick.
	Timeout time.Duration
}

const (
	// grace is added to every time bound, for busy machines.
	grace = 5 * time.Second

	// quick is how soon a question whose context has ended is answered.
	quick = time.Second

	// recovery is how soon a mended directory answers again.
	recovery = 20 * time.Second
)

// Run holds a directory against the contract of lookup.Directory.
func Run(t *testing.T, f Fixture) {
	t.Helper()
	if f.Timeout == 0 {
		f.Timeout = 2 * time.Second
	}
	t.Run("lookup", func(t *testing.T) { testLookup(t, f.Open(t)) })
	t.Run("check", func(t *testing.T) { testCheck(t, f.Open(t)) })
	t.Run("case", func(t *testing.T) { testCase(t, f.Open(t)) })
	t.Run("hostile names", func(t *testing.T) { testHostileNames(t, f.Open(t)) })
	t.Run("hostile passwords", func(t *testing.T) { testHostilePasswords(t, f.Open(t)) })
	t.Run("ended contexts", func(t *testing.T) { testEndedContexts(t, f.Open(t)) })
	t.Run("concurrent", func(t *testing.T) { testConcurrent(t, f.Open(t)) })
	if f.Break != nil {
		t.Run("broken", func(t *testing.T) { testTakenAway(t, f, f.Break) })
	}
	if f.Hang != nil {
		t.Run("hanging", func(t *testing.T) {
			testTakenAway(t, f, f.Hang)
			testHangingDeadline(t, f)
		})
	}
}

// Diff compares an account that a directory returned with what was wanted.
// Free attributes beyond the wanted ones are allowed; their labels must be in
// lower case.
func Diff(want, got lookup.Account) string {
	kept := make(map[string]string)
	for label, value := range got.Attributes {
		if label != strings.ToLower(label) {
			return fmt.Sprintf("attribute label %q is not in lower case", label)
		}
		if _, wanted := want.Attributes[label]; wanted {
			kept[label] = value
		}
	}
	got.Attributes = kept
	inAnyOrder := cmpopts.SortSlices(func(a, b string) bool { return a < b }) // Forwards are a set
	return cmp.Diff(want, got, cmpopts.EquateEmpty(), inAnyOrder)
}

func testLookup(t *testing.T, d lookup.Directory) {
	for _, r := range Accounts() {
		wantFound(t, d, r)
	}
	for _, name := range []string{"nobody@example.test", "anna@nowhere.test", "anna", "example.test", "ann@example.test", "anna@example.tes"} {
		wantLookup(t, d, name, lookup.AnswerAbsent)
	}
}

func testCheck(t *testing.T, d lookup.Directory) {
	for _, r := range Accounts() {
		got, err := d.Check(t.Context(), r.credentials(r.Password))
		if err != nil {
			t.Errorf("check %s: got %v, want found", r.Name, err)
			continue
		}
		if diff := Diff(r.Account, got); diff != "" {
			t.Errorf("check %s: account (-want +got):\n%s", r.Name, diff)
		}
		wantCheck(t, d, r.credentials(r.Password+"x"), lookup.AnswerRejected)
		// RFC 4513 §5.1.2: an empty password is an anonymous bind, which
		// succeeds. It must never get that far.
		wantCheck(t, d, r.credentials(""), lookup.AnswerRejected)
	}
	anna := Account("anna@example.test")
	wantCheck(t, d, anna.credentials(Account("anna@example.org").Password), lookup.AnswerRejected)
	wantCheck(t, d, lookup.Credentials{Name: "nobody@example.test", Password: anna.Password}, lookup.AnswerRejected)
	wantCheck(t, d, lookup.Credentials{Name: "nobody@example.test"}, lookup.AnswerRejected)
	wantFound(t, d, anna)
}

// testCase: the directory's data may be in any case, the names asked for are
// clean, and so are the answers.
func testCase(t *testing.T, d lookup.Directory) {
	for _, typed := range []string{"Carla@Example.TEST", "CARLA@EXAMPLE.TEST", "JÖRG@Example.Test"} {
		name, err := lookup.CleanName(typed, "")
		if err != nil {
			t.Fatal(err)
		}
		r := Account(name)
		wantFound(t, d, r)
		wantCheck(t, d, r.credentials(r.Password), lookup.AnswerFound)
		wantCheck(t, d, r.credentials(strings.ToUpper(r.Password)), lookup.AnswerRejected)
	}
}

func testHostileNames(t *testing.T, d lookup.Directory) {
	anna := Account("anna@example.test")
	for what, name := range HostileNames() {
		if got, err := d.Lookup(t.Context(), name); lookup.AnswerOf(err) != lookup.AnswerAbsent {
			t.Errorf("lookup of a hostile name (%s): got %s, %v, want absent", what, got.Name, err)
		}
		c := lookup.Credentials{Name: name, Password: anna.Password}
		if got, err := d.Check(t.Context(), c); lookup.AnswerOf(err) != lookup.AnswerRejected {
			t.Errorf("check of a hostile name (%s): got %s, %v, want rejected", what, got.Name, err)
		}
		if !stillRight(t, d, "name", what) {
			return
		}
	}
}

// testHostilePasswords: a password that the directory's grammar cannot carry
// is nobody's there, so the answer is no. Unavailable would be wrong too: a
// cache that spares a sick directory would then refuse the account's owner
// after anyone's bad guess.
func testHostilePasswords(t *testing.T, d lookup.Directory) {
	anna := Account("anna@example.test")
	for what, password := range HostilePasswords() {
		if _, err := d.Check(t.Context(), anna.credentials(password)); lookup.AnswerOf(err) != lookup.AnswerRejected {
			t.Errorf("check with a hostile password (%s): got %v, want rejected", what, err)
		}
		if !stillRight(t, d, "password", what) {
			return
		}
	}
}

// stillRight asks what has nothing to do with the hostile question before: a
// dialogue that lost its step gives the answer to another question here.
func stillRight(t *testing.T, d lookup.Directory, kind, what string) bool {
	t.Helper()
	carla := Account("carla@example.test")
	got, err := d.Lookup(t.Context(), carla.Name)
	if err != nil || Diff(carla.Account, got) != "" {
		t.Errorf("lookup after a hostile %s (%s): got %+v, %v, want %s", kind, what, got, err, carla.Name)
		return false
	}
	got, err = d.Check(t.Context(), carla.credentials(carla.Password))
	if err != nil || Diff(carla.Account, got) != "" {
		t.Errorf("check after a hostile %s (%s): got %+v, %v, want %s", kind, what, got, err, carla.Name)
		return false
	}
	return true
}

// testEndedContexts: a question whose context has ended is answered soon,
// with the right answer or with unavailable, and leaves the directory well.
func testEndedContexts(t *testing.T, d lookup.Directory) {
	anna := Account("anna@example.test")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	passed, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	for what, ctx := range map[string]context.Context{"cancelled": cancelled, "past its deadline": passed} {
		soon(t, what, quick, func() {
			_, err := d.Lookup(ctx, anna.Name)
			wantOneOf(t, "lookup, context "+what, err, lookup.AnswerFound, lookup.AnswerUnavailable)
			_, err = d.Check(ctx, anna.credentials(anna.Password))
			wantOneOf(t, "check, context "+what, err, lookup.AnswerFound, lookup.AnswerUnavailable)
			_, err = d.Check(ctx, anna.credentials("wrong"))
			wantOneOf(t, "check of a wrong password, context "+what, err, lookup.AnswerRejected, lookup.AnswerUnavailable)
			_, err = d.Lookup(ctx, "nobody@example.test")
			wantOneOf(t, "lookup of nobody, context "+what, err, lookup.AnswerAbsent, lookup.AnswerUnavailable)
		})
	}
	// Contexts that end at any moment of a question, many at a time.
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*20*time.Microsecond)
			defer cancel()
			_, err := d.Lookup(ctx, anna.Name)
			wantOneOf(t, "lookup, context ending soon", err, lookup.AnswerFound, lookup.AnswerUnavailable)
			_, err = d.Check(ctx, anna.credentials(anna.Password))
			wantOneOf(t, "check, context ending soon", err, lookup.AnswerFound, lookup.AnswerUnavailable)
		})
	}
	wg.Wait()
	eventuallyFound(t, d, Account("berta@example.test"))
	eventuallyFound(t, d, anna)
}

func testConcurrent(t *testing.T, d lookup.Directory) {
	const callers, rounds = 32, 12
	records := Accounts()
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for round := range rounds {
				r := records[(caller+round)%len(records)]
				switch (caller + round/2) % 4 {
				case 0, 1:
					wantFound(t, d, r)
				case 2:
					wantCheck(t, d, r.credentials(r.Password), lookup.AnswerFound)
					wantLookup(t, d, fmt.Sprintf("nobody%d@example.test", caller), lookup.AnswerAbsent)
				case 3:
					wantCheck(t, d, r.credentials("wrong"), lookup.AnswerRejected)
				}
			}
		})
	}
	wg.Wait()
}

// testTakenAway: without what it asks, a directory says unavailable. One that
// remembers may also give the right answer to what it was asked before. It
// never says absent or rejected, and it recovers by itself.
func testTakenAway(t *testing.T, f Fixture, take func(*testing.T)) {
	d := f.Open(t)
	known, other := Account("anna@example.test"), Account("carla@example.test")
	wantFound(t, d, known)
	wantCheck(t, d, known.credentials(known.Password), lookup.AnswerFound)
	take(t)
	questions := []func(){
		func() {
			got, err := d.Lookup(t.Context(), known.Name)
			wantOneOf(t, "lookup of a known account", err, lookup.AnswerFound, lookup.AnswerUnavailable)
			if diff := Diff(known.Account, got); err == nil && diff != "" {
				t.Errorf("lookup of a known account (-want +got):\n%s", diff)
			}
		},
		func() {
			_, err := d.Check(t.Context(), known.credentials(known.Password))
			wantOneOf(t, "check of a known account", err, lookup.AnswerFound, lookup.AnswerUnavailable)
		},
		func() { wantCheck(t, d, known.credentials("wrong"), lookup.AnswerUnavailable) },
		func() { wantLookup(t, d, other.Name, lookup.AnswerUnavailable) },
		func() { wantCheck(t, d, other.credentials(other.Password), lookup.AnswerUnavailable) },
		func() { wantCheck(t, d, other.credentials("wrong"), lookup.AnswerUnavailable) },
		func() { wantLookup(t, d, "nobody@example.test", lookup.AnswerUnavailable) },
		func() {
			wantCheck(t, d, lookup.Credentials{Name: "nobody@example.test", Password: "x"}, lookup.AnswerUnavailable)
		},
	}
	for range 2 {
		// All at once: with a directory that hangs, each takes its time-out.
		soon(t, "taken away", 4*f.Timeout, func() {
			var wg sync.WaitGroup
			for _, ask := range questions {
				wg.Go(ask)
			}
			wg.Wait()
		})
		// What needs no question is known without the directory.
		wantCheck(t, d, known.credentials(""), lookup.AnswerRejected)
	}
	f.Mend(t)
	eventuallyFound(t, d, other)
	eventuallyFound(t, d, known)
	for _, c := range []struct {
		password string
		want     lookup.Answer
	}{{other.Password, lookup.AnswerFound}, {"wrong", lookup.AnswerRejected}} {
		eventually(t, "check after mending", func() error {
			_, err := d.Check(t.Context(), other.credentials(c.password))
			if got := lookup.AnswerOf(err); got != c.want {
				return fmt.Errorf("got %v (%w), want %v", got, err, c.want)
			}
			return nil
		})
	}
}

// testHangingDeadline: with a directory that never answers, the caller's own
// deadline holds.
func testHangingDeadline(t *testing.T, f Fixture) {
	d := f.Open(t)
	f.Hang(t)
	defer f.Mend(t)
	r := Account("berta@example.test")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			soon(t, "deadline of 20 ms", quick, func() {
				_, err := d.Lookup(ctx, r.Name)
				wantOneOf(t, "lookup with a deadline", err, lookup.AnswerUnavailable)
				_, err = d.Check(ctx, r.credentials(r.Password))
				wantOneOf(t, "check with a deadline", err, lookup.AnswerUnavailable)
			})
		})
	}
	wg.Wait()
}

func (r Record) credentials(password string) lookup.Credentials {
	return lookup.Credentials{Name: r.Name, Password: password, Protocol: "imap"}
}

func wantFound(t *testing.T, d lookup.Directory, r Record) {
	t.Helper()
	got, err := d.Lookup(t.Context(), r.Name)
	if err != nil {
		t.Errorf("lookup %s: got %v, want found", r.Name, err)
		return
	}
	if diff := Diff(r.Account, got); diff != "" {
		t.Errorf("lookup %s: account (-want +got):\n%s", r.Name, diff)
	}
}

func wantLookup(t *testing.T, d lookup.Directory, name string, want lookup.Answer) {
	t.Helper()
	_, err := d.Lookup(t.Context(), name)
	wantOneOf(t, "lookup "+name, err, want)
}

func wantCheck(t *testing.T, d lookup.Directory, c lookup.Credentials, want lookup.Answer) {
	t.Helper()
	_, err := d.Check(t.Context(), c)
	wantOneOf(t, fmt.Sprintf("check %s with a password of %d bytes", c.Name, len(c.Password)), err, want)
}

func wantOneOf(t *testing.T, what string, err error, want ...lookup.Answer) {
	t.Helper()
	got := lookup.AnswerOf(err)
	for _, w := range want {
		if got == w {
			return
		}
	}
	t.Errorf("%s: got %v (%v), want %v", what, got, err, want)
}

// soon runs f and complains when it took longer than limit and grace.
func soon(t *testing.T, what string, limit time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > limit+grace {
		t.Errorf("%s: answered after %v, want %v at most", what, took, limit)
	}
}

func eventuallyFound(t *testing.T, d lookup.Directory, r Record) {
	t.Helper()
	eventually(t, "lookup "+r.Name, func() error {
		_, err := d.Lookup(t.Context(), r.Name)
		if a := lookup.AnswerOf(err); a == lookup.AnswerAbsent || a == lookup.AnswerRejected {
			t.Fatalf("lookup %s: got %v on the way to found", r.Name, a)
		}
		return err
	})
}

// eventually repeats f until it is content or the time for a recovery is over.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(recovery)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: after %v still: %v", what, recovery, err)
		}
		<-tick.C
	}
}
