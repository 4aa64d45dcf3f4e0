package postgres

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/lookup/postgres/postgrestest"
)

// BenchmarkMillion imports accounts into an empty database, again over
// themselves, and looks them up. SWITCHYARD_ACCOUNTS says how many; without it,
// 50,000.
func BenchmarkMillion(b *testing.B) {
	n := 50_000
	fmt.Sscan(os.Getenv("SWITCHYARD_ACCOUNTS"), &n)
	dsn := postgrestest.New(b).NewDatabase(b)
	db := open(b, dsn, Options{})
	for _, home := range []string{"b1", "b2"} {
		start := time.Now()
		in, err := db.Import(b.Context(), numbered(n, home), nil)
		if err != nil || in.Added+in.Replaced != n {
			b.Fatalf("%+v, %v", in, err)
		}
		took := time.Since(start)
		b.Logf("import of %d (%d new): %.1f s, %.0f/s", n, in.Added, took.Seconds(), float64(n)/took.Seconds())
	}
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("lookup/callers=%d", callers), func(b *testing.B) {
			b.SetParallelism(callers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := db.Lookup(b.Context(), fmt.Sprintf("user%07d@x.test", rand.IntN(n))); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
	b.Run("set/callers=16", func(b *testing.B) {
		var i atomic.Int64
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := db.Set(b.Context(), fmt.Sprintf("user%07d@x.test", rand.IntN(n)), nil, map[string]string{"n": fmt.Sprint(i.Add(1))}); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("search", func(b *testing.B) {
		for b.Loop() {
			if _, _, _, err := db.Search(b.Context(), "*99@x.test", 0, 100); err != nil {
				b.Error(err)
			}
		}
	})
}
