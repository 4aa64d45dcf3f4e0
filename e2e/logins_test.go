package e2e

import (
	"strings"
	"testing"

	"switchyard/internal/harness"
)

// TestMasterUser: who is named a master opens another's mailbox with their own
// password, and nobody else does; a user has so many sessions and not more.
func TestMasterUser(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{ProxyExtra: `
[proxyd.limits]
user_sessions = 2
[proxyd.sasl]
masters = ["admin@example.test"]
master_networks = ["127.0.0.0/8"]
master_separator = "*"
`})
	p := c.Proxies[0]
	anna, bert := c.account(t, "anna", "b1"), c.account(t, "bert", "b2")
	admin := harness.Account{Name: "admin@example.test", Password: bert.Password + "-admin", Home: "b2"}
	c.set(t, admin)
	m := newMessage("for Anna", 1000)
	send(t, p, m, anna.Name)

	as := harness.Account{Name: anna.Name + "*" + admin.Name, Password: admin.Password}
	c.wantInbox(t, p, as, m)
	wrong := as
	wrong.Password = anna.Password
	if got := c.ask(t, p, "imap", wrong); !strings.HasPrefix(got, "NO [AUTHENTICATIONFAILED]") {
		t.Errorf("the user's password for the master: %s", got)
	}
	for protocol, a := range map[string]harness.Account{
		"imap": {Name: anna.Name + "*" + bert.Name, Password: bert.Password},
		"pop3": {Name: anna.Name + "*" + bert.Name, Password: bert.Password},
	} {
		if got := c.ask(t, p, protocol, a); !strings.HasPrefix(got, "NO [AUTHENTICATIONFAILED]") && !strings.HasPrefix(got, "-ERR [AUTH]") {
			t.Errorf("%s: somebody who is no master: %s", protocol, got)
		}
	}

	open := []*talk{plain(t, p.Addr["imap"]), plain(t, p.Addr["imap"])}
	for _, k := range open {
		if got := c.answer(k, "imap", bert); !strings.HasPrefix(got, "OK") {
			t.Fatalf("a session of two: %s", got)
		}
	}
	if got := c.ask(t, p, "imap", bert); !strings.HasPrefix(got, "NO [UNAVAILABLE]") {
		t.Errorf("a third session: %s", got)
	}
	open[0].logOut("imap")
	eventually(t, "a session after another has ended", func() error { return wantPrefix(c.ask(t, p, "imap", bert), "OK") })
}
