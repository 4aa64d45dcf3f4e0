package cache_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/cache"
	"switchyard/lookup/lookuptest"
)

// peak is a directory that counts the questions it has at the same time. Each
// takes took.
type peak struct {
	lookup.Directory
	took time.Duration

	mu        sync.Mutex
	now, most int
}

func newPeak(next lookup.Directory, took time.Duration) *peak {
	return &peak{Directory: next, took: took}
}

func (p *peak) count(by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now += by
	p.most = max(p.most, p.now)
}

// reset forgets the most that there were.
func (p *peak) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.most = p.now
}

func (p *peak) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	p.count(1)
	defer p.count(-1)
	time.Sleep(p.took)
	return p.Directory.Lookup(ctx, name)
}

func (p *peak) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	p.count(1)
	defer p.count(-1)
	time.Sleep(p.took)
	return p.Directory.Check(ctx, c)
}

// When many names are asked for at once, the directory meets MaxQuestions at a
// time, and all get their answers.
func TestMaxQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := lookuptest.NewScripted()
		p := newPeak(next, 10*time.Millisecond)
		c := open(t, p, cache.Options{MaxQuestions: 8})
		var wg sync.WaitGroup
		for i := range 200 {
			r := lookuptest.Record{Account: lookup.Account{Name: fmt.Sprintf("user%d@example.test", i)}, Password: "p"}
			next.Set(r)
			wg.Go(func() {
				if _, err := c.Lookup(t.Context(), r.Name); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := c.Check(t.Context(), login(r)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if p.most != 8 {
			t.Errorf("%d questions at a time, want 8", p.most)
		}
	})
}

// More than a bound do not wait: they are not now, at once.
func TestWaitingIsBounded(t *testing.T) {
	tell(t, cache.Options{MaxQuestions: 2}, func(s story) {
		release := s.next.Hold()
		answers := make(chan error, 1000)
		for i := range 1000 {
			go func() {
				_, err := s.cache.Lookup(s.Context(), fmt.Sprintf("user%d@example.test", i))
				answers <- err
			}()
		}
		synctest.Wait()
		if got := len(answers); got != 1000-2-2*64 {
			s.Errorf("%d answered at once, want all but 2 and 128", got)
		}
		if got := s.cache.Stats().Busy; got != 1000-2-2*64 {
			s.Errorf("%d counted as busy", got)
		}
		release()
		counts := make(map[lookup.Answer]int)
		for range 1000 {
			counts[lookup.AnswerOf(<-answers)]++
		}
		if counts[lookup.AnswerAbsent] != 130 || counts[lookup.AnswerUnavailable] != 870 {
			s.Errorf("got %v", counts)
		}
		// It was not the names' fault: they may be asked about at once.
		s.lookup(anna.Name, lookup.AnswerFound, 1)
	})
}

// While the directory hangs, guesses at one name's password take a few of its
// questions and no more, the others hear of its silence from those, and other
// names go on.
func TestGuessesDuringAHang(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		s.check(login(anna), lookup.AnswerFound, 1)
		s.next.Delay(time.Hour)
		before := s.next.Checks()
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				c := login(anna)
				c.Password = fmt.Sprint("guess", i)
				_, err := s.cache.Check(s.Context(), c)
				s.want("guess", err, lookup.AnswerUnavailable, 0, 0)
			})
		}
		synctest.Wait()
		if n := s.next.Checks() - before; n != 4 {
			s.Errorf("%d questions about one name at a time, want 4", n)
		}
		s.check(login(anna), lookup.AnswerFound, 0)
		s.next.Delay(0) // for new questions
		s.check(login(carla), lookup.AnswerFound, 1)
		s.lookup("berta@example.test", lookup.AnswerFound, 1)
		wg.Wait()
		if n := s.next.Asked(anna.Name); n > 1+4+4 {
			s.Errorf("%d questions about a name, want those that wait to hear of the first ones' failure", n)
		}
	})
}

// The per-name bound leaves nothing behind.
func TestNameGatesGo(t *testing.T) {
	tell(t, cache.Options{}, func(s story) {
		for i := range 100 {
			c := login(anna)
			c.Password = fmt.Sprint("guess", i)
			s.check(c, lookup.AnswerRejected, 1)
		}
		if n := cache.NameGates(s.cache); n != 0 {
			s.Errorf("%d names have a gate though nobody asks", n)
		}
	})
}

// Bytes is a bound, whatever the accounts' sizes, and what is counted is near
// what is used.
func TestBytesAreBounded(t *testing.T) {
	next := lookuptest.NewScripted()
	const limit = 4 << 20
	c := open(t, next, cache.Options{Bytes: limit})
	ask := func(i int) {
		a := lookup.Account{
			Name: fmt.Sprintf("user%d@example.test", i), Home: "b1",
			Attributes: map[string]string{"description": strings.Repeat("x", i%5000)},
		}
		next.Set(lookuptest.Record{Account: a})
		if _, err := c.Lookup(t.Context(), a.Name); err != nil {
			t.Fatal(err)
		}
		next.Delete(a.Name)
	}
	for i := range 10_000 {
		ask(i)
		if _, err := c.Lookup(t.Context(), fmt.Sprintf("%d", i)+strings.Repeat("n", 300)); lookup.AnswerOf(err) != lookup.AnswerAbsent {
			t.Fatal(err)
		}
	}
	got := c.Stats()
	if got.Bytes > limit+limit/4 || got.Bytes < limit || got.Entries < 500 {
		t.Errorf("got %+v, want the bound used", got)
	}
	// One that is bigger than all the room pushes nobody out.
	ask(4999)
	next.Set(lookuptest.Record{Account: lookup.Account{Name: "big@example.test", Home: strings.Repeat("b", limit)}})
	if _, err := c.Lookup(t.Context(), "big@example.test"); err != nil {
		t.Fatal(err)
	}
	if after := c.Stats(); after.Entries < got.Entries-5 {
		t.Errorf("%d accounts left of %d", after.Entries, got.Entries)
	}
	c.Purge()
	if got := c.Stats(); got.Bytes != 0 {
		t.Errorf("%d bytes counted in an empty cache", got.Bytes)
	}
}

func TestBytesAreTrue(t *testing.T) {
	if testing.Short() {
		t.Skip("measures the heap")
	}
	next := lookuptest.NewScripted()
	const n = 20_000
	c := open(t, next, cache.Options{})
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range n {
		name := fmt.Sprintf("user%d@example.test", i)
		next.Set(lookuptest.Record{Account: lookup.Account{
			Name: name, Home: fmt.Sprint("backend", i), Forwards: []string{fmt.Sprint(i, "@elsewhere.test")},
			Attributes: map[string]string{"displayname": fmt.Sprint("User Number ", i)},
		}, Password: "p"})
		if _, err := c.Check(t.Context(), lookup.Credentials{Name: name, Password: "p"}); err != nil {
			t.Fatal(err)
		}
		next.Delete(name)
	}
	used, counted := heap()-before, c.Stats().Bytes
	runtime.KeepAlive(next)
	// Some of what is used is the script's counters of names.
	t.Logf("%d bytes used and %d counted an entry", used/n, counted/n)
	if counted < used*6/10 || counted > used*12/10 {
		t.Errorf("%d bytes an entry are counted, %d used", counted/n, used/n)
	}
}
