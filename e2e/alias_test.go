package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"switchyard/internal/harness"
)

// TestRecipients: what the directory says about an address is followed, whichever
// backends it leads to, and each mailbox gets a message once.
func TestRecipients(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	p := c.Proxies[0]
	anna, bert, cora := c.account(t, "anna", "b1"), c.account(t, "bert", "b2"), c.account(t, "cora", "b2")
	c.label(t, "team@example.test", map[string]string{"alias": anna.Name + "," + bert.Name})
	c.label(t, "everybody@example.test", map[string]string{"alias": "team@example.test," + cora.Name})
	c.label(t, "ring@example.test", map[string]string{"alias": "gnir@example.test"})
	c.label(t, "gnir@example.test", map[string]string{"alias": "ring@example.test"})

	want := map[string][]message{}
	mail := func(subject string, to string, reached ...harness.Account) {
		m := newMessage(subject, 1500)
		send(t, p, m, to)
		for _, a := range reached {
			want[a.Name] = append(want[a.Name], m)
		}
	}
	mail("an alias", "team@example.test", anna, bert)
	mail("an alias of an alias", "everybody@example.test", anna, bert, cora)
	mail("a detail", strings.Replace(cora.Name, "@", "+lists@", 1), cora)
	both := newMessage("two ways to the same mailboxes", 1500)
	send(t, p, both, "team@example.test", "everybody@example.test", anna.Name)
	for _, a := range []harness.Account{anna, bert, cora} {
		want[a.Name] = append(want[a.Name], both)
	}
	if err := trySend(p.Addr["smtp"], newMessage("a ring", 100), "ring@example.test"); code(err) != 550 || !strings.Contains(err.Error(), "ring@example.test -> gnir@example.test -> ring@example.test") {
		t.Errorf("a ring of aliases: %v, want 550 and the ring", err)
	}
	if err := trySend(p.Addr["smtp"], newMessage("nobody", 100), "nobody@example.test"); code(err) != 550 {
		t.Errorf("before there is a catch-all: %v, want 550", err)
	}
	c.label(t, "*@example.test", map[string]string{"alias": bert.Name})
	eventually(t, "the catch-all", func() error {
		m := newMessage("the catch-all", 1500)
		err := trySend(p.Addr["smtp"], m, "whoever@example.test")
		if err == nil {
			want[bert.Name] = append(want[bert.Name], m)
		}
		return err
	})
	own := newMessage("from one of us", 1500)
	c.submit(t, p, cora, own, "team@example.test")
	want[anna.Name], want[bert.Name] = append(want[anna.Name], own), append(want[bert.Name], own)
	for _, a := range []harness.Account{anna, bert, cora} {
		c.wantInbox(t, c.Proxies[1], a, want[a.Name]...)
	}
}

// TestForwards: a forward is followed from the backend, to users and to other
// domains; without a mailbox of its own if the directory says so. Users who forward
// to each other are told so.
func TestForwards(t *testing.T) {
	slow(t)
	far := startSink(t)
	c := start(t, harness.Spec{
		Resolve:      `relayed = ["partner.example"]`,
		BackendExtra: fmt.Sprintf("relay = %q\nrelay_tls = \"off\"", far.addr),
	})
	p := c.Proxies[0]
	anna, bert, cora := c.account(t, "anna", "b1"), c.account(t, "bert", "b2"), c.account(t, "cora", "b1")
	c.change(t, anna, map[string]string{"fwd": bert.Name})
	c.change(t, cora, map[string]string{"fwd": bert.Name + ",cora@far.example", "fwdonly": "1"})

	toAnna, toCora, partner := newMessage("to Anna", 1500), newMessage("to Cora", 1500), newMessage("to a partner", 1500)
	send(t, p, toAnna, anna.Name)
	c.wantInbox(t, p, bert, toAnna)
	c.wantInbox(t, p, anna, toAnna)
	send(t, p, toCora, cora.Name)
	c.wantInbox(t, p, bert, toAnna, toCora)
	c.wantInbox(t, p, anna, toAnna)
	c.wantInbox(t, p, cora)
	far.want(t, "cora@far.example", toCora)
	send(t, p, partner, "info@partner.example")
	far.want(t, "info@partner.example", partner)
	if err := trySend(p.Addr["smtp"], newMessage("to a stranger", 100), "x@far.example"); code(err) != 550 {
		t.Errorf("a domain that is not ours: %v, want 550", err)
	}
	c.change(t, bert, map[string]string{"fwd": anna.Name})
	eventually(t, "the circle is seen", func() error {
		err := trySend(p.Addr["smtp"], newMessage("in a circle", 100), anna.Name)
		if chain := anna.Name + " -> " + bert.Name + " -> " + anna.Name; code(err) != 550 || !strings.Contains(err.Error(), chain) {
			return fmt.Errorf("got %v, want 550 and %s", err, chain)
		}
		return nil
	})
}

// TestScripts: a user's script comes by ManageSieve through a proxy, and mail that
// comes through the other proxy goes by it.
func TestScripts(t *testing.T) {
	slow(t)
	far := startSink(t)
	c := start(t, harness.Spec{BackendExtra: fmt.Sprintf("relay = %q\nrelay_tls = \"off\"", far.addr)})
	bert := c.account(t, "bert", "b2")
	c.putScript(t, c.Proxies[0], bert, `require ["fileinto", "mailbox", "reject", "copy"];
if header :contains "subject" "list" { fileinto :create "Lists"; stop; }
if header :is "subject" "unwanted" { reject "Please do not send this."; stop; }
if header :is "subject" "also" { redirect :copy "bert@far.example"; }
`)
	p := c.Proxies[1]
	list, also := newMessage("from the list", 1500), newMessage("also", 1500)
	send(t, p, list, bert.Name)
	send(t, p, also, bert.Name)
	if err := trySend(p.Addr["smtp"], newMessage("unwanted", 1500), bert.Name); code(err) != 550 || !strings.Contains(err.Error(), "Please do not send this.") {
		t.Errorf("the rejection: %v", err)
	}
	c.wantInbox(t, p, bert, also)
	if got := c.mailbox(t, p, bert, "Lists"); len(got) != 1 || count(got, list) != 1 {
		t.Errorf("%d messages in Lists, this one %d times", len(got), count(got, list))
	}
	far.want(t, "bert@far.example", also)
}

// TestRefusedBeside: one of two users on two backends refuses a message by a script.
// The other has it, and the sender is told by a report through a backend's queue, once
// though the message comes again by another proxy; what comes for an alias too.
func TestRefusedBeside(t *testing.T) {
	slow(t)
	far := startSink(t)
	c := start(t, harness.Spec{BackendExtra: fmt.Sprintf("relay = %q\nrelay_tls = \"off\"", far.addr)})
	anna, bert := c.account(t, "anna", "b1"), c.account(t, "bert", "b2")
	c.label(t, "team@example.test", map[string]string{"alias": anna.Name + "," + bert.Name})
	c.putScript(t, c.Proxies[0], bert, `require "reject";
reject "Please do not send this.";
`)
	m := newMessage("unwanted by one", 1500)
	for _, p := range c.Proxies {
		send(t, p, m, anna.Name, bert.Name)
	}
	c.wantInbox(t, c.Proxies[0], anna, m)
	c.wantInbox(t, c.Proxies[0], bert)
	reports := func(n int) {
		t.Helper()
		eventually(t, "reports for the sender", func() error {
			far.mu.Lock()
			defer far.mu.Unlock()
			got := far.got["sender@example.org"]
			if len(got) != n {
				return fmt.Errorf("%d are there, want %d", len(got), n)
			}
			for _, want := range []string{"Final-Recipient: rfc822; " + bert.Name, "Status: 5.7.1", "Please do not send this.", "Subject: unwanted by one"} {
				if !bytes.Contains(got[n-1], []byte(want)) {
					return fmt.Errorf("the report lacks %q: %s", want, got[n-1])
				}
			}
			return nil
		})
	}
	reports(1)
	team := newMessage("unwanted by one of the team", 1500)
	send(t, c.Proxies[1], team, "team@example.test")
	c.wantInbox(t, c.Proxies[0], anna, m, team)
	reports(2)
}

// label writes a record of the directory that is no account.
func (c *cluster) label(t testing.TB, name string, labels map[string]string) {
	t.Helper()
	client, err := c.Directory()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Set(context.Background(), name, nil, labels); err != nil {
		t.Fatal(err)
	}
}

// change writes labels of an account.
func (c *cluster) change(t testing.TB, a harness.Account, labels map[string]string) {
	t.Helper()
	labels["tohost"] = a.Home
	c.label(t, a.Name, labels)
}

// putScript makes a script the active one of a user.
func (c *cluster) putScript(t testing.TB, p *harness.Proxy, a harness.Account, script string) {
	t.Helper()
	k := plain(t, p.Addr["managesieve"])
	defer k.conn.Close()
	k.until("OK")
	k.say(`AUTHENTICATE "PLAIN" %q`, plainResponse(a))
	k.want("OK")
	script = strings.ReplaceAll(script, "\n", "\r\n")
	k.say("PUTSCRIPT \"main\" {%d+}\r\n%s", len(script), script)
	k.want("OK")
	k.say(`SETACTIVE "main"`)
	k.want("OK")
	k.say("LOGOUT")
	k.want("OK")
}

// want waits until an address has got exactly this message.
func (s *sink) want(t testing.TB, to string, m message) {
	t.Helper()
	eventually(t, "mail for "+to, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if got := s.got[to]; len(got) != 1 || !bytes.HasSuffix(got[0], []byte(m.text)) {
			return fmt.Errorf("%d messages are there", len(got))
		}
		return nil
	})
}
