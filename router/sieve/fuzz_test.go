package sieve

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
var answer = regexp.MustCompile(`^((OK|NO|BYE)( \([A-Z-]+( "([^"\\]|\\["\\])*")?\))? "([^"\\]|\\["\\])*"|"[A-Z]+"( "[ -!#-\[\]-~]*")?|"([A-Za-z0-9+/=]*)")$`)

// fuzzed starts a router over pipes, whose backend says what say returns.
func fuzzed(f *testing.F, say func() []byte) (*routertest.Pipes, *routertest.Proxy) {
	pipes := routertest.NewPipes()
	cfg := clear(nil)
	cfg.Net = pipes
	cfg.Backends = []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{{Name: "b1a", Services: map[upstream.Service]upstream.Endpoint{
		upstream.ManageSieve: {Address: "b1a:4190", TLS: tlsconf.Off},
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
		"CAPABILITY\r\nNOOP\r\nNOOP \"a\\\"\\\\b\"\r\nLOGOUT\r\n",
		"AUTHENTICATE \"PLAIN\" \"" + plainAnna + "\"\r\nLISTSCRIPTS\r\n",
		"AUTHENTICATE \"PLAIN\"\r\n{36+}\r\n" + plainAnna + "\r\n",
		"AUTHENTICATE \"LOGIN\"\r\n\"YW5uYQ==\"\r\n\"c2VzYW1l\"\r\n",
		"AUTHENTICATE {5+}\r\nPLAIN {36+}\r\n" + plainAnna + "\r\n",
		"NOOP {3+}\r\nabc{3+}\r\nabc\r\n", "NOOP {3}\r\n", "NOOP \"x {3+}\r\nabc\r\nNOOP\r\n", "NOOP {3+} {2+}\r\nab\r\n",
		"PUTSCRIPT \"x\" {4+}\r\nkeep\r\nXCLIENT ADDR=192.0.2.1 TTL=1\r\nSTARTTLS\r\nUNAUTHENTICATE\r\n",
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

// FuzzBack feeds the login with a backend's answers. Whatever they are, the client
// gets one answer, and never hears that its password is wrong.
func FuzzBack(f *testing.F) {
	list := "\"SASL\" \"PLAIN\"\r\n\"SIEVE\" \"fileinto\"\r\n\"XCLIENT\"\r\nOK\r\n"
	for _, s := range []string{
		list + "OK \"Updated\"\r\nOK \"in\"\r\nrest", "\"SASL\" {5}\r\nPLAIN\r\nOK\r\nOK (SASL \"eA==\") {2}\r\nin\r\n",
		list + "NO\r\nNO (TRYLATER/MOVED) \"x\"\r\n", list + "OK\r\nNO (REFERRAL \"sieve://x\") \"x\"\r\n",
		list + "OK\r\nNO \"x\"\r\n", list + "OK\r\nBYE (TRYLATER) \"x\"\r\n", "BYE \"x\"\r\n", "\"SASL\" \"\"\r\nOK\r\n",
		"* OK\r\n", "OK (", "\"", "",
	} {
		f.Add([]byte(s))
	}
	var script atomic.Pointer[[]byte]
	pipes, p := fuzzed(f, func() []byte { return *script.Load() })
	f.Fuzz(func(t *testing.T, in []byte) {
		script.Store(&in)
		out := string(pipes.Say([]byte("AUTHENTICATE \"PLAIN\" \""+plainAnna+"\"\r\nLOGOUT\r\n"), false))
		_, out, _ = strings.Cut(out, "ready\"\r\n")
		first, rest, _ := strings.Cut(out, "\r\n")
		switch {
		case !answer.MatchString(first):
			t.Fatalf("answered %q", out)
		case strings.HasPrefix(first, "OK"):
		case first != `NO (TRYLATER) "Temporarily unavailable, try again later"` || rest != "OK \"Bye\"\r\n":
			t.Fatalf("answered %q", out)
		}
		noPanic(t, p)
	})
}
