package store

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"switchyard/backend"
)

// countingFS counts the syncs of files.
type countingFS struct {
	vfs.FS
	syncs atomic.Int64
}

type countingFile struct {
	vfs.File
	n *atomic.Int64
}

func (f countingFile) Sync() error     { f.n.Add(1); return f.File.Sync() }
func (f countingFile) SyncData() error { f.n.Add(1); return f.File.SyncData() }

func (c *countingFS) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return countingFile{f, &c.syncs}, nil
}

func (c *countingFS) Create(name string, cat vfs.DiskWriteCategory) (vfs.File, error) {
	return c.wrap(c.FS.Create(name, cat))
}

func (c *countingFS) OpenReadWrite(name string, cat vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return c.wrap(c.FS.OpenReadWrite(name, cat, o...))
}

func (c *countingFS) ReuseForWrite(old, name string, cat vfs.DiskWriteCategory) (vfs.File, error) {
	return c.wrap(c.FS.ReuseForWrite(old, name, cat))
}

// cpu returns the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDeliver delivers 4 KB messages on the disk, to as many users as
// there are writers, and all to one.
func BenchmarkDeliver(b *testing.B) {
	for _, writers := range []int{1, 8, 32} {
		for _, users := range []int{writers, 1} {
			if writers == 1 && users == writers {
				b.Run("1to1", func(b *testing.B) { benchDeliver(b, 1, 1) })
				continue
			}
			if writers > 1 {
				b.Run(fmt.Sprintf("%dto%d", writers, users), func(b *testing.B) { benchDeliver(b, writers, users) })
			}
		}
	}
}

func benchDeliver(b *testing.B, writers, users int) {
	fs := &countingFS{FS: vfs.Default}
	s, err := Open(b.TempDir(), Options{FS: fs})
	if err != nil {
		b.Fatal(err)
	}
	defer closeStore(b, s)
	var to []backend.User
	for i := range users {
		to = append(to, createUser(b, s, fmt.Sprint("user", i)))
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	before, syncs := cpu(), fs.syncs.Load()
	for w := range writers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				var id [32]byte
				copy(id[:], fmt.Sprint(n))
				_, err := to[w%users].Deliver(b.Context(), backend.Delivery{Incoming: in(benchMail(n)), ID: id})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	n := float64(b.N)
	b.ReportMetric(float64((cpu()-before).Microseconds())/n, "cpu-µs/op")
	b.ReportMetric(float64(fs.syncs.Load()-syncs)/n, "syncs/op")
	b.ReportMetric(n/b.Elapsed().Seconds(), "deliveries/s")
}

func benchMail(n int64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "From: Ann <ann@example.test>\r\nTo: bob@example.test\r\nSubject: number %d\r\nMessage-ID: <%d@example.test>\r\nDate: Wed, 25 Nov 2026 10:00:00 +0000\r\n\r\n", n, n)
	for i := 0; b.Len() < 4096; i++ {
		fmt.Fprintf(&b, "This is line %d of message %d, which says %x.\r\n", i, n, uint64(i)*0x9e3779b97f4a7c15*uint64(n))
	}
	return b.String()
}

// BenchmarkFlags sets and clears a flag on all of 10,000 messages.
func BenchmarkFlags(b *testing.B) {
	s, u, box := bigBox(b, 10_000)
	defer closeStore(b, s)
	uids := make([]backend.UID, 10_000)
	for i := range uids {
		uids[i] = backend.UID(i + 1)
	}
	b.ResetTimer()
	before := cpu()
	for n := range b.N {
		op := backend.FlagsAdd
		if n%2 == 1 {
			op = backend.FlagsRemove
		}
		if _, _, err := u.SetFlags(b.Context(), box, uids, backend.FlagChange{Op: op, Flags: []string{`\Seen`}}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N)/1000, "cpu-ms/op")
}

// BenchmarkView looks at a mailbox as SELECT does, when it is not in memory
// (cold) and when it is.
func BenchmarkView(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		s, u, box := bigBox(b, n)
		for _, name := range []string{"cold", "warm"} {
			b.Run(fmt.Sprint(name, n), func(b *testing.B) {
				before := cpu()
				for range b.N {
					if name == "cold" {
						u.(*mail).u.boxes[box].letGo()
					}
					v, err := u.View(b.Context(), box)
					if err != nil || v.Messages.Len() != n {
						b.Fatal(err)
					}
					if at, ok := v.Messages.FirstUnseen(); !ok || at != 0 || len(v.Messages.Keywords()) != 0 {
						b.Fatal("unseen at", at)
					}
				}
				b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
		closeStore(b, s)
	}
}

func bigBox(b *testing.B, n int) (*Store, backend.User, backend.GUID) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	u := createUser(b, s, bob)
	var list []backend.Incoming
	for i := range 1000 {
		list = append(list, in(fmt.Sprintf("Subject: %d\r\n\r\nx\r\n", i)))
	}
	for range n / len(list) {
		if _, err := u.Append(b.Context(), "INBOX", list); err != nil {
			b.Fatal(err)
		}
	}
	m, err := u.Mailbox(b.Context(), "INBOX")
	if err != nil {
		b.Fatal(err)
	}
	return s, u, m.ID
}
