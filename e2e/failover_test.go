package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"switchyard/internal/harness"
)

const (
	failoverUsers  = 12
	failoverLogins = 60 // after each death
	failoverAtOnce = 6

	// failoverMost is how long a login may take while a node dies. The bar is
	// 3 s; the rest is for machines that have other work.
	failoverMost = 10 * time.Second
)

// TestFailover kills a node of a pair, and then holds it still (SIGSTOP: it
// accepts connections and is silent), under logins: every one of them reaches
// the peer, in seconds. The node is down for the proxy, and comes back when
// it does. Health checks log in on all its services, and there is one line in the
// log for each step. How long the logins took is reported.
func TestFailover(t *testing.T) {
	for _, mode := range []string{"implicit", "starttls"} {
		t.Run(mode, func(t *testing.T) {
			if mode != "implicit" {
				slow(t)
			}
			p := startPair(t, mode)
			p.await(t, "b1", "up")
			p.await(t, "b1b", "up")
			p.logins(t, "all is well")
			p.where(t, "b1")

			p.Backends[0].Kill()
			p.logins(t, "killed")
			p.where(t, "b1b")
			p.await(t, "b1", "down")
			if err := p.StartBackend(t.Context(), p.Backends[0]); err != nil {
				t.Fatal(err)
			}
			p.await(t, "b1", "up")

			// The checks are sessions at the backend that nobody wants to read of.
			if quiet := lines(t, p.Backends[0].Log, func(l line) bool { return l.Msg == "session" && l.User == "" && l.Protocol != "lmtp" }); len(quiet) > 0 {
				t.Errorf("%d sessions of checks in the backend's log, such as %+v", len(quiet), quiet[0])
			}

			if err := p.Backends[0].Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.Backends[0].Signal(syscall.SIGCONT) })
			p.logins(t, "held still")
			p.where(t, "b1b")
			p.await(t, "b1", "down")
			p.logins(t, "known to be down")
			if err := p.Backends[0].Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			p.await(t, "b1", "up")
			p.logins(t, "back")
			p.where(t, "b1")

			steps := lines(t, p.Proxies[0].Log, func(l line) bool { return strings.HasPrefix(l.Msg, "node is ") && l.Node == "b1" })
			if n := len(steps); n < 2*3*len(pairServices) || n > 3*2*4*len(pairServices) {
				t.Errorf("%d lines about the states of b1's %d services", n, len(pairServices))
			}
			if refused := lines(t, p.Proxies[0].Log, func(l line) bool { return strings.HasPrefix(l.Msg, "health check cannot log in") }); len(refused) > 0 {
				t.Errorf("got %+v", refused[0])
			}
		})
	}
}

// pairServices are what each node offers.
var pairServices = []string{"imap", "pop3", "submission", "lmtp", "managesieve"}

// pair is a cluster of one backend with two nodes, b1 and b1b, whose data do not
// matter here.
type pair struct {
	*cluster
	peer  *harness.Process
	users []harness.Account
}

func startPair(t *testing.T, mode string) *pair {
	t.Helper()
	services := pairServices
	free, err := harness.FreeAddresses("127.0.0.1", len(services)+1)
	if err != nil {
		t.Fatal(err)
	}
	var node strings.Builder
	fmt.Fprintf(&node, "[[backend.node]]\nname = \"b1b\"\ntls = %q\n", mode)
	for i, s := range services {
		fmt.Fprintf(&node, "%s = %q\n", s, free[i])
	}
	p := &pair{cluster: start(t, harness.Spec{Backends: []string{"b1"}, Proxies: 1, BackTLS: mode, Foreign: node.String()})}
	for i := range failoverUsers {
		p.users = append(p.users, p.account(t, fmt.Sprintf("user%d", i), "b1"))
	}
	first := p.Backends[0]
	text, err := os.ReadFile(first.Config)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.CA.Issue("b1b", "127.0.0.1", "localhost"); err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(text), "[backendd]")
	own := strings.NewReplacer(`data = "b1"`, `data = "b1b"`, "b1.pem", "b1b.pem", "b1.key", "b1b.key", first.Addr["admin"], free[len(services)]).Replace(string(text[at:]))
	for i, s := range services {
		own = strings.ReplaceAll(own, first.Addr[s], free[i])
	}
	config := writeFile(t, filepath.Join(p.Spec.Dir, "b1b.toml"), string(text[:at])+own)
	if err := os.Mkdir(filepath.Join(p.Spec.Dir, "b1b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if p.peer, err = harness.Start(t.Context(), "b1b", filepath.Join(p.Spec.Bin, "backendd"), config, p.Spec.Dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.peer.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// await waits until all services of a node are in a state, and checked. A
// service that nobody logs in to is found out by its health checks alone.
func (p *pair) await(t *testing.T, node, state string) {
	t.Helper()
	eventuallyWithin(t, time.Minute, node+" is "+state, func() error {
		resp, err := http.Get("http://" + p.Proxies[0].Addr["admin"] + "/backends")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var said struct {
			Backends []struct {
				Nodes []struct {
					Node     string
					Services []struct {
						Service, State, Reason, Note string
						Checks_good                  int
					}
				}
			}
		}
		if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
			return err
		}
		for _, n := range said.Backends[0].Nodes {
			if n.Node != node {
				continue
			}
			for _, s := range n.Services {
				if s.State != state || s.Note != "" || state == "up" && s.Checks_good == 0 || state == "down" && s.Reason == "" {
					return fmt.Errorf("%+v", s)
				}
			}
			return nil
		}
		return fmt.Errorf("there is no node %s", node)
	})
}

// logins logs in again and again, from addresses of their own, and reports how
// long it took. Every login must succeed.
func (p *pair) logins(t *testing.T, when string) {
	t.Helper()
	var mu sync.Mutex
	var took []time.Duration
	var work sync.WaitGroup
	for worker := range failoverAtOnce {
		work.Go(func() {
			for i := worker; i < failoverLogins; i += failoverAtOnce {
				started := time.Now()
				err := p.try(fmt.Sprintf("127.9.%d.%d", worker, 1+i%250), p.users[i%len(p.users)])
				if d := time.Since(started); err != nil || d > failoverMost {
					t.Errorf("%s, login %d after %v: %v", when, i, d, err)
				}
				mu.Lock()
				took = append(took, time.Since(started))
				mu.Unlock()
			}
		})
	}
	work.Wait()
	slices.Sort(took)
	share := func(q float64) time.Duration {
		return took[min(int(q*float64(len(took))), len(took)-1)].Round(time.Millisecond)
	}
	t.Logf("%-16s %d logins: p50 %v, p90 %v, p99 %v, most %v", when, len(took), share(0.5), share(0.9), share(0.99), took[len(took)-1].Round(time.Millisecond))
}

// try logs in once, by IMAP.
func (p *pair) try(from string, a harness.Account) error {
	conn, err := tryDial(from, p.Proxies[0].Addr["imap"])
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(stepTimeout)); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	for _, step := range []struct{ say, want string }{
		{"", "* OK"}, {fmt.Sprintf("a LOGIN %q %q\r\n", a.Name, a.Password), "a OK"}, {"b LOGOUT\r\n", "b OK"},
	} {
		if _, err := conn.Write([]byte(step.say)); err != nil {
			return err
		}
		tag, _, _ := strings.Cut(step.want, " ")
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return err
			}
			if !strings.HasPrefix(line, tag+" ") {
				continue
			}
			if !strings.HasPrefix(line, step.want) {
				return fmt.Errorf("got %q", line)
			}
			break
		}
	}
	return nil
}

// where logs in once more and looks into the proxy's log, which node it was.
func (p *pair) where(t *testing.T, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stepTimeout)
	defer cancel()
	seen := len(lines(t, p.Proxies[0].Log, func(l line) bool { return l.Msg == "session" }))
	for ctx.Err() == nil {
		if err := p.try("127.10.0.1", p.users[0]); err != nil {
			t.Fatal(err)
		}
		var last line
		eventually(t, "the session's line", func() error {
			all := lines(t, p.Proxies[0].Log, func(l line) bool { return l.Msg == "session" })
			if len(all) <= seen {
				return fmt.Errorf("%d sessions", len(all))
			}
			seen, last = len(all), all[len(all)-1]
			return nil
		})
		if last.Node == node {
			return
		}
	}
	t.Fatalf("no session goes to %s", node)
}
