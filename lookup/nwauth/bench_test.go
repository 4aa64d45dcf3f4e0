package nwauth

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"switchyard/lookup"
)

// million writes n accounts as NWAuth's text, in an order that is nobody's, as
// they come from another program.
func million(tb testing.TB, n int) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "users.txt")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	for i := range n {
		k := (i*7919 + 13) % n
		fmt.Fprintf(w, "user%d@domain%d.example:{SSHA512}NCkLs7gcTMqsm7WsKIEwGEcklEZZdrvBef4HBKwZ7SXA3gGUb9b5SFUQVUkQ/Hf+0xuehQodpcw9CmpKzOzjvHNhbHRTQUxU:"+
			"created=\"1060034937\" full_name=\"User Number %d\" quota=\"500M\" tohost=\"b%d\"\n", k, k%1000, k, k%16)
	}
	if err := w.Flush(); err != nil {
		tb.Fatal(err)
	}
	return path
}

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// BenchmarkMillion is one million accounts: importing them into an empty
// database, exporting, opening, and looking up. The text is about 250 MB.
func BenchmarkMillion(b *testing.B) {
	const n = 1_000_000
	text := million(b, n)
	dir := b.TempDir()
	importInto := func(b *testing.B, dir string) *DB {
		db, err := Open(dir, quickOptions)
		if err != nil {
			b.Fatal(err)
		}
		f, err := os.Open(text)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		if got, err := db.Import(b.Context(), f, nil); err != nil || got.Added != n {
			b.Fatalf("got %+v, %v", got, err)
		}
		return db
	}
	b.Run("import", func(b *testing.B) {
		for i := range b.N {
			db := importInto(b, filepath.Join(b.TempDir(), fmt.Sprint(i)))
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "accounts/s")
	})
	importInto(b, dir).Close()
	b.Run("open", func(b *testing.B) {
		before := heap()
		var db *DB
		for range b.N {
			var err error
			if db, err = Open(dir, quickOptions); err != nil {
				b.Fatal(err)
			}
			if db.Len() != n {
				b.Fatalf("got %d users", db.Len())
			}
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		b.ReportMetric(heap()-before, "MiB-heap")
		runtime.KeepAlive(db)
	})
	db := openTest(b, dir, quickOptions)
	b.Run("export", func(b *testing.B) {
		for range b.N {
			if err := db.Export(b.Context(), io.Discard, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("lookup", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			k := i % n
			if _, err := db.Lookup(b.Context(), fmt.Sprintf("user%d@domain%d.example", k, k%1000)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("import-one", func(b *testing.B) {
		for range b.N {
			if _, err := db.Import(b.Context(), strings.NewReader("user1@domain1.example:*:\n"), nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

var _ lookup.Watcher = (*DB)(nil)
