package lookuptest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/cache"
)

// Row is a directory in the matrix that RunAll goes through.
type Row struct {
	// Open makes a directory that holds Accounts and nothing else, and returns
	// what can spoil the way between it and what it asks; nil faults for a
	// directory that asks nothing. The directory waits for an answer for
	// timeout. Open is called many times, by tests that run side by side, and
	// each call gives another directory and other faults. What it starts ends
	// with t.Cleanup.
	Open func(t *testing.T, timeout time.Duration) (lookup.Directory, Faults)

	// Unprotected says that nothing on the way would notice a byte that
	// changes: neither TLS nor a sum. Then nothing is garbled, since no
	// directory can tell such an answer from a right one.
	Unprotected bool
}

// Faults are what can happen between a directory and what it asks. Each takes
// the place of the one before. Wire has them all.
type Faults interface {
	Stop()
	Hang()
	Slow(d time.Duration)
	Truncate(n int) // at different places for different n
	Garble(nth int) // likewise
	Mend(t testing.TB)
}

const (
	// hangTime is the directory's own time-out where a test waits for it.
	hangTime = 2 * time.Second

	// spoilTime is that of the directories whose answers are spoilt.
	spoilTime = 400 * time.Millisecond

	// calm is the time-out of all others: none passes on a busy machine.
	calm = 20 * time.Second
)

// RunAll holds a directory against the contract in every setting: bare and
// behind a cache; left alone, and with faults that stop, hang, slow, truncate
// and garble. A directory that asks nothing gets an injector in front of it.
func RunAll(t *testing.T, row Row) {
	t.Helper()
	for _, cached := range []bool{false, true} {
		name := "bare"
		if cached {
			name = "cached"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("contract", func(t *testing.T) {
				t.Parallel()
				var now Faults
				Run(t, Fixture{
					Open: func(t *testing.T) lookup.Directory {
						timeout := calm
						if strings.HasSuffix(t.Name(), "/hanging") {
							timeout = hangTime
						}
						var d lookup.Directory
						d, now = row.open(t, timeout, cached)
						return d
					},
					Break:   func(*testing.T) { now.Stop() },
					Hang:    func(*testing.T) { now.Hang() },
					Mend:    func(t *testing.T) { now.Mend(t) },
					Timeout: hangTime,
				})
			})
			for _, fault := range row.spoils() {
				t.Run(fault.name, func(t *testing.T) {
					t.Parallel()
					row.spoil(t, cached, fault)
				})
			}
		})
	}
}

// open makes a directory with faults before it, and a cache before that.
func (row Row) open(t *testing.T, timeout time.Duration, cached bool) (lookup.Directory, Faults) {
	t.Helper()
	d, faults := row.Open(t, timeout)
	if faults == nil {
		f := NewFaulty(d, timeout)
		d, faults = f, lost{f}
	}
	if !cached {
		return d, faults
	}
	c, err := cache.New(d, cache.Options{Timeout: timeout, Patience: 10 * time.Millisecond, BackOff: 30 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, faults
}

// lost are the faults of a directory that asks nothing: it has no bytes to cut
// or to garble, so answers are lost instead.
type lost struct{ *Faulty }

func (l lost) Truncate(n int)  { l.Stumble(2 + n%3) }
func (l lost) Garble(nth int)  { l.Stumble(2 + nth%3) }
func (l lost) Mend(testing.TB) { l.Faulty.Mend() }

// spoilt is a fault that comes in many degrees.
type spoilt struct {
	name  string
	steps int
	at    func(f Faults, step int)
}

func (row Row) spoils() []spoilt {
	all := []spoilt{
		{"slow", 5, func(f Faults, step int) { f.Slow(time.Duration(step) * spoilTime * 3 / 10) }},
		// Within the greeting, at the first answer, at later ones.
		{"truncated", 9, func(f Faults, step int) { f.Truncate(1 + step*step*13) }},
	}
	if !row.Unprotected {
		all = append(all, spoilt{"garbled", 9, func(f Faults, step int) { f.Garble(7 + step*97) }})
	}
	return all
}

// spoil asks under a fault of growing degree. An answer is the right one or
// unavailable, and the directory recovers.
func (row Row) spoil(t *testing.T, cached bool, fault spoilt) {
	if testing.Short() {
		fault.steps = 3
	}
	for step := range fault.steps {
		// A subtest, so that each step's directory ends with it.
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			d, faults := row.open(t, spoilTime, cached)
			fault.at(faults, step)
			rightOrUnavailable(t, d)
			// With connections that were made before.
			faults.Mend(t)
			eventuallyFound(t, d, Account("carla@example.test"))
			fault.at(faults, step)
			rightOrUnavailable(t, d)
			faults.Mend(t)
			eventuallyFound(t, d, Account("berta@example.test"))
		})
	}
}

// rightOrUnavailable asks at the same time for everything that could be
// answered wrongly.
func rightOrUnavailable(t *testing.T, d lookup.Directory) {
	t.Helper()
	anna := Account("anna@example.test")
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			a, err := d.Lookup(t.Context(), anna.Name)
			wantOneOf(t, "lookup", err, lookup.AnswerFound, lookup.AnswerUnavailable)
			if diff := Diff(anna.Account, a); err == nil && diff != "" {
				t.Errorf("lookup: account (-want +got):\n%s", diff)
			}
		})
		wg.Go(func() {
			a, err := d.Check(t.Context(), anna.credentials(anna.Password))
			wantOneOf(t, "check", err, lookup.AnswerFound, lookup.AnswerUnavailable)
			if diff := Diff(anna.Account, a); err == nil && diff != "" {
				t.Errorf("check: account (-want +got):\n%s", diff)
			}
		})
		wg.Go(func() {
			_, err := d.Check(t.Context(), anna.credentials("wrong"))
			wantOneOf(t, "check of a wrong password", err, lookup.AnswerRejected, lookup.AnswerUnavailable)
		})
		wg.Go(func() {
			_, err := d.Lookup(t.Context(), "nobody@example.test")
			wantOneOf(t, "lookup of nobody", err, lookup.AnswerAbsent, lookup.AnswerUnavailable)
		})
		wg.Go(func() {
			_, err := d.Check(t.Context(), lookup.Credentials{Name: "nobody@example.test", Password: anna.Password})
			wantOneOf(t, "check of nobody", err, lookup.AnswerRejected, lookup.AnswerUnavailable)
		})
	}
	wg.Wait()
}
