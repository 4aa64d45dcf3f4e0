package smtp

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/internal/smtpd"
	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

var inboundOptions = Options{Domains: []string{"Example.Test"}}

// inboundProxy starts a proxy in front of stores.
func inboundProxy(t *testing.T, o Options, stores ...*store) (*routertest.Proxy, *routertest.Directory) {
	t.Helper()
	c := config(newInbound(t, o), upstream.LMTP)
	for _, s := range stores {
		c.Backends = append(c.Backends, s.backend())
	}
	return routertest.Start(t, c), c.Directory.(*routertest.Directory)
}

const helo = `
	S: 220 px1.example.test ESMTP
	C: HELO far.test
	S: 250 px1.example.test
`

func TestInbound(t *testing.T) {
	b1, b2 := newStore(t, "b1"), newStore(t, "b2")
	p, _ := inboundProxy(t, inboundOptions, b1, b2)
	p.Play(helo + `
		C: MAIL FROM:<x@far.test> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=a+2Bb
		C: RCPT TO:<anna@example.test> NOTIFY=FAILURE ORCPT=rfc822;an+2Bna@far.test
		C: RCPT TO:<berta@EXAMPLE.test>
		C: RCPT TO:<Anna@example.test>
		C: RCPT TO:<postmaster>
		C: DATA
		S: 250 2.1.0 *
		S: 250 2.1.5 *
		S: 250 2.1.5 *
		S: 250 2.1.5 *
		S: 250 2.1.5 *
		S: 354 *
		C: Message-ID: <1@far.test>
		C:
		C: ..dot
		C: last
		C: .
		S: 250 2.0.0 accepted as *
		C: MAIL FROM:<>
		C: RCPT TO:<dora@example.test>
		C: DATA
		S: 250 *
		S: 250 *
		S: 354 *
		C: second
		C: .
		S: 250 2.0.0 accepted as *
		C: QUIT
		S: 221 *
		EOF`)
	check(t, p.Session(), map[string]any{"messages": int64(2)})
	got1, got2 := b1.letters(), b2.letters()
	if len(got1) != 2 || len(got2) != 1 {
		t.Fatalf("got %d and %d letters", len(got1), len(got2))
	}
	if to := fmt.Sprint(got1[0].to, got2[0].to, got1[1].to); to != "[anna@example.test postmaster@example.test] [berta@EXAMPLE.test] [dora@example.test]" {
		t.Errorf("recipients: %s", to)
	}
	want := "Message-ID: <1@far.test>\r\n\r\n.dot\r\nlast\r\n"
	if got1[0].body != want || got2[0].body != want || got1[0].trace != got2[0].trace {
		t.Errorf("got %q and %q", got1[0], got2[0])
	}
	if !routertest.Match("Received: from far.test ([127.0.0.1])\r\n\tby px1.example.test with SMTP id *;\r\n\t*\r\n", got1[0].trace) {
		t.Errorf("trace: %q", got1[0].trace)
	}
	if got1[1].from != "" || got1[1].body != "second\r\n" || b1.calls() != 1 {
		t.Errorf("got %q by %d connections", got1[1], b1.calls())
	}
	if got := b1.heard(); got != "from 127.0.0.1 helo far.test\ngeneration of anna@example.test\nanna@example.test NOTIFY=FAILURE" {
		t.Errorf("b1 heard %q", got)
	}
	line := p.Logs.FilterMessage("message").All()[0].ContextMap()
	check(t, line, map[string]any{"from": "x@far.test", "size": int64(len(want))})
}

// What goes to a backend, word for word.
func TestInboundDialogue(t *testing.T) {
	b1 := routertest.NewBackend(t, nil, `
		S: 220 b1 LMTP
		C: LHLO px1.example.test
		S: 250-b1
		S: 250-XCLIENT ADDR SESSION
		S: 250 AUTH LOGIN PLAIN
		C: XCLIENT SESSION=* ADDR=127.0.0.1
		S: 220 b1 LMTP
		C: LHLO px1.example.test
		S: 250-b1
		S: 250 AUTH LOGIN PLAIN
		C: AUTH PLAIN `+plainProxy+`
		S: 235 2.7.0 ok
		C: LHLO px1.example.test
		S: 250-b1
		S: 250-PIPELINING
		S: 250-SIZE 1000000
		S: 250-8BITMIME
		S: 250-DSN
		S: 250-SMTPUTF8
		S: 250-XRCPTFORWARD
		S: 250 XTRACELEN
		C: MAIL FROM:<"x y"@far.test> SIZE=* BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb XTRACELEN=*
		C: RCPT TO:<anna@example.test> NOTIFY=FAILURE ORCPT=rfc822;an+2Bna@far.test XRCPTFORWARD=aG9tZS1nZW5lcmF0aW9uPTc=
		S: 250 ok
		S: 250 ok
		C: RCPT TO:<dora@example.test>
		S: 450 4.2.1 busy
		C: DATA
		S: 354 go
		C: Received: from [IPv6:2001:db8::1] ([127.0.0.1])
		C: 	by px1.example.test with UTF8SMTP id *;
		C: 	*
		C: ..
		C: x
		C: .
		S: 250 2.0.0 stored on b1
		C: MAIL FROM:<> XTRACELEN=*
		C: RCPT TO:<dora@example.test>
		S: 250 ok
		S: 550 5.1.1 gone
		C: RSET
		C: MAIL FROM:<> XTRACELEN=*
		C: RCPT TO:<anna@example.test> XRCPTFORWARD=*
		S: 250 ok
		S: 250 ok
		S: 250 ok
		C: DATA
		S: 451 4.3.0 not now
		C: QUIT
		EOF`)
	c := config(newInbound(t, inboundOptions), upstream.LMTP, b1)
	p := routertest.Start(t, c)
	p.Play(`
		S: 220 *
		C: EHLO [IPv6:2001:db8::1]
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-SIZE
		S: 250 LIMITS RCPTMAX=100
		C: MAIL FROM:<"x y"@far.test> SIZE=100 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb
		C: RCPT TO:<anna@example.test> NOTIFY=FAILURE ORCPT=rfc822;an+2Bna@far.test
		C: RCPT TO:<dora@example.test>
		C: DATA
		S: 250 *
		S: 250 *
		S: 450 4.2.1 busy
		S: 354 *
		C: ..
		C: x
		C: .
		S: 250 2.0.0 accepted as *
		C: MAIL FROM:<>
		C: RCPT TO:<dora@example.test>
		C: RSET
		C: MAIL FROM:<>
		C: RCPT TO:<anna@example.test>
		C: DATA
		S: 250 *
		S: 550 5.1.1 gone
		S: 250 *
		S: 250 *
		S: 250 *
		S: 354 *
		C: y
		C: .
		S: 451 4.3.0 not delivered to all recipients yet, try again later
		C: QUIT
		S: 221 *`)
	p.Session()
}

// TestInboundRecipients: no, elsewhere, not now, each in its own words.
func TestInboundRecipients(t *testing.T) {
	b1 := newStore(t, "b1")
	b1.rcpt = func(address string) error {
		switch address {
		case "full@example.test":
			return smtpd.NewReply(452, "4.2.2", "mailbox full")
		case "strict@example.test":
			return smtpd.NewReply(550, "5.7.1", "not from you")
		case "moved@example.test":
			return smtpd.NewReply(451, "4.1.6", "elsewhere")
		case "odd@example.test":
			return smtpd.NewReply(503, "5.5.1", "what?")
		case "crash@example.test":
			return io.EOF
		}
		return nil
	}
	c := config(newInbound(t, inboundOptions), upstream.LMTP)
	c.Backends = []upstream.Backend{b1.backend(), {Name: "b2", Nodes: []upstream.Node{{Name: "b2a", Services: map[upstream.Service]upstream.Endpoint{
		upstream.LMTP: {Address: "127.0.0.1:1"},
	}}}}}
	d := c.Directory.(*routertest.Directory)
	for _, name := range []string{"full", "strict", "moved", "odd", "crash", "unlucky"} {
		d.Add(lookup.Account{Name: name + "@example.test", Home: "b1"}, "")
	}
	d.Fail(func(_, name string) error {
		switch name {
		case "unlucky@example.test":
			return lookup.Unavailable("search", errors.New("server is busy"))
		case "bug@example.test":
			return errors.New("nil map")
		}
		return nil
	})
	p := routertest.Start(t, c)
	p.Play(helo + `
		C: MAIL FROM:<x@far.test>
		S: 250 *
		C: RCPT TO:<anna@elsewhere.test>
		S: 550 5.7.1 relaying denied
		C: RCPT TO:<anna@[127.0.0.1]>
		S: 550 5.7.1 relaying denied
		C: RCPT TO:<nobody@example.test>
		S: 550 5.1.1 no such user
		C: RCPT TO:<"a b"@example.test>
		S: 550 5.1.1 no such user
		C: RCPT TO:<"anna@example.test"@example.test>
		S: 550 5.1.1 no such user
		C: RCPT TO:<unlucky@example.test>
		S: 451 4.4.3 *
		C: RCPT TO:<bug@example.test>
		S: 451 4.4.3 *
		C: RCPT TO:<closed@example.test>
		S: 550 5.2.1 *
		C: RCPT TO:<carla@example.test>
		S: 250 *
		C: RCPT TO:<erna@example.test>
		S: 451 4.3.5 *
		C: RCPT TO:<berta@example.test>
		S: 451 4.4.1 *
		C: RCPT TO:<full@example.test>
		S: 452 4.2.2 mailbox full
		C: RCPT TO:<strict@example.test>
		S: 550 5.7.1 not from you
		C: RCPT TO:<moved@example.test>
		S: 451 4.3.0 the mailbox is on the move, try again later
		C: RCPT TO:<odd@example.test>
		S: 451 4.3.5 *
		C: RCPT TO:<crash@example.test>
		S: 451 4.4.1 *
		C: RCPT TO:<anna@example.test>
		S: 451 4.4.1 *
		C: DATA
		S: 354 *
		C: x
		C: .
		S: 451 4.3.0 *
		C: MAIL FROM:<x@far.test>
		S: 250 *
		C: RCPT TO:<anna@example.test>
		S: 250 *
		C: RSET
		S: 250 *
		C: MAIL FROM:<huge@far.test>
		S: 250 *
		C: RCPT TO:<anna@example.test>
		S: 552 5.3.4 too big
		C: QUIT
		S: 221 *`)
	p.Session()
	if got := b1.letters(); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

func TestInboundMoved(t *testing.T) {
	b1, b2 := newStore(t, "b1"), newStore(t, "b2")
	b1.rcpt = func(string) error { return smtpd.NewReply(451, "4.1.6", "elsewhere") }
	p, d := inboundProxy(t, inboundOptions, b1, b2)
	d.Move("anna@example.test", "b2", 8)
	p.Play(helo + `
		C: MAIL FROM:<x@far.test>
		C: RCPT TO:<anna@example.test>
		C: RCPT TO:<berta@example.test>
		C: DATA
		S: 250 *
		S: 250 *
		S: 250 *
		S: 354 *
		C: x
		C: .
		S: 250 *
		C: QUIT
		S: 221 *`)
	p.Session()
	if got := b2.letters(); len(got) != 1 || fmt.Sprint(got[0].to) != "[anna@example.test berta@example.test]" {
		t.Errorf("got %q", got)
	}
	if got := strings.Join(d.Asked(), ", "); got != "lookup anna@example.test, forget anna@example.test, fresh anna@example.test, lookup berta@example.test" {
		t.Errorf("the directory was asked: %s", got)
	}
}

// TestInboundForeign: a backend without delivery ids gets the message last, and
// only when all others have it; its recipients are told apart from those of
// other foreign backends.
func TestInboundForeign(t *testing.T) {
	for _, c := range []struct {
		own, foreign string
		want         string
		sent         bool // to the foreign one
	}{
		{"2xx", "2xx", "250 2.0.0 accepted as *", true},
		{"2xx", "4xx", "451 4.3.0 *", true},
		{"2xx", "5xx", "250 2.0.0 *", true}, // and a report
		{"2xx", "lost after", "451 4.3.0 *", true},
		{"4xx", "2xx", "451 4.3.0 *", false},
		{"lost after", "2xx", "451 4.3.0 *", false},
		{"5xx", "2xx", "554 5.6.0 *", false},
	} {
		t.Run(c.own+", "+c.foreign, func(t *testing.T) {
			b1, b2, b9 := newStore(t, "b1"), newStore(t, "b2"), newStore(t, "b9")
			b2.foreign, b9.foreign = true, true
			var sent atomic.Bool
			b1.data = outcomes[c.own]
			b2.data = func(conn *wire.Conn, body io.Reader, n int) []smtpd.Reply {
				sent.Store(true)
				if f := outcomes[c.foreign]; f != nil {
					return f(conn, body, n)
				}
				return nil
			}
			p, _ := inboundProxy(t, inboundOptions, b1, b2, b9)
			p.Play(helo + `
				C: MAIL FROM:<x@far.test>
				C: RCPT TO:<berta@example.test>
				C: RCPT TO:<erna@example.test>
				C: RCPT TO:<anna@example.test>
				C: DATA
				S: 250 *
				S: 250 *
				S: 452 4.5.3 *
				S: 250 *
				S: 354 *
				C: x
				C: .
				S: ` + c.want + `
				C: MAIL FROM:<x@far.test>
				C: RCPT TO:<erna@example.test>
				C: DATA
				S: 250 *
				S: 250 *
				S: 354 *
				C: x
				C: .
				S: 250 *
				C: QUIT
				S: 221 *`)
			p.Session()
			if sent.Load() != c.sent {
				t.Errorf("the foreign backend got the message: %v", sent.Load())
			}
			if got := b9.letters(); len(got) != 1 || got[0].trace != "" || !strings.HasPrefix(got[0].body, "Received: from far.test") {
				t.Errorf("b9 got %q", got)
			}
		})
	}
}

// The same message, sent again through a proxy, is the same but for the trace:
// the backend's delivery id does not change.
func TestInboundRetry(t *testing.T) {
	b1 := newStore(t, "b1")
	p, _ := inboundProxy(t, inboundOptions, b1)
	message := "Message-ID: <1@far.test>\r\n\r\n" + strings.Repeat("a line with a dot\r\n..\r\n", 20000) + ".\r\n"
	for range 2 {
		p.Play(helo + `
			C: MAIL FROM:<x@far.test>
			C: RCPT TO:<anna@example.test>
			C: DATA
			S: 250 *
			S: 250 *
			S: 354 *
			C- ` + strings.ReplaceAll(message, "\r\n", `\r\n`) + `
			S: 250 *
			C: MAIL FROM:<x@far.test>
			C: RCPT TO:<anna@example.test>
			C: BDAT 6
			C: a: b
			C: BDAT 3 LAST
			C- end
			S: 250 *
			S: 250 *
			S: 250 *
			S: 250 *
			C: QUIT
			S: 221 *`)
	}
	p.Sessions(2)
	got := b1.letters()
	if len(got) != 4 {
		t.Fatalf("got %d letters", len(got))
	}
	want := strings.ReplaceAll(strings.TrimSuffix(message, ".\r\n"), "\r\n..", "\r\n.")
	if got[0].body != want || got[2].body != want || got[0].trace == got[2].trace {
		t.Error("the message changed on its way")
	}
	if got[1].body != "a: b\r\nend\r\n" || got[3].body != got[1].body {
		t.Errorf("got %q and %q", got[1].body, got[3].body)
	}
}

// A connection that a backend closed between two messages is made again.
func TestInboundStaleConnection(t *testing.T) {
	b1 := newStore(t, "b1")
	p, _ := inboundProxy(t, inboundOptions, b1)
	const letter = `
		C: MAIL FROM:<x@far.test>
		C: RCPT TO:<anna@example.test>
		C: DATA
		S: 250 *
		S: 250 *
		S: 354 *
		C: x
		C: .
		S: 250 *
	`
	c := startClient(t, p)
	c.run(helo + letter)
	b1.cut()
	c.run(letter + "C: QUIT\nS: 221 *")
	p.Session()
	if n := len(b1.letters()); n != 2 || b1.calls() != 2 {
		t.Errorf("got %d letters by %d connections", n, b1.calls())
	}
}

func TestInboundHundredRecipients(t *testing.T) {
	b1, b2 := newStore(t, "b1"), newStore(t, "b2")
	p, d := inboundProxy(t, inboundOptions, b1, b2)
	var script strings.Builder
	script.WriteString(helo + "C: MAIL FROM:<x@far.test>\n")
	answers := strings.Repeat("S: 250 *\n", 101)
	for i := range 101 {
		name := fmt.Sprintf("u%d@example.test", i)
		d.Add(lookup.Account{Name: name, Home: []string{"b1", "b2"}[i%2]}, "")
		fmt.Fprintf(&script, "C: RCPT TO:<%s>\n", name)
	}
	script.WriteString(answers + "S: 452 4.5.3 *\nC: DATA\nS: 354 *\nC: x\nC: .\nS: 250 *\nC: QUIT\nS: 221 *")
	p.Play(script.String())
	p.Session()
	if got1, got2 := b1.letters(), b2.letters(); len(got1) != 1 || len(got2) != 1 || len(got1[0].to) != 50 || len(got2[0].to) != 50 {
		t.Errorf("got %d and %d letters", len(got1), len(got2))
	}
}

func TestInboundLoop(t *testing.T) {
	b1 := newStore(t, "b1")
	p, _ := inboundProxy(t, inboundOptions, b1)
	letter := func(n int, want string) string {
		return "C: MAIL FROM:<x@far.test>\nC: RCPT TO:<anna@example.test>\nC: DATA\nS: 250 *\nS: 250 *\nS: 354 *\n" +
			strings.Repeat("C: Received: from a by b;\nC: \ta date\n", n) + "C:\nC: Received: in the body\nC: .\nS: " + want + "\n"
	}
	p.Play(helo + letter(100, "250 *") + letter(101, "554 5.4.6 *") + letter(0, "250 *") + "C: QUIT\nS: 221 *")
	p.Session()
	if n := len(b1.letters()); n != 2 {
		t.Errorf("got %d letters", n)
	}
}

// A message that the dialogue refuses reaches no backend.
func TestInboundRefusedMessage(t *testing.T) {
	b1 := newStore(t, "b1")
	o := inboundOptions
	o.MaxSize = 1000
	p, _ := inboundProxy(t, o, b1)
	const mail = "C: MAIL FROM:<x@far.test>\nC: RCPT TO:<anna@example.test>\nC: DATA\nS: 250 *\nS: 250 *\nS: 354 *\n"
	p.Play(helo + mail + `C- a\nb\r\n.\r\n` + "\nS: 554 5.6.0 *\n" +
		mail + strings.Repeat("C: 01234567\n", 101) + "C: .\nS: 552 5.3.4 *\n" +
		mail + "C: half\nCLOSE")
	p.Session()
	if got := b1.letters(); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	var answers []string
	for _, e := range p.Logs.FilterMessage("message").All() {
		answers = append(answers, e.ContextMap()["answer"].(string)[:9])
	}
	if got := strings.Join(answers, "|"); got != "554 5.6.0|552 5.3.4|451 4.3.0" {
		t.Errorf("logged answers %q", got)
	}
}

// Who the client is comes from another proxy of ours, and from nobody else.
func TestInboundIdentity(t *testing.T) {
	b1 := newStore(t, "b1")
	c := config(newInbound(t, inboundOptions), upstream.LMTP)
	c.Backends = []upstream.Backend{b1.backend()}
	c.Listener.TrustedProxies = loopback
	p := routertest.Start(t, c)
	p.Play(helo + `
		C: XCLIENT ADDR=192.0.2.7 PORT=25 SESSION=elsewhere TTL=5 HELO=real.test
		S: 220 *
		C: MAIL FROM:<x@far.test>
		S: 503 *
		C: HELO proxy.test
		S: 250 *
		C: XCLIENT ADDR=192.0.2.8
		S: 503 *
		C: MAIL FROM:<x@far.test>
		C: RCPT TO:<anna@example.test>
		C: DATA
		S: 250 *
		S: 250 *
		S: 354 *
		C: x
		C: .
		S: 250 2.0.0 accepted as elsewhere
		C: QUIT
		S: 221 *`)
	check(t, p.Session(), map[string]any{"session": "elsewhere", "client": "192.0.2.7:25"})
	if got := b1.letters(); len(got) != 1 || !strings.HasPrefix(got[0].trace, "Received: from real.test ([192.0.2.7])\r\n") {
		t.Errorf("got %q", got)
	}
	if got := b1.heard(); !strings.HasPrefix(got, "from 192.0.2.7 helo real.test") {
		t.Errorf("b1 heard %q", got)
	}

	c.Listener.TrustedProxies = nil
	p = routertest.Start(t, c)
	p.Play(helo + "C: XCLIENT ADDR=192.0.2.7\nS: 550 *\nC: QUIT\nS: 221 *")
	check(t, p.Session(), map[string]any{"result": "no login"})
}

func TestShutdownInTransaction(t *testing.T) {
	b1 := newStore(t, "b1")
	p, _ := inboundProxy(t, inboundOptions, b1)
	c := startClient(t, p)
	c.run(helo + "C: MAIL FROM:<x@far.test>\nC: RCPT TO:<anna@example.test>\nC: DATA\nS: 250 *\nS: 250 *\nS: 354 *\nC: half")
	p.Drain()
	c.run("S: 421 4.3.2 *")
	check(t, p.Session(), map[string]any{"result": "shutdown"})
	if got := b1.letters(); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

// TestInboundPause: a client that speaks before the greeting is refused, and is one
// that broke the protocol; another proxy of ours does not wait, and brings as much as
// it likes.
func TestInboundPause(t *testing.T) {
	o := inboundOptions
	o.Pause, o.MaxMessages, o.MaxDomains = 30*time.Second, 1, 1
	c := config(newInbound(t, o), upstream.LMTP)
	c.Backends = []upstream.Backend{newStore(t, "b1").backend()}
	p := routertest.Start(t, c)
	p.Play("C: EHLO eager.test\nS: 554 5.5.0 wait for the greeting, goodbye\nEOF")
	check(t, p.Session(), map[string]any{"result": "protocol error"})

	c.Listener.TrustedProxies = loopback
	p = routertest.Start(t, c)
	const mail = "C: MAIL FROM:<x@far.test>\nS: 250 *\nC: RSET\nS: 250 *\n"
	p.Play(helo + mail + mail + "C: QUIT\nS: 221 *")
	p.Session()
}

// TestInboundChunks: a message that comes by BDAT and has in it what would end it
// behind DATA reaches its backend as one message, byte for byte.
func TestInboundChunks(t *testing.T) {
	b1 := newStore(t, "b1")
	p, _ := inboundProxy(t, inboundOptions, b1)
	const text = "Subject: x\r\n\r\na\r\n.\r\nMAIL FROM:<ceo@bank.test>\r\nRCPT TO:<anna@example.test>\r\nDATA\r\n..\r\n.\r\n"
	p.Play(helo + `
		C: MAIL FROM:<x@far.test>
		S: 250 *
		C: RCPT TO:<anna@example.test>
		S: 250 *
		C: BDAT ` + fmt.Sprint(len(text)) + ` LAST
		C- ` + strings.ReplaceAll(text, "\r\n", `\r\n`) + `
		S: 250 *
		C: QUIT
		S: 221 *`)
	p.Session()
	if got := b1.letters(); len(got) != 1 || got[0].body != text || got[0].from != "x@far.test" {
		t.Errorf("got %q", got)
	}
}
