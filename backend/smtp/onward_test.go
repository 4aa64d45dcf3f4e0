package smtp

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"switchyard/backend/queue"
	"switchyard/internal/server"
	"switchyard/internal/tlsconf"
)

// listen serves a node's handler on loopback until the test ends.
func listen(t *testing.T, handle server.Handler) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, ln, server.Options{}, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// TestOnward: mail for an account that lives elsewhere, and mail for another
// domain, leaves the queue over TLS with a login.
func TestOnward(t *testing.T) {
	other := newNode(t, settings{still: true, queue: queue.Options{Relay: []queue.Server{{Address: "127.0.0.1:1"}}}})
	far := other.dir.accounts["far@here.test"]
	far.Home = "b1"
	other.dir.accounts["far@here.test"] = far
	proxy := queue.Server{Address: listen(t, other.lmtp.ServeTLS), LMTP: true, Mode: tlsconf.Implicit, TLS: other.client,
		Name: "proxy", Password: "cluster secret"}
	relay := queue.Server{Address: listen(t, other.subm.Serve), Mode: tlsconf.StartTLS, TLS: other.client,
		Name: "anna@here.test", Password: password}
	n := newNode(t, settings{queue: queue.Options{Proxies: []queue.Server{proxy}, Relay: []queue.Server{relay}}})
	c := n.secured(n.subm.ServeTLS)
	c.run(userLogin + `
		C: MAIL FROM:<anna@here.test> RET=HDRS ENVID=e1
		S: 250 *
		C: RCPT TO:<far@here.test>
		S: 250 *
		C: RCPT TO:<x@out.test> NOTIFY=NEVER
		S: 250 *
		C: DATA
		S: 354 *
		C: Subject: onward
		C: 
		C: ..
		C: .
		S: 250 *`)
	eventually(t, "the queue is empty", func() bool { return n.queue.Len() == 0 })
	if got := other.inbox("far"); len(got) != 1 || !strings.Contains(got[0], "\r\n\r\n.\r\n") {
		t.Errorf("far has %q", got)
	}
	list := other.queue.List()
	if len(list) != 1 || list[0].From != "anna@here.test" || list[0].Recipients[0].Address != "x@out.test" || list[0].Recipients[0].Notify[0] != "NEVER" {
		t.Errorf("the relay has %+v", list)
	}
}

// TestNoOnward: no login in clear, and none to a server that cannot prove who
// it is; the message waits.
func TestNoOnward(t *testing.T) {
	other := newNode(t, settings{still: true})
	clear, tlsAddress := listen(t, other.subm.Serve), listen(t, other.subm.ServeTLS)
	for name, s := range map[string]queue.Server{
		"login without TLS":   {Address: clear, Name: "anna", Password: password},
		"unknown CA":          {Address: tlsAddress, Mode: tlsconf.Implicit, TLS: &tls.Config{}},
		"unknown CA, upgrade": {Address: clear, Mode: tlsconf.StartTLS},
		"LMTP to SMTP":        {Address: tlsAddress, LMTP: true, Mode: tlsconf.Implicit, TLS: other.client},
		"wrong password":      {Address: tlsAddress, Mode: tlsconf.Implicit, TLS: other.client, Name: "anna", Password: "wrong"},
		"not listening":       {Address: "127.0.0.1:1"},
		"no address":          {Address: "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, settings{queue: queue.Options{Relay: []queue.Server{s}}})
			c := n.secured(n.subm.ServeTLS)
			c.run(userLogin + strings.Replace(mailToBen, "ben@here.test", "x@out.test", 1))
			eventually(t, "one attempt", func() bool { return n.queue.List()[0].Recipients[0].Attempts == 1 })
			if r := n.queue.List()[0].Recipients[0]; r.Address != "x@out.test" || r.State != queue.Waiting || !strings.HasPrefix(r.Reply, "451 4.4.1") && name != "LMTP to SMTP" || strings.Contains(r.Reply, password) {
				t.Errorf("got %+v", r)
			}
		})
	}
}
