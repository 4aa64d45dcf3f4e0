package e2e

import (
	"strings"
	"testing"

	"switchyard/internal/harness"
)

// TestOneSessionID: a session has one id in both tiers' logs, and each finished
// session is one line at each tier.
func TestOneSessionID(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	p := c.Proxies[0]
	for _, backTo := range []string{"b1", "b2"} {
		b := c.Backend(backTo)
		for protocol, want := range map[string]string{"imap": "OK", "pop3": "+OK", "submission": "235"} {
			a := c.account(t, protocol, backTo)
			const sessions = 3
			for range sessions {
				k := plain(t, p.Addr[protocol])
				if got := c.answer(k, protocol, a); !strings.HasPrefix(got, want) {
					t.Fatalf("%s: %s", protocol, got)
				}
				k.logOut(protocol)
			}
			c.paired(t, p, b, sessionOf(protocol, a.Name), sessions)
			for _, l := range lines(t, p.Log, sessionOf(protocol, a.Name)) {
				if l.Home != backTo || l.Node != backTo {
					t.Errorf("%s: home %q, node %q, want %s", protocol, l.Home, l.Node, backTo)
				}
			}
		}
	}
	c.oneLMTPLineEach(t, p)
}

// paired waits for n session lines in each tier and checks that the ids are the
// same, and each there once.
func (c *cluster) paired(t *testing.T, p *harness.Proxy, b *harness.Backend, match func(line) bool, n int) {
	t.Helper()
	tiers := make([]map[string]int, 2)
	for i, log := range []string{p.Log, b.Log} {
		eventually(t, "session lines in "+log, func() error {
			tiers[i] = make(map[string]int)
			found := lines(t, log, match)
			for _, l := range found {
				tiers[i][l.Session]++
			}
			return counts(len(found), n)
		})
	}
	for id, k := range tiers[0] {
		if k != 1 || tiers[1][id] != 1 {
			t.Errorf("session %q has %d lines at the proxy and %d at the backend", id, k, tiers[1][id])
		}
	}
}

// oneLMTPLineEach: a message to both backends is one session at the proxy and
// one at each backend.
func (c *cluster) oneLMTPLineEach(t *testing.T, p *harness.Proxy) {
	anna, bert := c.account(t, "anna", "b1"), c.account(t, "bert", "b2")
	m := newMessage("One id", 1000)
	send(t, p, m, anna.Name, bert.Name)
	took := awaitLine(t, c.Backend("b1").Log, "the message", func(l line) bool { return l.Msg == "message" && len(l.To) == 1 && l.To[0] == anna.Name })
	this := func(protocol string) func(line) bool {
		return func(l line) bool { return l.Msg == "session" && l.Session == took.Session && l.Protocol == protocol }
	}
	for log, protocol := range map[string]string{p.Log: "smtp", c.Backend("b1").Log: "lmtp", c.Backend("b2").Log: "lmtp"} {
		awaitLine(t, log, "session "+took.Session, this(protocol))
		if n := len(lines(t, log, this(protocol))); n != 1 {
			t.Errorf("session %s has %d %s lines in %s", took.Session, n, protocol, log)
		}
	}
}
