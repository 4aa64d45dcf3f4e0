package e2e

import (
	"context"
	"strings"
	"testing"

	"switchyard/internal/harness"
)

// TestAnswersOnTheWire keeps no, not now and broken apart, to the letter, in
// each protocol.
func TestAnswersOnTheWire(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	known := c.account(t, "known", "b2")
	warm := c.account(t, "warm", "b1")
	wrong := known
	wrong.Password = "not-the-password"
	for _, s := range []struct {
		name    string
		account harness.Account
		before  func()
		want    map[string]string
	}{
		{"found", warm, nil, map[string]string{
			"imap": "OK", "pop3": "+OK", "submission": "235 2.7.0", "smtp": "250 2.1.5"}},
		{"absent", harness.Account{Name: "nobody@example.test", Password: "x"}, nil, map[string]string{
			"imap": "NO [AUTHENTICATIONFAILED]", "pop3": "-ERR [AUTH]", "submission": "535 5.7.8", "smtp": "550 5.1.1"}},
		{"wrong password", wrong, nil, map[string]string{
			"imap": "NO [AUTHENTICATIONFAILED]", "pop3": "-ERR [AUTH]", "submission": "535 5.7.8"}},
		{"foreign domain", harness.Account{Name: "somebody@far.example"}, nil, map[string]string{
			"smtp": "550 5.7.1"}},
		{"home unknown to the proxy", c.account(t, "lost", "b9"), nil, map[string]string{
			"imap": "NO [UNAVAILABLE]", "pop3": "-ERR [SYS/TEMP]", "submission": "454 4.7.0", "smtp": "451 4.3.5"}},
		{"directory away, name never seen", harness.Account{Name: "stranger@example.test", Password: "x"}, c.TCPAuth.Kill, map[string]string{
			"imap": "NO [UNAVAILABLE]", "pop3": "-ERR [SYS/TEMP]", "submission": "454 4.7.0", "smtp": "451 4.4.3"}},
		{"directory away, account not logged in yet", known, nil, map[string]string{
			"imap": "NO [UNAVAILABLE]", "pop3": "-ERR [SYS/TEMP]", "submission": "454 4.7.0"}},
		{"directory away, account in the cache", warm, nil, map[string]string{
			"imap": "OK", "pop3": "+OK", "submission": "235 2.7.0", "smtp": "250 2.1.5"}},
	} {
		if s.before != nil {
			s.before()
		}
		for protocol, want := range s.want {
			if got := c.ask(t, c.Proxies[0], protocol, s.account); !strings.HasPrefix(got, want) {
				t.Errorf("%s, %s: got %q, want %s", s.name, protocol, got, want)
			}
		}
	}
	if err := c.StartDirectory(context.Background()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a login behind the directory's return", func() error {
		return wantPrefix(c.ask(t, c.Proxies[0], "imap", known), "OK")
	})
}

// TestDefaultBackend: it is for accounts that are found without a home, and
// for nobody else.
func TestDefaultBackend(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{DefaultBackend: "b2"})
	p := c.Proxies[0]
	a := c.account(t, "homeless", "")
	m := newMessage("To the default", 1000)
	send(t, p, m, a.Name)
	c.wantInbox(t, c.Proxies[1], a, m)
	if l := awaitLine(t, c.Proxies[1].Log, a.Name, sessionOf("imap", a.Name)); l.Node != "b2" {
		t.Errorf("node %q, want b2", l.Node)
	}
	lost := c.account(t, "lost", "b9")
	c.ask(t, p, "imap", lost)
	l := awaitLine(t, p.Log, lost.Name, sessionOf("imap", lost.Name))
	if l.Node != "" || l.Result != "misconfigured" {
		t.Errorf("an account with an unknown home: node %q, result %q", l.Node, l.Result)
	}
}

// TestSubmission: mail of a user reaches users of the own backend and of
// another, through the proxies.
func TestSubmission(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	anna, cora, bert := c.account(t, "anna", "b1"), c.account(t, "cora", "b1"), c.account(t, "bert", "b2")
	m := newMessage("To all of you", 3000)
	c.submit(t, c.Proxies[0], anna, m, anna.Name, cora.Name, bert.Name)
	for _, a := range []harness.Account{anna, cora, bert} {
		c.wantInbox(t, c.Proxies[1], a, m)
	}
}

// TestRetry: a message that comes again is stored once, also through another
// proxy; without a Message-ID nobody can know, and it is stored twice rather
// than lost.
func TestRetry(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	anna, bert := c.account(t, "anna", "b1"), c.account(t, "bert", "b2")
	m := newMessage("Once", 3000)
	for _, p := range c.Proxies {
		send(t, p, m, anna.Name, bert.Name)
	}
	c.wantInbox(t, c.Proxies[0], anna, m)
	c.wantInbox(t, c.Proxies[0], bert, m)
	nameless := withoutID("Twice", 3000)
	for _, p := range c.Proxies {
		send(t, p, nameless, anna.Name)
	}
	if got := c.inbox(t, c.Proxies[0], anna); len(got) != 3 || count(got, nameless) != 2 {
		t.Errorf("%d messages, the one without an id %d times", len(got), count(got, nameless))
	}
}

// TestBackendDown: mail for a backend that is down is to come again, others go
// on, and when it is back mail flows.
func TestBackendDown(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	p := c.Proxies[0]
	anna, bert := c.account(t, "anna", "b1"), c.account(t, "bert", "b2")
	if err := c.Backend("b2").Stop(); err != nil {
		t.Fatal(err)
	}
	for protocol, want := range map[string]string{"imap": "NO [UNAVAILABLE]", "pop3": "-ERR [SYS/TEMP]", "submission": "454 4.7.0", "smtp": "451 4.4.1"} {
		if got := c.ask(t, p, protocol, bert); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %s", protocol, got, want)
		}
	}
	m := newMessage("While b2 is down", 2000)
	if err := trySend(p.Addr["smtp"], m, bert.Name); code(err) != 451 {
		t.Errorf("got %v, want 451", err)
	}
	send(t, p, m, anna.Name)
	c.wantInbox(t, p, anna, m)
	if err := c.StartBackend(context.Background(), c.Backend("b2")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "mail for b2 behind its return", func() error { return trySend(p.Addr["smtp"], m, bert.Name) })
	if got := c.inbox(t, p, bert); count(got, m) != 1 {
		t.Errorf("the message is there %d times", count(got, m))
	}
}

func wantPrefix(got, want string) error {
	if !strings.HasPrefix(got, want) {
		return &unexpected{got, want}
	}
	return nil
}

// unexpected is an answer that is not the one wanted.
type unexpected struct{ got, want string }

func (e *unexpected) Error() string { return "got " + e.got + ", want " + e.want }
