package e2e

import (
	"testing"

	"switchyard/internal/harness"
)

// TestSmoke is the whole way once: a message to recipients on both backends in
// through one proxy, and out through the other by IMAP and by POP3. It is the
// part of this package that runs in the check of every commit.
func TestSmoke(t *testing.T) {
	c := start(t, harness.Spec{})
	anna, bert := c.account(t, "anna", "b1"), c.account(t, "bert", "b2")
	m := newMessage("Hello to both", 4<<10)
	send(t, c.Proxies[0], m, anna.Name, bert.Name)
	for _, a := range []harness.Account{anna, bert} {
		c.wantInbox(t, c.Proxies[1], a, m)
		if got := c.maildrop(t, c.Proxies[1], a); len(got) != 1 || count(got, m) != 1 {
			t.Errorf("%s has %d messages by POP3, and the one sent %d times", a.Name, len(got), count(got, m))
		}
		in := awaitLine(t, c.Proxies[1].Log, "the session of "+a.Name, sessionOf("imap", a.Name))
		out := awaitLine(t, c.Backend(a.Home).Log, "the session of "+a.Name, sessionOf("imap", a.Name))
		if in.Session != out.Session {
			t.Errorf("%s: session %s at the proxy, %s at the backend", a.Name, in.Session, out.Session)
		}
	}
	reply := newMessage("Re: Hello to both", 4<<10)
	c.submit(t, c.Proxies[0], anna, reply, anna.Name, bert.Name)
	c.wantInbox(t, c.Proxies[1], anna, m, reply)
}
