package smtp

import (
	"bytes"
	"context"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/internal/smtpd"
	"switchyard/internal/tlsconf"
	"switchyard/internal/wire"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// fuzzed starts a router over pipes, with one backend, b1.
func fuzzed(f *testing.F, p router.Protocol, service upstream.Service, dial func(context.Context, string, string) (net.Conn, error)) (*routertest.Pipes, *routertest.Proxy) {
	pipes := routertest.NewPipes()
	c := config(p, service)
	c.Net = pipes
	c.Backends = []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{{Name: "b1a", Services: map[upstream.Service]upstream.Endpoint{
		service: {Address: "b1a:24", TLS: tlsconf.Off},
	}}}}}
	// A backend that was found out stays in use.
	c.Upstream = upstream.Options{Dial: dial, Mark: time.Nanosecond, Fall: 1 << 30}
	aliases(c.Directory.(*routertest.Directory))
	return pipes, routertest.Start(f, c)
}

// answer is any line that a server of ours says.
var answer = regexp.MustCompile(`^[2-5][0-9][0-9][ -][^\r\n\x00]*$`)

// wellFormed holds all that a client heard against the grammar of answers. The last
// line may be cut where the pipe was closed.
func wellFormed(t *testing.T, out []byte) (lines []string) {
	lines = strings.Split(string(out), "\r\n")
	for _, line := range lines[:len(lines)-1] {
		if !answer.MatchString(line) || len(line) > 510 {
			t.Fatalf("answered %q", line)
		}
	}
	return lines[:len(lines)-1]
}

// noPanic holds the log against sessions that ended by a bug.
func noPanic(t *testing.T, p *routertest.Proxy) {
	for _, l := range p.Logs.TakeAll() {
		if l.Message == "session panicked" || l.ContextMap()["result"] == "broken" {
			t.Fatalf("%s: %v", l.Message, l.ContextMap())
		}
	}
}

// grammar is a backend that takes everything, and knows how the proxy speaks.
type grammar struct {
	wg     sync.WaitGroup
	bodies atomic.Int64
	wrong  atomic.Pointer[string] // an answer that no proxy of ours may need
}

func (g *grammar) dial(context.Context, string, string) (net.Conn, error) {
	proxy, conn := net.Pipe()
	heard := &tap{Conn: conn}
	g.wg.Go(func() {
		wc := wire.NewConn(heard)
		defer wc.Close()
		o := smtpd.Options{Hostname: "b1", LMTP: true, RequireAuth: true, AllowCleartextAuth: true, MaxRecipients: 1000}
		smtpd.Serve(context.Background(), wc, o, func(c *smtpd.Conn) smtpd.Session {
			return ownSession{&storeSession{s: &store{name: "b1", data: g.take, open: make(map[*wire.Conn]struct{})}, wire: wc, conn: c}}
		})
		for line := range strings.SplitSeq(heard.out.String(), "\r\n") {
			if strings.HasPrefix(line, "50") || strings.HasPrefix(line, "55") {
				g.wrong.CompareAndSwap(nil, &line)
			}
		}
	})
	return proxy, nil
}

func (g *grammar) take(_ *wire.Conn, body io.Reader, n int) []smtpd.Reply {
	if _, err := io.Copy(io.Discard, body); err != nil {
		return nil
	}
	g.bodies.Add(1)
	return smtpd.Repeat(smtpd.NewReply(250, "2.0.0", "stored"), n)
}

// tap keeps what is written.
type tap struct {
	net.Conn
	out bytes.Buffer
}

func (t *tap) Write(p []byte) (int, error) {
	t.out.Write(p)
	return t.Conn.Write(p)
}

// FuzzInbound feeds the dialogue of a sender. Whatever it says, it hears answers and
// nothing else, the backend hears what it understands, and no message is accepted
// that the backend did not get.
func FuzzInbound(f *testing.F) {
	for _, s := range []string{
		"EHLO x\r\nMAIL FROM:<a@far.test> SIZE=5 BODY=8BITMIME RET=HDRS ENVID=a+2Bb\r\nRCPT TO:<team@example.test> NOTIFY=FAILURE ORCPT=rfc822;a@b.test\r\nDATA\r\nx\r\n..\r\n.\r\nQUIT\r\n",
		"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<anna+x@example.test>\r\nRCPT TO:<ring@example.test>\r\nRCPT TO:<nobody@example.test>\r\nBDAT 3\r\nabcRSET\r\nMAIL FROM:<>\r\nRCPT TO:<dora@example.test>\r\nBDAT 2 LAST\r\nabQUIT\r\n",
		"LHLO x\r\nMAIL FROM:<\"a b\"@far.test> SMTPUTF8\r\nRCPT TO:<anna@example.test>\r\nRCPT TO:<anna@example.test>\r\nDATA\r\na\n.\nb\r\n.\r\nNOOP\r\nQUIT\r\n",
		"LHLO x\r\nXCLIENT ADDR=192.0.2.1\r\nLHLO y\r\nMAIL FROM:<a@far.test>\r\nRCPT TO:<abroad@example.test>\r\nRCPT TO:<postmaster>\r\nDATA\r\nMessage-ID: <1>\r\n\r\n.\r\nQUIT\r\n",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	var backends [2]grammar
	var pipes [2]*routertest.Pipes
	var proxies [2]*routertest.Proxy
	over := make(chan struct{})
	for i := range backends {
		o := Options{Domains: []string{"example.test"}, MaxSize: 10000}
		o.Deliverers.Networks = loopback
		p := newInbound(f, o)
		p.lmtp = i == 1
		pipes[i], proxies[i] = fuzzed(f, anyone{p, over}, upstream.LMTP, backends[i].dial)
	}
	f.Fuzz(func(t *testing.T, in []byte, lmtp bool) {
		i := 0
		if lmtp {
			i = 1
		}
		g := &backends[i]
		before := g.bodies.Load()
		out := pipes[i].Say(in, true)
		<-over
		g.wg.Wait()
		lines := wellFormed(t, out)
		accepted := int64(0)
		for _, line := range lines {
			if strings.HasPrefix(line, "250 2.0.0 accepted") {
				accepted++
			}
		}
		if got := g.bodies.Load() - before; accepted > 0 && got == 0 || !lmtp && accepted > got {
			t.Fatalf("%d messages were accepted and %d came", accepted, got)
		}
		if wrong := g.wrong.Swap(nil); wrong != nil {
			t.Fatalf("the backend had to say %q", *wrong)
		}
		noPanic(t, proxies[i])
	})
}

// anyone is a protocol whose clients have an address, which pipes have not, and that
// tells when a session is over.
type anyone struct {
	*Inbound
	over chan struct{}
}

func (a anyone) Serve(ctx context.Context, s *router.Session) error {
	defer func() { a.over <- struct{}{} }()
	s.Client = netAddr
	return a.Inbound.Serve(ctx, s)
}

var netAddr = wire.AddrPort(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2525})

// FuzzLeg feeds a delivery with a backend's answers. Whatever they are, the sender
// gets one answer for each command, and a yes only where the backend said yes behind
// its 354.
func FuzzLeg(f *testing.F) {
	const hello = "220 b1\r\n250-b1\r\n250-PIPELINING\r\n250-XTRACELEN\r\n250 XRELAY\r\n"
	for _, s := range []string{
		hello + "250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 stored\r\n221 bye\r\n",
		hello + "250 ok\r\n550 5.1.1 no\r\n", hello + "250 ok\r\n451 4.1.6 moved\r\n", hello + "452 full\r\n503 what\r\n",
		hello + "250 ok\r\n250 ok\r\n250 ok\r\n", hello + "250 ok\r\n250 ok\r\n354 go\r\n554 5.6.0 no\r\n", hello + "250 ok\r\n250 ok\r\n354 go\r\n421 bye\r\n",
		"220 b1\r\n250-b1\r\n250 AUTH PLAIN\r\n235 ok\r\n250-b1\r\n250 DSN\r\n250 ok\r\n250 ok\r\n354\r\n250-a\r\n250 b\r\n",
		"220 b1\r\n250-b1\r\n250-XCLIENT ADDR\r\n250 STARTTLS\r\n220 b1\r\n250 b1\r\n250 ok\r\n", "554 no\r\n", "* OK\r\n", "",
	} {
		f.Add([]byte(s))
	}
	var script atomic.Pointer[[]byte]
	pipes, p := fuzzed(f, newInbound(f, Options{Domains: []string{"example.test"}, ReplyTimeout: 5 * time.Second, FinalTimeout: 5 * time.Second}),
		upstream.LMTP, routertest.Talk(func() []byte { return *script.Load() }))
	f.Fuzz(func(t *testing.T, in []byte) {
		script.Store(&in)
		out := pipes.Say([]byte("HELO x\r\nMAIL FROM:<a@far.test>\r\nRCPT TO:<anna@example.test>\r\nDATA\r\nMessage-ID: <1>\r\n\r\nx\r\n.\r\nQUIT\r\n"), false)
		lines := wellFormed(t, out)
		final := 0
		for _, line := range lines {
			if line[3] == ' ' {
				final++
			}
		}
		if bytes.Contains(out, []byte("250 2.0.0 accepted")) {
			_, behind, found := strings.Cut("\n"+string(in), "\n354")
			if !found || !strings.Contains(behind, "\n2") {
				t.Fatalf("accepted although the backend said %q", in)
			}
			if final != 7 {
				t.Fatalf("answered %q", out)
			}
		}
		if last := lines[len(lines)-1]; !strings.HasPrefix(last, "221 ") && !strings.HasPrefix(last, "421 ") {
			t.Fatalf("the end was %q", out)
		}
		noPanic(t, p)
	})
}

// FuzzSubmission feeds the dialogue before a login; behind it there is a backend that
// hangs up. What a client sends comes back in words of ours only.
func FuzzSubmission(f *testing.F) {
	for _, s := range []string{
		"EHLO x\r\nAUTH PLAIN " + plainAnna + "\r\nMAIL FROM:<a@x.test>\r\n",
		"EHLO x\r\nAUTH LOGIN\r\nYW5uYUBleGFtcGxlLnRlc3Q=\r\nc2VzYW1l\r\nQUIT\r\n",
		"EHLO x\r\nAUTH PLAIN\r\n*\r\nAUTH PLAIN " + plainWrong + "\r\nSTARTTLS\r\nBDAT 3\r\nabc",
		"HELO x\r\nXCLIENT ADDR=192.0.2.1 TTL=1\r\nVRFY x\r\nHELP\r\nRSET\r\n",
	} {
		f.Add([]byte(s))
	}
	pipes, p := fuzzed(f, NewSubmission(Options{}), upstream.Submission, routertest.Talk(func() []byte { return nil }))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, line := range wellFormed(t, pipes.Say(in, true)) {
			if strings.HasPrefix(line, "235") || strings.HasPrefix(line, "354") {
				t.Fatalf("answered %q without a backend", line)
			}
		}
		noPanic(t, p)
	})
}

// FuzzSubmissionLogin feeds a login with a backend's answers. Whatever they are, the
// client hears one answer to its AUTH: that it is in, or that it is not now, and never
// that its password is wrong when it is right.
func FuzzSubmissionLogin(f *testing.F) {
	for _, s := range []string{
		"220 b1\r\n250-b1\r\n250 XCLIENT ADDR\r\n220 b1\r\n250 b1\r\n235 ok\r\n250 rest\r\n",
		"220 b1\r\n250 b1\r\n235 ok\r\n", "220 b1\r\n250 b1\r\n334 \r\n235 ok\r\n", "220 b1\r\n250 b1\r\n454 4.1.6 moved\r\n",
		"220 b1\r\n250 b1\r\n535 5.7.8 who\r\n", "220 b1\r\n250 b1\r\n525 5.7.13 closed\r\n", "421 no\r\n", "",
	} {
		f.Add([]byte(s))
	}
	var script atomic.Pointer[[]byte]
	pipes, p := fuzzed(f, NewSubmission(Options{}), upstream.Submission, routertest.Talk(func() []byte { return *script.Load() }))
	f.Fuzz(func(t *testing.T, in []byte) {
		script.Store(&in)
		out := string(pipes.Say([]byte("HELO x\r\nAUTH PLAIN "+plainAnna+"\r\nQUIT\r\n"), false))
		_, out, found := strings.Cut(out, "250 px1.example.test\r\n")
		in0, _, _ := strings.Cut(out, " ")
		switch {
		case !found:
			t.Fatalf("answered %q", out)
		case in0 == "235" && !bytes.Contains(in, []byte("235")), in0 == "535" && !bytes.Contains(in, []byte("535")):
			t.Fatalf("answered %q to what the backend said: %q", out, in)
		case in0 != "235" && in0 != "454" && in0 != "525" && in0 != "535":
			t.Fatalf("answered %q", out)
		}
		noPanic(t, p)
	})
}
