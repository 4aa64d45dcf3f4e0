package ldap_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
)

const benchAccounts = 100_000

// The rounds of the comparison, interleaved, and the lookups of each.
const (
	rounds     = 9
	roundTakes = 3000
)

// BenchmarkDirectory compares lookups through the directory with the library's
// own search on as many connections, against slapd with 100,000 accounts, from
// 1, 8 and 64 callers. The two take turns, since the machine is shared: what
// counts is the median of the rounds' own ratios of the client's CPU time.
func BenchmarkDirectory(b *testing.B) {
	s := startSlapd(b, "accounts.ldif")
	s.fill(b)
	var conns []*goldap.Conn
	for range 2 {
		c, err := goldap.DialURL(s.plain)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		if err := c.Bind(serviceDN, servicePass); err != nil {
			b.Fatal(err)
		}
		conns = append(conns, c)
	}
	wanted := []string{"swName", "swHome", "swHomeGeneration", "swStatus", "swQuota", "swForward", "swAlias", "swForwardOnly", "pwdChangedTime", "displayName", "description"}
	raw := func(i int) error {
		r, err := conns[i%2].Search(goldap.NewSearchRequest(base, goldap.ScopeWholeSubtree, goldap.NeverDerefAliases, 2, 0, false,
			"(&(objectClass=switchyardAccount)(swName="+goldap.EscapeFilter(benchName(i))+"))", wanted, nil))
		if err == nil && len(r.Entries) != 1 {
			err = fmt.Errorf("%d entries", len(r.Entries))
		}
		return err
	}
	d := open(b, s.plain, options())
	ours := func(i int) error {
		_, err := d.Lookup(b.Context(), benchName(i))
		return err
	}
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("LDAP/callers=%d", callers), func(b *testing.B) {
			for b.Loop() {
				compare(b, callers, raw, ours)
			}
		})
	}
}

// compare runs both in turns and reports what they cost.
func compare(b *testing.B, callers int, raw, ours func(int) error) {
	b.Helper()
	var ratios, rates, rawCost, ourCost, p50, p99 []float64
	spend(b, callers, raw)
	spend(b, callers, ours)
	for range rounds {
		a := spend(b, callers, raw)
		c := spend(b, callers, ours)
		ratios = append(ratios, c.cpu/a.cpu)
		rawCost, ourCost = append(rawCost, a.cpu), append(ourCost, c.cpu)
		rates, p50, p99 = append(rates, c.rate), append(p50, c.p50), append(p99, c.p99)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ratios), "×raw-cpu")
	b.ReportMetric(median(rawCost), "raw-cpu-µs")
	b.ReportMetric(median(ourCost), "cpu-µs")
	b.ReportMetric(median(rates), "lookups/s")
	b.ReportMetric(median(p50), "p50-µs")
	b.ReportMetric(median(p99), "p99-µs")
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// spent is what a round came to, in microseconds and per second.
type spent struct{ cpu, rate, p50, p99 float64 }

// spend runs a round.
func spend(b *testing.B, callers int, f func(i int) error) spent {
	b.Helper()
	var next atomic.Int64
	errs := make(chan error, callers)
	took := make([]time.Duration, roundTakes)
	cpu, start := cpuTime(b), time.Now()
	for range callers {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= roundTakes {
					errs <- nil
					return
				}
				began := time.Now()
				if err := f(i); err != nil {
					errs <- err
					return
				}
				took[i] = time.Since(began)
			}
		}()
	}
	for range callers {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	elapsed := time.Since(start)
	used := cpuTime(b) - cpu
	slices.Sort(took)
	return spent{
		cpu: float64(used.Microseconds()) / roundTakes, rate: roundTakes / elapsed.Seconds(),
		p50: float64(took[roundTakes/2].Nanoseconds()) / 1000,
		p99: float64(took[roundTakes*99/100].Nanoseconds()) / 1000,
	}
}

// BenchmarkCheck is a login: a search and a bind.
func BenchmarkCheck(b *testing.B) {
	s := startSlapd(b, "accounts.ldif")
	d := open(b, s.plain, options())
	r := lookuptest.Account("anna@example.test")
	for _, callers := range []int{1, 8} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			measure(b, callers, func(int) error {
				_, err := d.Check(b.Context(), lookup.Credentials{Name: r.Name, Password: r.Password})
				return err
			})
		})
	}
}

func benchName(i int) string { return fmt.Sprintf("user%d@example.test", i*7919%benchAccounts) }

// fill adds the accounts of the benchmark.
func (s *slapd) fill(b *testing.B) {
	b.Helper()
	ldif := &bytes.Buffer{}
	for i := range benchAccounts {
		name := fmt.Sprintf("user%d@example.test", i)
		entry(ldif, "swName="+name+","+base, "objectClass", "inetOrgPerson", "objectClass", "switchyardAccount",
			"cn", name, "sn", "x", "swName", name, "swHome", fmt.Sprint("b", i%4), "swHomeGeneration", "1", "swQuota", "1000000000")
	}
	path := filepath.Join(s.dir, "many.ldif")
	if err := os.WriteFile(path, ldif.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	s.stop(b)
	if out, err := exec.Command(program(b, "slapadd"), "-q", "-f", s.conf, "-l", path).CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	s.start(b)
}

// measure runs f b.N times from many callers.
func measure(b *testing.B, callers int, f func(i int) error) {
	b.Helper()
	b.ReportAllocs()
	var next atomic.Int64
	var failed atomic.Value
	done := make(chan struct{})
	cpu := cpuTime(b)
	b.ResetTimer()
	for range callers {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				if err := f(int(i)); err != nil {
					failed.Store(err)
					return
				}
			}
		}()
	}
	for range callers {
		<-done
	}
	b.StopTimer()
	if err := failed.Load(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/float64(b.N)/1000, "cpu-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lookups/s")
}

// cpuTime is what this process has used; slapd is another.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
