package cache_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/cache"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/resolve"
)

// outage is a site in fake time: users who log in each minute, mail for them
// and for aliases, and mail for names that were never asked for.
type outage struct {
	*testing.T
	faults  *lookuptest.Faulty
	peak    *peak
	cache   *cache.Cache
	resolve *resolve.Resolver
	users   []lookuptest.Record
	wg      sync.WaitGroup
}

const (
	outageUsers    = 60
	outageUnknown  = 20
	outageSlots    = 16
	outageQuestion = 5 * time.Millisecond
)

func newOutage(t *testing.T) *outage {
	t.Helper()
	next := lookuptest.NewScripted()
	o := &outage{T: t, peak: newPeak(next, outageQuestion)}
	for i := range outageUsers {
		r := lookuptest.Record{Account: lookup.Account{Name: fmt.Sprintf("user%d@example.test", i), Home: fmt.Sprint("b", i%3+1)}, Password: fmt.Sprint("p", i)}
		next.Set(r)
		o.users = append(o.users, r)
		next.Set(lookuptest.Record{Account: lookup.Account{
			Name: fmt.Sprintf("alias%d@example.test", i), Attributes: map[string]string{"alias": r.Name},
		}})
		// Accounts that nobody asks for before the outage.
		next.Set(lookuptest.Record{Account: lookup.Account{Name: fmt.Sprintf("stranger%d@example.test", i), Home: "b1"}, Password: "p"})
	}
	o.faults = lookuptest.NewFaulty(o.peak, time.Hour)
	o.cache = open(t, o.faults, cache.Options{MaxQuestions: outageSlots})
	var err error
	if o.resolve, err = resolve.New(o.cache, resolve.Options{Domains: []string{"example.test"}}); err != nil {
		t.Fatal(err)
	}
	return o
}

// second is what happens in one of them. Mail for strangers and nobody comes
// only while away; then it must be put off.
func (o *outage) second(s int, away bool) {
	for i, r := range o.users {
		if (s+i)%60 == 0 {
			o.wg.Go(func() {
				a, err := o.cache.Check(o.Context(), login(r))
				if err != nil || a.Home != r.Home {
					o.Errorf("second %d: login of %s: got home %q, %v", s, r.Name, a.Home, err)
				}
			})
		}
		if (s+i)%20 == 0 {
			o.wg.Go(func() { o.deliver(s, r.Name, r) })
			o.wg.Go(func() { o.deliver(s, fmt.Sprintf("Alias%d@example.test", i), r) })
			// That nobody has this very name is known for NegativeTTL only.
			if detail := fmt.Sprintf("alias%d+x@example.test", i); !away {
				o.wg.Go(func() { o.deliver(s, detail, r) })
			} else {
				o.wg.Go(func() {
					if _, err := o.resolve.Resolve(o.Context(), detail); lookup.AnswerOf(err) == lookup.AnswerAbsent {
						o.Errorf("second %d: %s is absent", s, detail)
					}
				})
			}
		}
	}
	if !away {
		return
	}
	for i := range outageUnknown {
		for _, name := range []string{fmt.Sprintf("stranger%d@example.test", i), fmt.Sprintf("nobody%d@example.test", i)} {
			if (s+i)%10 != 0 {
				continue
			}
			o.wg.Go(func() {
				if result, err := o.resolve.Resolve(o.Context(), name); lookup.AnswerOf(err) != lookup.AnswerUnavailable {
					o.Errorf("second %d: mail for %s: got %+v, %v, want unavailable", s, name, result, err)
				}
				_, err := o.cache.Check(o.Context(), lookup.Credentials{Name: name, Password: "p", Protocol: "imap"})
				if lookup.AnswerOf(err) != lookup.AnswerUnavailable {
					o.Errorf("second %d: login of %s: got %v, want unavailable", s, name, err)
				}
			})
		}
	}
}

func (o *outage) deliver(s int, address string, r lookuptest.Record) {
	result, err := o.resolve.Resolve(o.Context(), address)
	if err != nil || len(result.Targets) != 1 || result.Targets[0].Account.Name != r.Name || result.Targets[0].Account.Home != r.Home {
		o.Errorf("second %d: mail for %s: got %+v, %v, want %s", s, address, result.Targets, err, r.Home)
	}
}

// run lets the seconds pass.
func (o *outage) run(from, seconds int, away bool) {
	for s := range seconds {
		o.second(from+s, away)
		time.Sleep(time.Second)
	}
}

// TestTenMinutesAway: the directory is away for ten minutes under steady logins
// and deliveries. Who is known goes on, to the home that is known; who is not
// gets a temporary answer; nobody is absent and nobody is sent to the default
// backend. Its return is no stampede.
func TestTenMinutesAway(t *testing.T) {
	for name, take := range map[string]func(*lookuptest.Faulty){
		"refuses": (*lookuptest.Faulty).Stop,
		"hangs":   (*lookuptest.Faulty).Hang,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOutage(t)
				o.run(0, 120, false)
				o.wg.Wait()
				take(o.faults)
				before := o.faults.Asked()
				o.run(120, 600, true)
				o.wg.Wait()
				names := 4*outageUsers + 4*outageUnknown // with a login beside a lookup
				during := o.faults.Asked() - before
				if during > 600*names/5 {
					t.Errorf("%d questions to a directory that is away, for %d names in ten minutes", during, names)
				}

				// It is back, and everyone comes at once, twice.
				o.faults.Mend()
				synctest.Wait()
				time.Sleep(2 * time.Second) // the back-offs
				synctest.Wait()
				o.peak.reset()
				before = o.faults.Asked()
				for range 2 {
					for i, r := range o.users {
						o.wg.Go(func() {
							if _, err := o.cache.Check(o.Context(), login(r)); err != nil {
								o.Errorf("login of %s after the outage: %v", r.Name, err)
							}
						})
						o.wg.Go(func() { o.deliver(720, fmt.Sprintf("alias%d+x@example.test", i), r) })
					}
					for i := range outageUnknown {
						o.wg.Go(func() {
							if _, err := o.cache.Lookup(o.Context(), fmt.Sprintf("stranger%d@example.test", i)); err != nil {
								o.Errorf("a stranger after the outage: %v", err)
							}
							if _, err := o.cache.Lookup(o.Context(), fmt.Sprintf("nobody%d@example.test", i)); !errors.Is(err, lookup.ErrAbsent) {
								o.Errorf("nobody after the outage: %v", err)
							}
						})
					}
				}
				o.wg.Wait()
				// A login and a lookup for each user, an alias with and without its
				// detail, the names that nobody knew.
				most := 4*outageUsers + 2*outageUnknown
				if n := o.faults.Asked() - before; n > most {
					t.Errorf("%d questions on its return, want %d at most", n, most)
				}
				if o.peak.most > outageSlots {
					t.Errorf("%d questions at a time on its return, want %d at most", o.peak.most, outageSlots)
				}
				t.Logf("%d questions in ten minutes without answers, %d on return, %d at a time", during, o.faults.Asked()-before, o.peak.most)
				o.run(722, 60, false)
				o.wg.Wait()
			})
		})
	}
}
