package e2e

import (
	"crypto/tls"
	"strings"
	"testing"

	"switchyard/internal/harness"
)

// TestTrusted: a proxy or backend of ours does not wait for the greeting, and behind
// STARTTLS it says who its client is; who speaks early from elsewhere is refused, on the same listener.
func TestTrusted(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{Backends: []string{"b1"}, Proxies: 1, ProxyExtra: `
[proxyd.smtp]
pause = "30s"
[[proxyd.listen]]
protocol = "smtp"
address = "0.0.0.0:0"
trusted_networks = ["127.250.0.0/16"]
`})
	p := c.Proxies[0]
	address := c.announced(t, p, "smtp")
	anna := c.account(t, "anna", "b1")

	stranger := plain(t, address)
	stranger.say("EHLO early.example")
	stranger.wantReply("554 5.5.0")
	stranger.end()

	k := newTalk(t, dialFrom(t, "127.250.0.1", address))
	k.say("EHLO proxy2.example.test")
	k.wantReply("220")
	k.wantReply("250")
	k.say("XCLIENT ADDR=192.0.2.8")
	k.wantReply("550")
	k.say("STARTTLS")
	k.wantReply("220")
	k = newTalk(t, tls.Client(k.conn, c.tls))
	k.say("EHLO proxy2.example.test")
	k.wantReply("250")
	k.say("XCLIENT ADDR=192.0.2.7 PORT=4711 HELO=far.example")
	k.wantReply("220")
	k.say("EHLO proxy2.example.test")
	k.wantReply("250")
	m := newMessage("through two proxies", 1500)
	k.say("MAIL FROM:<sender@example.org>")
	k.wantReply("250")
	k.say("RCPT TO:<%s>", anna.Name)
	k.wantReply("250")
	k.say("DATA")
	k.wantReply("354")
	k.send(m.text + ".\r\n")
	k.wantReply("250")
	k.logOut("smtp")
	c.wantInbox(t, p, anna, m)
	if got := string(c.inbox(t, p, anna)[0]); !strings.Contains(got, "Received: from far.example ([192.0.2.7])") {
		t.Errorf("the trace is %.300q", got)
	}
	for _, log := range []string{p.Log, c.Backends[0].Log} {
		awaitLine(t, log, "the far client", func(l line) bool { return l.Msg == "session" && l.Client == "192.0.2.7:4711" })
	}
}
