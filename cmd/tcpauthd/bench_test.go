package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"switchyard/lookup/tcpauth"
)

// cpu is what this process and those that it waited for have used.
func cpu(b *testing.B, who int) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkMillion is one million accounts in a real tcpauthd: -import of a text
// in nobody's order (about 250 MB), start until the listener answers, and
// lookups of random users over loopback from 1, 8 and 64 callers. cpu figures
// hold on a busy machine too; the rates do not.
func BenchmarkMillion(b *testing.B) {
	const n = 1_000_000
	dir := b.TempDir()
	config := "[tcpauthd]\naddress = \"127.0.0.1:0\"\ndata = \"users\"\n"
	if err := os.WriteFile(filepath.Join(dir, "tcpauthd.toml"), []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	name := func(k int) string { return fmt.Sprintf("user%d@domain%d.example", k, k%1000) }
	file := filepath.Join(dir, "users.txt")
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	for i := range n {
		k := (i*7919 + 13) % n
		fmt.Fprintf(w, "%s:{SSHA512}NCkLs7gcTMqsm7WsKIEwGEcklEZZdrvBef4HBKwZ7SXA3gGUb9b5SFUQVUkQ/Hf+0xuehQodpcw9CmpKzOzjvHNhbHRTQUxU:"+
			"created=\"1060034937\" full_name=\"User Number %d\" quota=\"500M\" tohost=\"b%d\"\n", name(k), k, k%16)
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	f.Close()

	b.Run("import", func(b *testing.B) {
		for range b.N {
			os.RemoveAll(filepath.Join(dir, "users"))
			cmd := command(dir, "-import", file)
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v, %s", err, out)
			}
			usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
			b.ReportMetric(float64(usage.Maxrss)/1024, "MiB-peak")
			b.ReportMetric((cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), "cpu-s")
		}
	})
	var p *process
	b.Run("start", func(b *testing.B) {
		for range b.N {
			p = start(b, dir)
			b.StopTimer()
			b.ReportMetric(resident(b, p.cmd.Process.Pid), "MiB-resident")
			p.kill()
			b.StartTimer()
		}
	})
	p = start(b, dir)
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint("lookup-", callers), func(b *testing.B) {
			c, err := tcpauth.NewClient([]string{p.address}, tcpauth.ClientOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			var left atomic.Int64
			left.Store(int64(b.N))
			took := make([][]time.Duration, callers)
			own, theirs := cpu(b, syscall.RUSAGE_SELF), ticks(b, p.cmd.Process.Pid)
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for caller := range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						begun := time.Now()
						if _, err := c.Lookup(b.Context(), name(rand.IntN(n))); err != nil {
							b.Error(err)
							return
						}
						took[caller] = append(took[caller], time.Since(begun))
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			used := cpu(b, syscall.RUSAGE_SELF) - own + ticks(b, p.cmd.Process.Pid) - theirs
			all := slices.Concat(took...)
			slices.Sort(all)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lookups/s")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(used.Nanoseconds())/float64(b.N)/1000, "cpu-µs/op")
		})
	}
}

// resident is a process's memory in MiB.
func resident(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kib float64
	fmt.Sscan(rest, &kib)
	return kib / 1024
}

// ticks is the processor time of another process, which the system counts in
// hundredths of a second.
func ticks(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	field := strings.Fields(rest)
	var user, system int64
	fmt.Sscan(field[11], &user)
	fmt.Sscan(field[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}
