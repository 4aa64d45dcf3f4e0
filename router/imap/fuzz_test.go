package imap

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"switchyard/internal/tlsconf"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// answer is any line that the proxy itself may say.
var answer = regexp.MustCompile(`^(\*|\+|[!-~\]]+) ?(OK|NO|BAD|BYE|CAPABILITY|ID|VXNlcm5hbWU6|UGFzc3dvcmQ6)?( [ -~]*)?$`)

// fuzzed starts a router over pipes, whose backend says what say returns.
func fuzzed(f *testing.F, say func() []byte) (*routertest.Pipes, *routertest.Proxy) {
	pipes := routertest.NewPipes()
	cfg := clear(nil)
	cfg.Net = pipes
	cfg.Backends = []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{{Name: "b1a", Services: map[upstream.Service]upstream.Endpoint{
		upstream.IMAP: {Address: "b1a:143", TLS: tlsconf.Off},
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
		"a CAPABILITY\r\nb NOOP\r\nc LOGOUT\r\n",
		"a LOGIN anna sesame\r\nb SELECT INBOX\r\n",
		"a LOGIN {4+}\r\nanna {6}\r\nsesame\r\n",
		`a LOGIN "an\"na" "ses\\ame"` + "\r\n",
		"a AUTHENTICATE PLAIN\r\n" + plainAnna + "\r\n",
		"a AUTHENTICATE PLAIN " + plainBertaAnna + "\r\n",
		"a AUTHENTICATE LOGIN\r\nYW5uYQ==\r\nc2VzYW1l\r\n",
		`a ID ("x-originating-ip" "192.0.2.1" "x-proxy-ttl" "1" "a" NIL)` + "\r\n",
		"a ID NIL\r\na ID (\"a\" {1+}\r\nb)\r\n",
		"a LOGIN {99999999999}\r\n", "a X {5+}\r\nhello\r\n",
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
// client gets one tagged answer, and never hears that its password is wrong.
func FuzzBack(f *testing.F) {
	for _, s := range []string{
		"* OK [CAPABILITY IMAP4rev1 SASL-IR ID AUTH=PLAIN] b1 ready\r\n* ID NIL\r\nI OK\r\nL OK [CAPABILITY X] in\r\n",
		"* OK ready\r\n* CAPABILITY AUTH=PLAIN\r\nC OK\r\n+ \r\nL OK in\r\nrest",
		"* OK [CAPABILITY AUTH=PLAIN SASL-IR]\r\nL NO [X-MOVED] x\r\n",
		"* OK [CAPABILITY AUTH=PLAIN SASL-IR]\r\nL NO [LIMIT] x\r\n",
		"* OK [CAPABILITY AUTH=PLAIN SASL-IR]\r\nL NO [AUTHENTICATIONFAILED] x\r\n",
		"* OK [CAPABILITY AUTH=PLAIN SASL-IR]\r\n* ID {3}\r\nabc\r\nL BAD\r\n",
		"* PREAUTH\r\n", "* BYE\r\n", "*", "",
	} {
		f.Add([]byte(s))
	}
	var script atomic.Pointer[[]byte]
	pipes, p := fuzzed(f, func() []byte { return *script.Load() })
	f.Fuzz(func(t *testing.T, in []byte) {
		script.Store(&in)
		out := string(pipes.Say([]byte("a LOGIN anna sesame\r\na LOGOUT\r\n"), false))
		_, out, _ = strings.Cut(out, "\r\n")
		ok := strings.Index("\r\n"+out, "\r\na OK")
		if ok < 0 && (!strings.HasPrefix(out, "a NO [") || !strings.Contains(out, "\r\n* BYE Logging out\r\n")) {
			t.Fatalf("answered %q", out)
		}
		if ok < 0 && strings.Contains(out, "[AUTHENTICATIONFAILED]") {
			t.Fatalf("a backend's answer became a wrong password: %q", out)
		}
		noPanic(t, p)
	})
}

// FuzzParse holds the parser against itself: what it takes for a name and a
// password was there, and nothing of the command is left.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`a LOGIN anna "x"`))
	f.Add([]byte("a LOGIN {1}\r\nb {0+}\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := parseCommand(in)
		if err != nil {
			if !errors.As(err, new(*syntaxError)) {
				t.Fatal(err)
			}
			return
		}
		user, ok := c.args.astring()
		password, ok2 := c.args.spaceAstring()
		if !ok || !ok2 || !c.args.end() {
			return
		}
		for _, s := range []string{user, password} {
			if strings.ContainsAny(s, "\x00") {
				t.Fatalf("NUL in %q", s)
			}
			if !strings.ContainsAny(s, `"\`) && !bytes.Contains(in, []byte(s)) {
				t.Fatalf("%q was not in %q", s, in)
			}
		}
	})
}

// TestMistakesOfOursAreCalledSo: an error that nobody classified.
func TestMistakesOfOursAreCalledSo(t *testing.T) {
	cfg := clear(routertest.NewBackend(t, nil, "S: * OK [CAPABILITY SASL-IR AUTH=PLAIN]\nEOF"))
	cfg.Upstream = upstream.Options{ProxyName: "pro\x00xy", ProxySecret: "x"}
	p := routertest.Start(t, cfg)
	p.Play(loginGets("NO [SERVERBUG] Internal error, try again later") + "CLOSE")
	check(t, p.Session(), map[string]any{"result": "broken"})
}
