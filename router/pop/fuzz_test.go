package pop

import (
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"switchyard/internal/tlsconf"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// answer is any line that the proxy itself may say.
var answer = regexp.MustCompile(`^(\+OK|-ERR|\+|\.|RESP-CODES|AUTH-RESP-CODE|PIPELINING|STLS|USER|SASL PLAIN LOGIN|PLAIN|LOGIN)( [ -~]*)?$`)

// fuzzed starts a router over pipes, whose backend says what say returns.
func fuzzed(f *testing.F, say func() []byte) (*routertest.Pipes, *routertest.Proxy) {
	pipes := routertest.NewPipes()
	cfg := clear(nil)
	cfg.Net = pipes
	cfg.Backends = []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{{Name: "b1a", Services: map[upstream.Service]upstream.Endpoint{
		upstream.POP3: {Address: "b1a:110", TLS: tlsconf.Off},
	}}}}}
	cfg.Upstream = upstream.Options{Dial: routertest.Talk(say)}
	return pipes, routertest.Start(f, cfg)
}

// noPanic holds the log against sessions that ended by a bug.
func noPanic(t *testing.T, p *routertest.Proxy) {
	for _, l := range p.Logs.TakeAll() {
		if l.Message == "session panicked" || l.ContextMap()["result"] == "broken" {
			t.Fatalf("%s: %v", l.Message, l.ContextMap())
		}
	}
}

// FuzzFront feeds the dialogue before login. The backends are closed, so that
// nothing of what a client sends may come back but in words of ours.
func FuzzFront(f *testing.F) {
	for _, s := range []string{
		"CAPA\r\nNOOP\r\nAUTH\r\nQUIT\r\n",
		"USER anna\r\nPASS sesame\r\nSTAT\r\n",
		"AUTH PLAIN\r\n" + plainAnna + "\r\n",
		"AUTH PLAIN " + plainBertaAnna + "\r\n",
		"AUTH LOGIN\r\nYW5uYQ==\r\nc2VzYW1l\r\n",
		"XCLIENT ADDR=192.0.2.1 TTL=1\r\nSTLS\r\nAPOP a b\r\n",
	} {
		f.Add([]byte(s))
	}
	pipes, p := fuzzed(f, func() []byte { return nil })
	f.Fuzz(func(t *testing.T, in []byte) {
		out := pipes.Say(in, true)
		lines := strings.Split(string(out), "\r\n")
		if len(out) > 0 && lines[len(lines)-1] != "" && len(in) > 0 {
			lines = lines[:len(lines)-1] // the pipe was closed inside a line
		}
		for _, line := range lines {
			if line != "" && !answer.MatchString(line) || strings.ContainsAny(line, "\r\n\x00") {
				t.Fatalf("answered %q", line)
			}
		}
		noPanic(t, p)
	})
}

// FuzzBack feeds the login with a backend's answers. Whatever they are, the
// client gets one answer, and never hears that its password is wrong.
func FuzzBack(f *testing.F) {
	for _, s := range []string{
		"+OK [XCLIENT] ready\r\n+OK Updated\r\n+OK 2 messages\r\nrest",
		"+OK ready\r\n+OK in\r\n", "+OK ready\r\n+ \r\n+OK in\r\n",
		"+OK\r\n-ERR [SYS/TEMP/MOVED] x\r\n", "+OK\r\n-ERR [IN-USE] x\r\n",
		"+OK\r\n-ERR [AUTH] x\r\n", "-ERR [SYS/TEMP]\r\n", "+", "",
	} {
		f.Add([]byte(s))
	}
	var script atomic.Pointer[[]byte]
	pipes, p := fuzzed(f, func() []byte { return *script.Load() })
	f.Fuzz(func(t *testing.T, in []byte) {
		script.Store(&in)
		out := string(pipes.Say([]byte("USER anna\r\nPASS sesame\r\nQUIT\r\n"), false))
		_, out, _ = strings.Cut(out, "\r\n+OK\r\n")
		ok := strings.HasPrefix(out, "+OK")
		if !ok && (!strings.HasPrefix(out, "-ERR [") || !strings.HasSuffix(out, "\r\n+OK Bye\r\n")) {
			t.Fatalf("answered %q", out)
		}
		if !ok && strings.Contains(out, "[AUTH]") && !strings.Contains(string(in), "[IN-USE]") {
			t.Fatalf("a backend's answer became a wrong password: %q", out)
		}
		noPanic(t, p)
	})
}
