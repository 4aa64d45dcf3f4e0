package smtp

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"switchyard/backend/queue"
	"switchyard/lookup"
	"switchyard/lookup/resolve"
)

// resolving is a node that follows what the directory says, and relays.
func resolving(t *testing.T, s settings) *node {
	t.Helper()
	dir := &directory{accounts: accounts()}
	for name, a := range map[string]lookup.Account{
		"team":    {Attributes: map[string]string{"alias": "anna, far, ben+team"}},
		"abroad":  {Attributes: map[string]string{"alias": "ben, x@out.test"}},
		"ring":    {Attributes: map[string]string{"alias": "gnir"}},
		"gnir":    {Attributes: map[string]string{"alias": "ring"}},
		"gone":    {Attributes: map[string]string{"alias": "nobody"}},
		"shut":    {Attributes: map[string]string{"alias": "closed"}},
		"mover":   {Home: "b1", Forwards: []string{"ben@here.test", "x@out.test"}, Attributes: map[string]string{"fwdonly": "yes"}},
		"pingfwd": {Home: "b1", Forwards: []string{"pongfwd@here.test"}},
		"pongfwd": {Home: "b2", Forwards: []string{"pingfwd@here.test"}},
	} {
		a.Name = name + "@here.test"
		dir.accounts[a.Name] = a
	}
	how := resolve.Options{Domains: []string{"here.test"}}
	var err error
	if s.queue.Chains, err = resolve.New(dir, how); err != nil {
		t.Fatal(err)
	}
	how.LeaveForwards = true
	if s.queue.Resolver, err = resolve.New(dir, how); err != nil {
		t.Fatal(err)
	}
	s.dir, s.still = dir, true
	return newNode(t, s)
}

var toNowhere = queue.Options{Relay: []queue.Server{{Address: "127.0.0.1:1"}}}

// queued lists the recipients in the queue, by message.
func (n *node) queued() string {
	var out []string
	for _, e := range n.queue.List() {
		var to []string
		for _, r := range e.Recipients {
			to = append(to, r.Address)
		}
		out = append(out, strings.Join(to, "+"))
	}
	return strings.Join(out, ", ")
}

// TestSubmissionResolves: who submits hears at once what is known of an alias, in
// the words that inbound mail gets, and the queue has those behind it.
func TestSubmissionResolves(t *testing.T) {
	n := resolving(t, settings{queue: toNowhere})
	c := n.secured(n.subm.ServeTLS)
	c.run(userLogin)
	c.run(`
		C: MAIL FROM:<anna@here.test>
		S: 250 *
		C: RCPT TO:<Team@here.test> NOTIFY=NEVER
		S: 250 *
		C: RCPT TO:<abroad@here.test>
		S: 250 *
		C: RCPT TO:<anna+x@here.test>
		S: 250 *
		C: RCPT TO:<ring@here.test>
		S: 550 5.4.6 *ring@here.test -> gnir@here.test -> ring@here.test
		C: RCPT TO:<pingfwd@here.test>
		S: 550 5.4.6 *pingfwd@here.test -> pongfwd@here.test -> pingfwd@here.test
		C: RCPT TO:<gone@here.test>
		S: 550 5.1.1 *
		C: RCPT TO:<shut@here.test>
		S: 550 5.2.1 *
		C: RCPT TO:<nobody@here.test>
		S: 550 5.1.1 *`)
	n.dir.set(lookup.Unavailable("dial", errors.New("refused")))
	c.run("C: RCPT TO:<team@here.test>\nS: 451 4.3.0 *")
	n.dir.set(errors.New("a bug"))
	c.run("C: RCPT TO:<team@here.test>\nS: 451 4.3.0 *")
	n.dir.set(nil)
	c.run("C: DATA\nS: 354 *\nC: Message-ID: <1@x>\nC: \nC: .\nS: 250 *")
	if got := n.queued(); got != "anna@here.test+far@here.test+ben+team@here.test+ben@here.test+x@out.test+anna+x@here.test" {
		t.Errorf("queued %s", got)
	}
	if r := n.queue.List()[0].Recipients[1]; r.Original != "rfc822;Team@here.test" || fmt.Sprint(r.Notify) != "[NEVER]" {
		t.Errorf("queued %+v", r)
	}

	n = resolving(t, settings{})
	c = n.secured(n.subm.ServeTLS)
	c.run(userLogin)
	c.run("C: MAIL FROM:<anna@here.test>\nS: 250 *\nC: RCPT TO:<abroad@here.test>\nS: 451 4.3.5 *")
}

// TestForwarded: LMTP answers for an account that forwards when the forwards are in
// the queue, once however often the proxies come; with what the sender wants to
// hear.
func TestForwarded(t *testing.T) {
	n := resolving(t, settings{queue: toNowhere})
	c := n.secured(n.lmtp.ServeTLS)
	c.run(proxyLogin)
	for i := range 2 {
		c.run(`
			C: MAIL FROM:<a@out.test> XTRACELEN=` + fmt.Sprint(21+i) + ` RET=HDRS ENVID=e1
			S: 250 *
			C: RCPT TO:<mover@here.test> NOTIFY=FAILURE
			S: 250 *
			C: RCPT TO:<pingfwd@here.test>
			S: 550 5.4.6 *
			C: DATA
			S: 354 *
			C: Received: by proxy ` + strings.Repeat("x", i) + `
			C: Message-ID: <1@out.test>
			C: 
			C: .
			S: 250 2.1.5 *`)
	}
	if got := n.queued(); got != "ben@here.test+x@out.test" {
		t.Errorf("queued %s", got)
	}
	if r := n.queue.List()[0].Recipients[1]; r.Original != "rfc822;mover@here.test" || fmt.Sprint(r.Notify) != "[FAILURE]" {
		t.Errorf("queued %+v", r)
	}
	if got := n.inbox("mover"); len(got) != 0 {
		t.Errorf("mover has %q", got)
	}
}

// TestRelayed: what a proxy hands over for another domain, or a report for one of
// this cluster's users, is in the queue once; without a relay the answer is "not
// now"; and it is none of a user's business.
func TestRelayed(t *testing.T) {
	n := resolving(t, settings{queue: toNowhere})
	c := n.secured(n.lmtp.ServeTLS)
	c.run(proxyLogin)
	for range 2 {
		c.run(`
			C: MAIL FROM:<a@out.test>
			S: 250 *
			C: RCPT TO:<x@out.test> XRELAY NOTIFY=NEVER ORCPT=rfc822;abroad@here.test
			S: 250 *
			C: RCPT TO:<far@here.test> XRELAY
			S: 250 *
			C: DATA
			S: 354 *
			C: Message-ID: <1@out.test>
			C: 
			C: .
			S: 250 *
			S: 250 *`)
	}
	if got := n.queued(); got != "x@out.test, far@here.test" && got != "far@here.test, x@out.test" {
		t.Errorf("queued %s", got)
	}
	for _, e := range n.queue.List() {
		if r := e.Recipients[0]; r.Address == "x@out.test" && (r.Original != "rfc822;abroad@here.test" || fmt.Sprint(r.Notify) != "[NEVER]") {
			t.Errorf("queued %+v", r)
		}
	}
	alone := resolving(t, settings{})
	c = alone.secured(alone.lmtp.ServeTLS)
	c.run(proxyLogin)
	c.run("C: MAIL FROM:<a@out.test>\nS: 250 *\nC: RCPT TO:<x@out.test> XRELAY\nS: 451 4.3.5 *\nC: RCPT TO:<far@here.test> XRELAY\nS: 250 *")
	c = n.secured(n.subm.ServeTLS)
	c.run(userLogin)
	c.run("C: MAIL FROM:<anna@here.test>\nS: 250 *\nC: RCPT TO:<x@out.test> XRELAY\nS: 555 5.5.4 *")
}
