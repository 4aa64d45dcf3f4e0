package ldap_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
)

const benchAccounts = 20_000

// BenchmarkLookup compares lookups through the directory with the library's own
// search on as many connections, against slapd with 20,000 accounts, from 1, 8
// and 64 callers. The client's own CPU time is reported beside the wall time.
func BenchmarkLookup(b *testing.B) {
	s := startSlapd(b, "accounts.ldif")
	s.fill(b)
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("raw/callers=%d", callers), func(b *testing.B) {
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
			wanted := []string{"swName", "swHome", "swHomeGeneration", "swStatus", "swQuota", "swForward", "displayName", "description"}
			measure(b, callers, func(i int) error {
				r, err := conns[i%2].Search(goldap.NewSearchRequest(base, goldap.ScopeWholeSubtree, goldap.NeverDerefAliases, 2, 0, false,
					"(&(objectClass=switchyardAccount)(swName="+goldap.EscapeFilter(benchName(i))+"))", wanted, nil))
				if err == nil && len(r.Entries) != 1 {
					err = fmt.Errorf("%d entries", len(r.Entries))
				}
				return err
			})
		})
		b.Run(fmt.Sprintf("directory/callers=%d", callers), func(b *testing.B) {
			d := open(b, s.plain, options())
			measure(b, callers, func(i int) error {
				_, err := d.Lookup(b.Context(), benchName(i))
				return err
			})
		})
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
