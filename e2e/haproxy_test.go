package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"switchyard/internal/harness"
)

const haproxyConfig = `global
  maxconn 100
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
`

// balance starts HAProxy in front of a proxy's listeners, which are given by
// name, and returns its addresses.
func balance(t *testing.T, c *cluster, p *harness.Proxy, header string, listeners ...string) map[string]string {
	t.Helper()
	free, err := harness.FreeAddresses(loopback(t), len(listeners))
	if err != nil {
		t.Fatal(err)
	}
	dir := workDir(t)
	addresses := make(map[string]string)
	var config strings.Builder
	config.WriteString(haproxyConfig)
	for i, l := range listeners {
		addresses[l] = free[i]
		fmt.Fprintf(&config, "listen %s\n  bind %s\n  server proxy %s %s\n", l, free[i], p.Addr[l], header)
	}
	file := writeFile(t, filepath.Join(dir, "haproxy.cfg"), config.String())
	log, err := os.Create(filepath.Join(dir, "haproxy.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("haproxy", "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for _, a := range addresses {
		eventually(t, "HAProxy on "+a, func() error {
			conn, err := net.DialTimeout("tcp", a, time.Second)
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
	return addresses
}

// TestHAProxy: behind a load balancer the client's own address is in both
// tiers' logs.
func TestHAProxy(t *testing.T) {
	slow(t)
	program(t, "haproxy")
	c := start(t, harness.Spec{ProxyHeader: true})
	p := c.Proxies[0]
	for _, header := range []string{"send-proxy", "send-proxy-v2"} {
		t.Run(header, func(t *testing.T) {
			front := balance(t, c, p, header, "imap-haproxy", "pop3-haproxy", "smtp-haproxy")
			a := c.account(t, "haproxy", "b2")
			for protocol, want := range map[string]string{"imap": "OK", "pop3": "+OK", "smtp": "250"} {
				from := loopback(t)
				k := newTalk(t, dialFrom(t, from, front[protocol+"-haproxy"]))
				client := k.conn.LocalAddr().String()
				if got := c.answer(k, protocol, a); !strings.HasPrefix(got, want) {
					t.Fatalf("%s: %s", protocol, got)
				}
				k.logOut(protocol)
				isClient := func(l line) bool { return l.Msg == "session" && l.Client == client }
				in := awaitLine(t, p.Log, "client "+client, isClient)
				out := awaitLine(t, c.Backend("b2").Log, "client "+client, isClient)
				if in.Session != out.Session || in.Session == "" {
					t.Errorf("%s: session %q at the proxy, %q at the backend", protocol, in.Session, out.Session)
				}
			}
		})
	}
	t.Run("without a header", func(t *testing.T) {
		k := plain(t, p.Addr["imap-haproxy"])
		k.send("a LOGIN anna sesame\r\n")
		if got := k.end(); strings.Contains(got, "OK") {
			t.Errorf("got %q", got)
		}
	})
}
