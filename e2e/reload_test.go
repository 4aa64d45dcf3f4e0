package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"switchyard/internal/harness"
)

// serial returns the serial number of the certificate that a listener with TLS from
// the start shows.
func (c *cluster) serial(t testing.TB, address string) string {
	t.Helper()
	conn := tls.Client(dialFrom(t, "", address), c.tls)
	defer conn.Close()
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// loglevel reads what a daemon says of its log level.
func loglevel(admin string) (string, error) {
	r, err := http.Get("http://" + admin + "/loglevel")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

// TestReload: proxies and backends show renewed certificates behind SIGHUP and log as
// much as their configuration says then. Sessions go on, and a configuration with a
// mistake changes nothing.
func TestReload(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{Backends: []string{"b1"}, Proxies: 1})
	p, b := c.Proxies[0], c.Backends[0]
	anna := c.account(t, "anna", "b1")
	k := c.secure(t, p.Addr["imaps"])
	if s := c.answer(k, "imap", anna); !strings.HasPrefix(s, "OK") {
		t.Fatal(s)
	}
	for _, d := range []struct {
		name, section, config, log, address, admin string
		hangUp                                     func(os.Signal) error
	}{
		{"b1", "[backendd]", b.Config, b.Log, b.Addr["imap"], b.Addr["admin"], b.Signal},
		{"proxy1", "[proxyd]", p.Config, p.Log, p.Addr["imaps"], p.Addr["admin"], p.Signal},
	} {
		t.Run(d.name, func(t *testing.T) {
			good, err := os.ReadFile(d.config)
			if err != nil {
				t.Fatal(err)
			}
			rewrite := func(key string) {
				t.Helper()
				writeFile(t, d.config, strings.Replace(string(good), d.section+"\n", d.section+"\n"+key+"\nlog_level = \"debug\"\n", 1))
				if err := d.hangUp(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
			}
			before := c.serial(t, d.address)
			rewrite("nonsense = 1")
			awaitLine(t, d.log, "the mistake", func(l line) bool { return strings.HasPrefix(l.Msg, "the configuration was not reloaded") })
			if _, _, err := c.CA.Issue(d.name, c.Spec.Host, "localhost"); err != nil {
				t.Fatal(err)
			}
			rewrite("")
			eventually(t, "the renewed certificate", func() error {
				if got := c.serial(t, d.address); got == before {
					return fmt.Errorf("it is %s still", got)
				}
				return nil
			})
			eventually(t, "the log level", func() error {
				if level, err := loglevel(d.admin); err != nil || !strings.Contains(level, `"debug"`) {
					return fmt.Errorf("it is %s, %v", level, err)
				}
				return nil
			})
			k.say("n NOOP")
			k.until("n OK")
		})
	}
	c.wantInbox(t, p, anna) // through the renewed certificates of both
}

// TestLinger: an old proxy whose time is over ends with the sessions that it still
// has; the new one serves.
func TestLinger(t *testing.T) {
	slow(t)
	r := &restarts{cluster: start(t, harness.Spec{Backends: []string{"b1"}, Proxies: 1, ProxyExtra: `linger = "1s"`})}
	r.proxy = r.Proxies[0]
	r.pids = []int{r.proxy.PID()}
	t.Cleanup(func() { r.stop(t) })
	anna := r.account(t, "anna", "b1")
	k := r.secure(t, r.proxy.Addr["imaps"])
	if s := r.answer(k, "imap", anna); !strings.HasPrefix(s, "OK") {
		t.Fatal(s)
	}
	r.restart(t)
	k.end()
	eventually(t, "the old process ends", func() error { return ended(r.pids[0]) })
	if s := r.cluster.ask(t, r.proxy, "imap", anna); !strings.HasPrefix(s, "OK") {
		t.Errorf("the new process: %s", s)
	}
}
