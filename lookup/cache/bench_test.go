package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"switchyard/lookup"
	"switchyard/lookup/cache"
	"switchyard/lookup/lookuptest"
)

const benchAccounts = 100_000

// zipf returns names as mail traffic asks for them: few often, most seldom.
func zipf() []string {
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, benchAccounts-1)
	names := make([]string, 1<<16)
	for i := range names {
		names[i] = fmt.Sprintf("user%d@example.test", z.Uint64())
	}
	return names
}

// BenchmarkLookup compares a cached lookup with a bare golang-lru Get of the
// same names.
func BenchmarkLookup(b *testing.B) {
	names := zipf()
	b.Run("golang-lru", func(b *testing.B) {
		bare, err := lru.New[string, *lookup.Account](benchAccounts)
		if err != nil {
			b.Fatal(err)
		}
		for _, n := range names {
			bare.Add(n, &lookup.Account{Name: n, Home: "b1"})
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if a, ok := bare.Get(names[i&(len(names)-1)]); !ok || a.Home == "" {
				b.Fatal("absent")
			}
		}
	})
	b.Run("cached", func(b *testing.B) {
		c := warm(b, names)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if a, err := c.Lookup(b.Context(), names[i&(len(names)-1)]); err != nil || a.Home == "" {
				b.Fatal(err)
			}
		}
	})
	b.Run("cached, all cores", func(b *testing.B) {
		c := warm(b, names)
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for i := rand.IntN(len(names)); pb.Next(); i++ {
				if _, err := c.Lookup(b.Context(), names[i&(len(names)-1)]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// BenchmarkSideBySide measures both in turn, in batches, and reports medians:
// what a busy machine does to one it does to the other.
func BenchmarkSideBySide(b *testing.B) {
	names := zipf()
	bare, err := lru.New[string, *lookup.Account](benchAccounts)
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range names {
		bare.Add(n, &lookup.Account{Name: n, Home: "b1"})
	}
	c := warm(b, names)
	const batch = 1024
	var times [2][]float64
	round := 0
	measure := func(kind int, get func(name string) bool) {
		part := names[(round+32*kind)*batch%len(names):][:batch]
		start := time.Now()
		for _, n := range part {
			if !get(n) {
				b.Fatal("absent")
			}
		}
		times[kind] = append(times[kind], float64(time.Since(start))/batch)
	}
	for b.Loop() {
		measure(0, func(n string) bool { a, ok := bare.Get(n); return ok && a.Home != "" })
		measure(1, func(n string) bool { a, err := c.Lookup(b.Context(), n); return err == nil && a.Home != "" })
		round++
	}
	for kind := range times {
		slices.Sort(times[kind])
	}
	of := func(kind int) float64 { return times[kind][len(times[kind])/2] }
	b.ReportMetric(of(0), "bare-ns")
	b.ReportMetric(of(1), "cached-ns")
	b.ReportMetric(of(1)-of(0), "over-ns")
}

// every answers for a million accounts without a table of them.
type every struct{}

func (every) Lookup(_ context.Context, name string) (lookup.Account, error) {
	return lookup.Account{Name: name, Home: "b1", Generation: 1}, nil
}

func (e every) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	return e.Lookup(ctx, c.Name)
}

// BenchmarkDirectory is the cache with a million accounts in it, asked for all
// of them alike by 1, 8 and 64 callers, for two seconds each. Of the latency,
// some 50 ns are the clock's.
func BenchmarkDirectory(b *testing.B) {
	const million = 1_000_000
	c, err := cache.New(every{}, cache.Options{Entries: million, Bytes: 4 << 30})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	names := make([]string, million)
	for i := range names {
		names[i] = fmt.Sprintf("user%d@example.test", i)
		if _, err := c.Lookup(b.Context(), names[i]); err != nil {
			b.Fatal(err)
		}
	}
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("cached/callers=%d", callers), func(b *testing.B) {
			for b.Loop() {
				askAll(b, c, names, callers)
			}
		})
	}
}

// askAll asks for two seconds and reports what it came to.
func askAll(b *testing.B, c *cache.Cache, names []string, callers int) {
	b.Helper()
	const lasts, most = 2 * time.Second, 1 << 20 // answers of a caller whose time is kept
	took := make([][]time.Duration, callers)
	asked := make([]int, callers)
	cpu, start := cpuTime(b), time.Now()
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(caller)))
			for began := time.Now(); began.Sub(start) < lasts; {
				if _, err := c.Lookup(b.Context(), names[r.IntN(len(names))]); err != nil {
					b.Error(err)
					return
				}
				asked[caller]++
				now := time.Now()
				if len(took[caller]) < most {
					took[caller] = append(took[caller], now.Sub(began))
				}
				began = now
			}
		})
	}
	wg.Wait()
	elapsed, used := time.Since(start), cpuTime(b)-cpu
	total := 0
	for _, n := range asked {
		total += n
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(total)/elapsed.Seconds(), "lookups/s")
	b.ReportMetric(float64(all[len(all)/2])/1000, "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100])/1000, "p99-µs")
	b.ReportMetric(float64(used)/float64(total)/1000, "cpu-µs")
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCheck is a login whose password is remembered.
func BenchmarkCheck(b *testing.B) {
	c := warm(b, zipf()[:1000])
	cred := lookup.Credentials{Name: "user0@example.test", Password: "p", Protocol: "imap"}
	if _, err := c.Check(b.Context(), cred); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Check(b.Context(), cred); err != nil {
			b.Fatal(err)
		}
	}
}

func warm(b *testing.B, names []string) *cache.Cache {
	next := lookuptest.NewScripted(lookuptest.Record{Account: lookup.Account{Name: "user0@example.test", Home: "b1"}, Password: "p"})
	c, err := cache.New(next, cache.Options{Entries: benchAccounts})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	for _, n := range names {
		next.Set(lookuptest.Record{Account: lookup.Account{Name: n, Home: "b1"}, Password: "p"})
		if _, err := c.Lookup(b.Context(), n); err != nil {
			b.Fatal(err)
		}
	}
	return c
}
