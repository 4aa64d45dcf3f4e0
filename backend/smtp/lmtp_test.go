package smtp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"switchyard/backend"
	"switchyard/backend/store"
	"switchyard/internal/origin"
	"switchyard/internal/server"
	"switchyard/lookup"

	"go.uber.org/zap"
)

// proxyLogin is how a proxy begins, behind the handshake.
var proxyLogin = `
	S: 220 b1a.here.test LMTP
	C: LHLO proxy.here.test
	S- AUTH PLAIN LOGIN
	C: AUTH PLAIN ` + b64("\x00proxy\x00cluster secret") + `
	S: 235 *
`

func TestDelivery(t *testing.T) {
	n := newNode(t, settings{})
	c := n.secured(n.lmtp.ServeTLS)
	c.run(`
		S: 220 *
		C: LHLO proxy.here.test
		S- XCLIENT *
		C: XCLIENT SESSION=s1 ADDR=192.0.2.7 PORT=5000 HELO=client.example
		S: 220 *
		C: LHLO proxy.here.test
		S- AUTH *
		C: AUTH PLAIN ` + b64("\x00proxy\x00cluster secret") + `
		S: 235 *
		C: LHLO proxy.here.test
		S- XRCPTFORWARD
		C: MAIL FROM:<sender@out.test> XTRACELEN=20
		S: 250 *
		C: RCPT TO:<anna@here.test> XRCPTFORWARD=` + origin.ForwardGeneration(1) + `
		S: 250 *
		C: RCPT TO:<nobody@here.test>
		S: 550 5.1.1 *
		C: RCPT TO:<Ben+lists@here.test>
		S: 250 *
		C: DATA
		S: 354 *
		C: Received: by proxy
		C: Message-ID: <1@out.test>
		C: Subject: x
		C: 
		C: ..body
		C: .
		S: 250 2.1.5 delivered
		S: 250 2.1.5 delivered
		C: QUIT
		S: 221 *
		EOF`)
	for _, name := range []string{"anna", "ben"} {
		box := n.inbox(name)
		if len(box) != 1 {
			t.Fatalf("%s has %d messages", name, len(box))
		}
		head, rest, _ := strings.Cut(box[0], "Received: by proxy\r\n")
		if rest != "Message-ID: <1@out.test>\r\nSubject: x\r\n\r\n.body\r\n" {
			t.Errorf("stored %q", box[0])
		}
		if !strings.HasPrefix(head, "Return-Path: <sender@out.test>\r\nReceived: from proxy.here.test ([127.0.0.1])\r\n\tby b1a.here.test with LMTPSA id s1;\r\n\t") {
			t.Errorf("head %q", head)
		}
	}
	messages := n.logs.FilterMessage("message").All()
	if len(messages) != 1 {
		t.Fatalf("%d lines for the message", len(messages))
	}
	f := messages[0].ContextMap()
	if f["session"] != "s1" || f["client"] != "192.0.2.7:5000" || f["from"] != "sender@out.test" || f["delivered"] != int64(2) {
		t.Errorf("logged %v", f)
	}
	if s := n.logs.FilterMessage("session").All(); len(s) != 1 || s[0].ContextMap()["session"] != "s1" || s[0].ContextMap()["reason"] != "quit" {
		t.Errorf("logged %v", s)
	}
	if all := fmt.Sprint(n.logs.All()); strings.Contains(all, "secret") {
		t.Error("a secret was logged")
	}
}

// deliver sends one message in a session that is logged in.
func deliver(c *client, trace, id string, to ...string) {
	c.t.Helper()
	var s strings.Builder
	fmt.Fprintf(&s, "C: MAIL FROM:<sender@out.test> XTRACELEN=%d\nS: 250 *\n", len(trace)+2)
	for _, a := range to {
		fmt.Fprintf(&s, "C: RCPT TO:<%s>\nS: 250 *\n", a)
	}
	s.WriteString("C: DATA\nS: 354 *\n")
	for _, line := range []string{trace, "Message-ID: <" + id + ">", "", "body", "."} {
		s.WriteString("C: " + line + "\n")
	}
	c.run(s.String())
}

// TestRepeated: a message that comes again, by another proxy with another
// trace, is stored once; one without a Message-ID twice.
func TestRepeated(t *testing.T) {
	n := newNode(t, settings{})
	for i, want := range []string{"delivered", "delivered before"} {
		c := n.secured(n.lmtp.ServeTLS)
		c.run(proxyLogin)
		deliver(c, fmt.Sprintf("Received: by proxy %d", i), "1@out.test", "anna@here.test")
		c.run("S: 250 2.1.5 " + want)
	}
	if got := len(n.inbox("anna")); got != 1 {
		t.Errorf("%d messages, want 1", got)
	}
	for range 2 {
		c := n.secured(n.lmtp.ServeTLS)
		c.run(proxyLogin + `
			C: MAIL FROM:<>
			S: 250 *
			C: RCPT TO:<ben@here.test>
			S: 250 *
			C: DATA
			S: 354 *
			C: Subject: x
			C: 
			C: .
			S: 250 2.1.5 delivered`)
	}
	if got := len(n.inbox("ben")); got != 2 {
		t.Errorf("%d messages, want 2", got)
	}
}

// TestSuccess: a sender who asks for it hears that the message is in the mailbox, and
// hears it once, though the proxies bring the message twice.
func TestSuccess(t *testing.T) {
	n := newNode(t, settings{})
	for i := range 2 {
		c := n.secured(n.lmtp.ServeTLS)
		c.run(proxyLogin + `
			C: MAIL FROM:<anna@here.test> RET=FULL ENVID=e1
			S: 250 *
			C: RCPT TO:<ben@here.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b@far.test
			S: 250 *
			C: DATA
			S: 354 *
			C: Message-ID: <1@here.test>
			C:
			C: body
			C: .
			S: 250 2.1.5 delivered` + []string{"", " before"}[i])
	}
	eventually(t, "the queue is empty", func() bool { return n.queue.Len() == 0 })
	if got := n.inbox("ben"); len(got) != 1 {
		t.Errorf("ben has %d messages", len(got))
	}
	reports := n.inbox("anna")
	if len(reports) != 1 {
		t.Fatalf("anna has %d reports, want 1", len(reports))
	}
	for _, want := range []string{"Return-Path: <>\r\n", "\r\nOriginal-Envelope-Id: e1\r\n", "\r\nOriginal-Recipient: rfc822;b@far.test\r\nFinal-Recipient: rfc822; ben@here.test\r\nAction: delivered\r\nStatus: 2.1.5\r\n"} {
		if !strings.Contains(reports[0], want) {
			t.Errorf("%q is not in %s", want, reports[0])
		}
	}
}

// TestRecipients: no, elsewhere and not now at RCPT.
func TestRecipients(t *testing.T) {
	n := newNode(t, settings{})
	c := n.secured(n.lmtp.ServeTLS)
	c.run(proxyLogin)
	c.run(`
		C: MAIL FROM:<a@out.test>
		S: 250 *
		C: RCPT TO:<nobody@here.test>
		S: 550 5.1.1 *
		C: RCPT TO:<anna@out.test>
		S: 550 5.1.1 *
		C: RCPT TO:<far@here.test>
		S: 451 4.1.6 *
		C: RCPT TO:<closed@here.test>
		S: 550 5.2.1 *
		C: RCPT TO:<eve@here.test>
		S: 250 *
		C: RCPT TO:<anna@here.test>
		S: 250 *`)
	n.dir.set(lookup.Unavailable("dial", errors.New("refused")))
	c.run(`
		C: RCPT TO:<anna@here.test>
		S: 250 *
		C: RCPT TO:<ben@here.test>
		S: 451 4.3.0 *
		C: RCPT TO:<nobody@here.test>
		S: 451 4.3.0 *
		C: RCPT TO:<anna@here.test> XRCPTFORWARD=` + origin.ForwardGeneration(9) + `
		S: 451 4.3.0 *`)
	n.dir.set(errors.New("a bug"))
	c.run(`
		C: RCPT TO:<ben@here.test>
		S: 451 4.3.0 *`)
	for _, name := range n.users() {
		if name == "far@here.test" || name == "ben@here.test" || name == "nobody@here.test" {
			t.Errorf("a mailbox was made for %s", name)
		}
	}
}

// users lists the accounts that have mail here.
func (n *node) users() []string {
	n.t.Helper()
	var out []string
	if err := n.store.Users(context.Background(), func(a string) bool { out = append(out, a); return true }); err != nil {
		n.t.Fatal(err)
	}
	return out
}

func TestOverQuota(t *testing.T) {
	n := newNode(t, settings{})
	ben := n.dir.accounts["ben@here.test"]
	ben.Quota = 10
	n.dir.accounts["ben@here.test"] = ben
	c := n.secured(n.lmtp.ServeTLS)
	c.run(proxyLogin)
	deliver(c, "X: y", "1@out.test", "ben@here.test", "anna@here.test")
	c.run(`
		S: 452 4.2.2 *
		S: 250 2.1.5 *`)
}

func TestTooBig(t *testing.T) {
	n := newNode(t, settings{smtp: Options{MaxSize: 100_000}, store: store.Options{MaxMessage: 50_000}})
	c := n.secured(n.lmtp.ServeTLS)
	c.run(proxyLogin)
	c.run(`
		C: MAIL FROM:<> SIZE=100001
		S: 552 5.3.4 *
		C: MAIL FROM:<> SIZE=90000
		S: 250 *
		C: RCPT TO:<anna@here.test>
		S: 250 *
		C: DATA
		S: 354 *
		` + strings.Repeat("C: "+strings.Repeat("x", 900)+"\n", 80) + `
		C: .
		S: 452 4.3.4 *
		C: NOOP
		S: 250 *`)
}

// TestStrangers: LMTP is for proxies that prove it, over TLS, from their
// network.
func TestStrangers(t *testing.T) {
	n := newNode(t, settings{smtp: Options{AllowClear: true}})
	secret := "C: AUTH PLAIN " + b64("\x00proxy\x00cluster secret") + "\n"
	t.Run("without login", func(t *testing.T) {
		c := n.secured(n.lmtp.ServeTLS)
		c.run(`
			S: 220 *
			C: LHLO x
			S- AUTH *
			C: MAIL FROM:<> XTRACELEN=1
			S: 530 5.7.0 *
			C: RCPT TO:<anna@here.test>
			S: 530 5.7.0 *
			C: DATA
			S: 530 5.7.0 *`)
	})
	t.Run("a user", func(t *testing.T) {
		c := n.secured(n.lmtp.ServeTLS)
		c.run("S: 220 *\nC: LHLO x\nS- AUTH *\nC: AUTH PLAIN " + b64("\x00anna\x00"+password) + "\nS: 535 5.7.8 *\n" +
			"C: AUTH PLAIN " + b64("anna\x00proxy\x00cluster secret") + "\nS: 535 5.7.8 *\n" +
			"C: AUTH PLAIN " + b64("\x00proxy\x00wrong") + "\nS: 535 5.7.8 *\nS: 421 *\nEOF")
	})
	t.Run("in clear", func(t *testing.T) {
		c := n.dial(context.Background(), "127.0.0.1", n.lmtp.Serve)
		c.run("S: 220 *\nC: LHLO x\nS- STARTTLS\n" + secret + "S: 538 *\nC: XCLIENT ADDR=192.0.2.1\nS: 550 *\nC: MAIL FROM:<>\nS: 530 5.7.0 *\n")
	})
	t.Run("from elsewhere", func(t *testing.T) {
		c := n.dial(context.Background(), "127.0.0.2", n.lmtp.ServeTLS)
		c.secure()
		c.run("S: 220 *\nC: LHLO x\nS- AUTH *\n" + secret + "S: 535 5.7.8 *\nC: XCLIENT ADDR=192.0.2.1\nS: 550 *\n")
	})
	t.Run("with STARTTLS", func(t *testing.T) {
		c := n.dial(context.Background(), "127.0.0.1", n.lmtp.Serve)
		c.run("S: 220 *\nC: LHLO x\nS- STARTTLS\nC: STARTTLS\nS: 220 *\nTLS\nC: LHLO x\nS- AUTH *\n" + secret + "S: 235 *\n")
	})
}

// TestShutdown: the daemon stops; the session says so, and a message half-way
// is forgotten.
func TestShutdown(t *testing.T) {
	n := newNode(t, settings{})
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	c := n.dial(ctx, "127.0.0.1", n.lmtp.ServeTLS)
	c.secure()
	c.run(proxyLogin + `
		C: MAIL FROM:<>
		S: 250 *
		C: RCPT TO:<anna@here.test>
		S: 250 *
		C: DATA
		S: 354 *
		C: Subject: half
		C: `)
	stop(server.ErrShutdown)
	c.run("S: 421 *\nEOF")
	if got := n.inbox("anna"); len(got) != 0 {
		t.Errorf("stored %q", got)
	}
}

func TestDropped(t *testing.T) {
	n := newNode(t, settings{})
	c := n.secured(n.lmtp.ServeTLS)
	c.run(proxyLogin + `
		C: MAIL FROM:<>
		S: 250 *
		C: RCPT TO:<anna@here.test>
		S: 250 *
		C: DATA
		S: 354 *
		C: Subject: half`)
	c.nc.Close()
	<-c.done
	if got := n.inbox("anna"); len(got) != 0 {
		t.Errorf("stored %q", got)
	}
	if n := n.logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 0 {
		t.Errorf("%d errors logged for a lost client", n)
	}
}

func TestLoginDeadline(t *testing.T) {
	n := newNode(t, settings{smtp: Options{LoginTime: 30 * time.Millisecond}})
	c := n.secured(n.lmtp.ServeTLS)
	c.run("S: 220 *\nS: 421 *\nEOF")
	c = n.dial(context.Background(), "127.0.0.1", n.lmtp.ServeTLS) // and no handshake
	<-c.done
}

func TestReplies(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{backend.ErrOverQuota, "452 4.2.2"}, {backend.ErrTooBig, "452 4.3.4"}, {backend.ErrMoved, "451 4.1.6"}, {backend.ErrNoUser, "451 4.1.6"},
		{backend.ErrBusy, "451 4.3.0"}, {backend.ErrOutcomeUnknown, "451 4.3.0"}, {errors.New("bug"), "451 4.3.0"}, {context.Canceled, "451 4.3.0"},
	} {
		r, _ := deliveryReply(backend.Delivered{}, fmt.Errorf("x: %w", c.err))
		if !r.Temporary() || !strings.HasPrefix(r.Error(), c.want) {
			t.Errorf("%v: got %s, want %s", c.err, r.Error(), c.want)
		}
	}
}
