package pop

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/upstream"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The SASL messages of the tests.
const (
	plainAnna      = "AGFubmFAZXhhbXBsZS50ZXN0AHNlc2FtZQ=="                         // anna@example.test, sesame
	plainBertaAnna = "YmVydGFAZXhhbXBsZS50ZXN0AGFubmFAZXhhbXBsZS50ZXN0AHNlc2FtZQ==" // anna's login for berta's mail
	plainProxy     = "YW5uYUBleGFtcGxlLnRlc3QAcHJveHkAcHJveHktc2VjcmV0"             // proxy's login for anna
	hello          = "S: +OK px1.example.test ready\n"
	notNow         = "-ERR [SYS/TEMP] Temporarily unavailable, try again later"
)

// accept is a backend that takes anna's login and then plays the rest.
const accept = `
	S: +OK [XCLIENT] b1 ready
	C: XCLIENT SESSION=* TTL=6 CLIENT-TRANSPORT=* FORWARD=* DESTADDR=127.0.0.1 DESTPORT=* PORT=* ADDR=127.0.0.1
	C: AUTH PLAIN ` + plainProxy + `
	S: +OK Updated
	S: +OK 2 messages
`

func directory() *routertest.Directory {
	d := routertest.NewDirectory()
	d.Add(lookup.Account{Name: "anna@example.test", Home: "b1", Generation: 7}, "sesame")
	d.Add(lookup.Account{Name: "berta@example.test"}, "open sesame, please ")
	d.Add(lookup.Account{Name: "carla@example.test", Home: "b1", Status: lookup.StatusSuspended}, "sesame")
	d.Add(lookup.Account{Name: "erna@example.test", Home: "b9"}, "sesame")
	d.Add(lookup.Account{Name: strings.Repeat("l", 64) + "@" + strings.Repeat("sub.", 40) + "test", Home: "b1"}, "sesame")
	return d
}

// clear allows everything in clear, to b1.
func clear(b1 *routertest.Backend) routertest.Config {
	c := routertest.Config{
		Protocol: New(), Directory: directory(),
		Listener: router.Listener{AllowCleartextLogin: true},
		Options:  router.Options{DefaultDomain: "example.test", DefaultBackend: "b1"},
	}
	if b1 != nil {
		c.Backends = []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{b1.Node("b1a", upstream.POP3, tlsconf.Off, nil)}}}
	}
	return c
}

func check(t *testing.T, got map[string]any, want map[string]any) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("the session's line: %s is %v, want %v (%v)", k, got[k], v, got["reason"])
		}
	}
}

// TestDialogue plays what needs no backend.
func TestDialogue(t *testing.T) {
	for name, c := range map[string]struct{ script, result string }{
		"small talk, pipelined": {`
			C: CAPA
			C: noop
			C: AUTH
			C: QUIT
			S: +OK
			S: RESP-CODES
			S: AUTH-RESP-CODE
			S: USER
			S: SASL PLAIN LOGIN
			S: .
			S: +OK
			S: +OK
			S: PLAIN
			S: LOGIN
			S: .
			S: +OK Bye
			EOF`, "no login"},
		"not before login": {`
			C: STAT
			S: -ERR Unknown command, or not allowed before login
			C: APOP anna c4c9334bac560ecc979e58001b3e22fb
			S: -ERR Unknown command, or not allowed before login
			C: XCLIENT ADDR=192.0.2.1
			S: -ERR Unknown command, or not allowed before login
			C: STLS
			S: -ERR TLS is not offered here
			C: NOOP now
			S: -ERR NOOP takes no arguments
			CLOSE`, "client gone"},
		"other protocols, binary": {`
			C: GET / HTTP/1.1
			S: -ERR *
			C: \0\0\0
			S: -ERR *
			C:
			S: -ERR *
			C: EHLO x
			S: -ERR *
			C: a LOGIN b c
			S: -ERR *
			C: x
			S: -ERR *
			S: -ERR Protocol error
			EOF`, "protocol error"},
		"bare LF": {`
			C- NOOP\n
			S: -ERR Lines end in CRLF
			EOF`, "protocol error"},
		"rejected": {`
			C: USER anna
			S: +OK
			C: PASS wrong
			S: -ERR [AUTH] Authentication failed
			C: USER nobody
			C: PASS sesame
			S: +OK
			S: -ERR [AUTH] Authentication failed
			C: USER anna
			C: PASS
			S: +OK
			S: -ERR [AUTH] Authentication failed
			EOF`, "login rejected"},
		"out of order": {`
			C: PASS sesame
			S: -ERR USER first
			C: USER
			S: -ERR USER takes a name
			C: USER anna
			S: +OK
			C: PASS wrong
			S: -ERR [AUTH] Authentication failed
			C: PASS sesame
			S: -ERR USER first
			CLOSE`, "login rejected"},
		"suspended: only the right password learns it": {`
			C: USER carla
			C: PASS wrong
			S: +OK
			S: -ERR [AUTH] Authentication failed
			C: USER carla
			C: PASS sesame
			S: +OK
			S: -ERR [SYS/PERM] Account is suspended
			CLOSE`, "account refused"},
		"a home that is no backend never becomes the default backend": {`
			C: USER erna
			C: PASS sesame
			S: +OK
			S: ` + notNow + `
			CLOSE`, "misconfigured"},
		"authzid of another": {`
			C: AUTH PLAIN ` + plainBertaAnna + `
			S: -ERR [AUTH] Authentication failed
			CLOSE`, "login rejected"},
		"SASL": {`
			C: AUTH CRAM-MD5
			S: -ERR Mechanism is not supported
			C: AUTH PLAIN !!!
			S: -ERR Malformed SASL message
			C: AUTH PLAIN =
			S: -ERR Malformed PLAIN message
			C: AUTH PLAIN
			S: + 
			C: *
			S: -ERR AUTH cancelled
			C: AUTH LOGIN
			S: + VXNlcm5hbWU6
			C: YW5uYQ==
			S: + UGFzc3dvcmQ6
			C: d3Jvbmc=
			S: -ERR [AUTH] Authentication failed
			CLOSE`, "login rejected"},
	} {
		t.Run(name, func(t *testing.T) {
			p := routertest.Start(t, clear(nil))
			p.Play(hello + c.script)
			check(t, p.Session(), map[string]any{"result": c.result, "protocol": "pop3"})
		})
	}
}

func userPass(want string) string {
	return hello + "C: USER anna\nC: PASS sesame\nS: +OK\nS: " + want + "\n"
}

// TestThreeAnswers: absent, rejected and unavailable on the wire.
func TestThreeAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		err          error
		want, result string
	}{
		"rejected":    {lookup.ErrRejected, "-ERR [AUTH] *", "login rejected"},
		"absent":      {lookup.ErrAbsent, "-ERR [AUTH] *", "login rejected"},
		"unavailable": {lookup.Unavailable("dial", errors.New("refused")), notNow, "directory unavailable"},
		"a new error": {errors.New("a bug"), notNow, "directory unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := clear(nil)
			d := directory()
			d.Fail(func(string, string) error { return c.err })
			cfg.Directory = d
			p := routertest.Start(t, cfg)
			p.Play(userPass(c.want) + "CLOSE")
			check(t, p.Session(), map[string]any{"result": c.result})
		})
	}
}

func TestStartTLS(t *testing.T) {
	for name, c := range map[string]struct{ script, result string }{
		"passwords need TLS": {`
			C: CAPA
			S: +OK
			S: RESP-CODES
			S: AUTH-RESP-CODE
			S: STLS
			S: .
			C: USER anna
			S: -ERR [SYS/PERM] Passwords need TLS here
			C: PASS sesame
			S: -ERR [SYS/PERM] Passwords need TLS here
			C: AUTH PLAIN ` + plainAnna + `
			S: -ERR [SYS/PERM] Passwords need TLS here
			CLOSE`, "client gone"},
		"upgrade": {`
			C: STLS
			S: +OK Begin TLS negotiation now
			TLS
			C: STLS
			S: -ERR TLS is active already
			C: USER anna
			C: PASS wrong
			S: +OK
			S: -ERR [AUTH] Authentication failed
			C: QUIT
			S: +OK Bye
			EOF`, "login rejected"},
		"bytes behind STLS end the session": {`
			C: STLS
			C: USER anna
			EOF`, "protocol error"},
	} {
		t.Run(name, func(t *testing.T) {
			server, client := routertest.TLS(t)
			cfg := clear(nil)
			cfg.Listener = router.Listener{TLS: tlsconf.StartTLS, Config: server}
			cfg.TLS = client
			p := routertest.Start(t, cfg)
			p.Play(hello + c.script)
			check(t, p.Session(), map[string]any{"result": c.result})
		})
	}
}

// TestUserBeforeStartTLSIsForgotten where passwords in clear are allowed too.
func TestUserBeforeStartTLSIsForgotten(t *testing.T) {
	server, client := routertest.TLS(t)
	cfg := clear(nil)
	cfg.Listener = router.Listener{TLS: tlsconf.StartTLS, Config: server, AllowCleartextLogin: true}
	cfg.TLS = client
	p := routertest.Start(t, cfg)
	p.Play(hello + `
		C: USER anna
		S: +OK
		C: STLS
		S: +OK *
		TLS
		C: PASS sesame
		S: -ERR USER first
		CLOSE`)
}

// TestLogin plays logins that succeed, up to the far end of the splice.
func TestLogin(t *testing.T) {
	for name, c := range map[string]struct{ client, backend string }{
		"pipelined across the login": {`
			C: USER anna
			C: PASS sesame
			C: STAT
			C: QUIT
			S: +OK
			S: +OK 2 messages
			S: +OK 2 320
			S: +OK Bye
			EOF`, accept + `
			C: STAT
			C: QUIT
			S: +OK 2 320
			S: +OK Bye`},
		"SASL": {`
			C: AUTH PLAIN ` + plainAnna + `
			S: +OK 2 messages
			CLOSE`, accept + "EOF"},
		"SASL, asked for": {`
			C: AUTH PLAIN
			S: + 
			C: ` + plainAnna + `
			S: +OK 2 messages
			CLOSE`, accept + "EOF"},
		"no XCLIENT": {`
			C: USER anna
			C: PASS sesame
			S: +OK
			S: +OK
			CLOSE`, `
			S: +OK ready
			C: AUTH PLAIN ` + plainProxy + `
			S: +OK
			EOF`},
		"XCLIENT refused": {`
			C: USER anna
			C: PASS sesame
			S: +OK
			S: +OK Welcome
			CLOSE`, `
			S: +OK [XCLIENT] ready
			C: XCLIENT *
			C: AUTH PLAIN ` + plainProxy + `
			S: -ERR no
			S: +OK Welcome
			EOF`},
		"a login too long for an initial response": {`
			C: USER ` + strings.Repeat("l", 64) + "@" + strings.Repeat("sub.", 40) + `test
			C: PASS sesame
			S: +OK
			S: +OK Welcome
			CLOSE`, `
			S: +OK ready
			C: AUTH PLAIN
			S: + 
			C: *
			S: +OK Welcome
			EOF`},
	} {
		t.Run(name, func(t *testing.T) {
			b := routertest.NewBackend(t, nil, c.backend)
			p := routertest.Start(t, clear(b))
			p.Play(hello + c.client)
			check(t, p.Session(), map[string]any{"home": "b1", "node": "b1a"})
		})
	}
}

// TestPasswordWithSpaces: all behind the first space is the password.
func TestPasswordWithSpaces(t *testing.T) {
	b := routertest.NewBackend(t, nil, "S: +OK\nC: AUTH PLAIN *\nS: +OK\nEOF")
	p := routertest.Start(t, clear(b))
	p.Play(hello + "C: USER berta\nC: PASS open sesame, please \nS: +OK\nS: +OK\nCLOSE")
	check(t, p.Session(), map[string]any{"user": "berta@example.test", "home": "b1"})
}

// TestFailures: what a backend can do wrong or refuse.
func TestFailures(t *testing.T) {
	const banner = "S: +OK ready\nC: AUTH PLAIN *\n"
	for name, c := range map[string]struct{ backend, want, result string }{
		"-ERR":                         {"S: -ERR full\nEOF", notNow, "backend unavailable"},
		"rubbish":                      {"S: * OK IMAP\nEOF", notNow, "backend unavailable"},
		"+OKAY":                        {"S: +OKAY\nEOF", notNow, "backend unavailable"},
		"binary":                       {"S: +OK \\0\nEOF", notNow, "backend unavailable"},
		"nothing":                      {"HANG", notNow, "backend unavailable"},
		"closed":                       {"CLOSE", notNow, "backend unavailable"},
		"part of a line":               {"S- +O\nHANG", notNow, "backend unavailable"},
		"an endless line":              {"S- +OK " + strings.Repeat("x", 20000) + "\nHANG", notNow, "backend unavailable"},
		"bare LF":                      {"S- +OK\\n\nHANG", notNow, "backend unavailable"},
		"silence at the login":         {banner + "HANG", notNow, "backend unavailable"},
		"closed at the login":          {banner + "CLOSE", notNow, "backend unavailable"},
		"unavailable":                  {banner + "S: -ERR [SYS/TEMP] busy\nEOF", notNow, "backend unavailable"},
		"the proxy's login is refused": {banner + "S: -ERR [AUTH] no\nEOF", notNow, "misconfigured"},
		"refused wordlessly":           {banner + "S: -ERR\nEOF", notNow, "misconfigured"},
		"in use":                       {banner + "S: -ERR [IN-USE] Mailbox is in use\nEOF", "-ERR [IN-USE] Mailbox is in use", "account refused"},
		"status":                       {banner + "S: -ERR [SYS/PERM] Account is suspended\nEOF", "-ERR [SYS/PERM] Account is suspended", "account refused"},
	} {
		t.Run(name, func(t *testing.T) {
			b := routertest.NewBackend(t, nil, c.backend)
			cfg := clear(b)
			cfg.Upstream.DialogueTimeout = 200 * time.Millisecond
			p := routertest.Start(t, cfg)
			p.Play(userPass(c.want) + "C: NOOP\nS: +OK\nCLOSE")
			check(t, p.Session(), map[string]any{"result": c.result, "home": "b1"})
			for _, l := range p.Logs.All() {
				if strings.Contains(fmt.Sprint(l.Message, l.ContextMap()), routertest.Secret) {
					t.Errorf("the secret is in the log: %v", l)
				}
			}
		})
	}
}

func TestBackendTLS(t *testing.T) {
	server, client := routertest.TLS(t)
	for name, c := range map[string]struct {
		mode          tlsconf.Mode
		backend, want string
	}{
		"identity only inside TLS": {tlsconf.StartTLS, `
			S: +OK [XCLIENT] ready
			C: STLS
			S: +OK go
			TLS
			C: XCLIENT *
			C: AUTH PLAIN ` + plainProxy + `
			S: +OK Updated
			S: +OK Welcome
			EOF`, "+OK Welcome"},
		"implicit": {tlsconf.Implicit, "TLS\nS: +OK ready\nC: AUTH PLAIN *\nS: +OK Welcome\nEOF", "+OK Welcome"},
		"response injection behind STLS": {tlsconf.StartTLS, `
			S: +OK [XCLIENT] ready
			C: STLS
			S: +OK go
			S: +OK Updated
			S: +OK Welcome
			HANG`, notNow},
		"a backend that refuses STLS never gets the secret": {tlsconf.StartTLS, `
			S: +OK ready
			C: STLS
			S: -ERR not today
			EOF`, notNow},
	} {
		t.Run(name, func(t *testing.T) {
			b := routertest.NewBackend(t, server, c.backend)
			cfg := clear(nil)
			cfg.Backends = []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{b.Node("b1a", upstream.POP3, c.mode, client)}}}
			p := routertest.Start(t, cfg)
			p.Play(userPass(c.want) + "CLOSE")
			p.Session()
		})
	}
}

// TestMoved moves an account under a warm cache.
func TestMoved(t *testing.T) {
	const moved = "S: +OK ready\nC: AUTH PLAIN *\nS: -ERR [SYS/TEMP/MOVED] home is elsewhere\nEOF"
	for name, c := range map[string]struct {
		b2, home, want string
		calls          int
	}{
		"once":             {accept + "EOF", "b2", "+OK 2 messages", 1},
		"twice":            {moved, "b2", notNow, 1},
		"nobody knows yet": {"CLOSE", "b1", notNow, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b1, b2 := routertest.NewBackend(t, nil, moved), routertest.NewBackend(t, nil, c.b2)
			cfg := clear(b1)
			d := directory()
			d.Move("anna@example.test", c.home, 8)
			cfg.Directory = d
			cfg.Backends = append(cfg.Backends, upstream.Backend{Name: "b2", Nodes: []upstream.Node{b2.Node("b2a", upstream.POP3, tlsconf.Off, nil)}})
			p := routertest.Start(t, cfg)
			p.Play(userPass(c.want) + "CLOSE")
			check(t, p.Session(), map[string]any{"home": c.home})
			if b1.Calls() != 1 || b2.Calls() != c.calls {
				t.Errorf("b1 was called %d times, b2 %d", b1.Calls(), b2.Calls())
			}
		})
	}
}

// TestXCLIENTFromAProxy: another proxy of ours is believed, once, and loops are
// cut.
func TestXCLIENTFromAProxy(t *testing.T) {
	cfg := clear(nil)
	cfg.Listener.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	const banner = "S: +OK [XCLIENT] px1.example.test ready\n"
	for name, c := range map[string]struct {
		script string
		want   map[string]any
	}{
		"once": {`
			C: XCLIENT SESSION=first TTL=5 ADDR=192.0.2.9 PORT=1234
			S: +OK Updated
			C: XCLIENT SESSION=second ADDR=192.0.2.66 PORT=1
			S: +OK Updated
			CLOSE`, map[string]any{"session": "first", "client": "192.0.2.9:1234"}},
		"loop": {`
			C: XCLIENT TTL=1 ADDR=192.0.2.9
			S: -ERR Protocol error
			EOF`, map[string]any{"result": "protocol error"}},
		"malformed": {`
			C: XCLIENT ADDR=nowhere
			S: -ERR Malformed client identity
			CLOSE`, map[string]any{"result": "client gone"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := routertest.Start(t, cfg)
			p.Play(banner + c.script)
			check(t, p.Session(), c.want)
		})
	}
}

func TestLoginDeadline(t *testing.T) {
	cfg := clear(nil)
	cfg.Options.LoginTimeout = 50 * time.Millisecond
	p := routertest.Start(t, cfg)
	p.Play(hello + "S: -ERR Login took too long\nEOF")
	check(t, p.Session(), map[string]any{"result": "timeout"})
}

// TestTenMegabytesBeforeLogin: memory stays bounded, whatever shape they have.
func TestTenMegabytesBeforeLogin(t *testing.T) {
	const size = 10 << 20
	for name, junk := range map[string]struct{ head, unit string }{
		"one line":      {"", "x"},
		"commands":      {"", "NOOP\r\n"},
		"a name":        {"USER ", "x"},
		"names":         {"", "USER " + strings.Repeat("x", 10000) + "\r\n"},
		"SASL":          {"AUTH PLAIN\r\n", "QUFB"},
		"failed logins": {"", "USER anna\r\nPASS wrong\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := routertest.Start(t, clear(nil))
			conn := p.Dial()
			read := make(chan struct{})
			go func() {
				defer close(read)
				io.Copy(io.Discard, conn)
			}()
			chunk := []byte(strings.Repeat(junk.unit, 1+1<<16/len(junk.unit)))
			before := allocated()
			_, err := io.WriteString(conn, junk.head)
			for sent := 0; sent < size && err == nil; sent += len(chunk) {
				_, err = conn.Write(chunk) // breaks off when the proxy has had enough
			}
			conn.Close()
			<-read
			p.Session()
			// 100 commands of 16 KiB are let through, one after the other.
			if grown := allocated() - before; grown > 6<<20 {
				t.Errorf("allocated %d bytes for %d received", grown, size)
			}
		})
	}
}

// allocated returns all bytes ever allocated, so that garbage counts too.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestKickedSaysGoodbye(t *testing.T) {
	p := routertest.Start(t, clear(nil))
	conn := p.Dial()
	b := make([]byte, 3)
	if _, err := io.ReadFull(conn, b); err != nil {
		t.Fatal(err)
	}
	if n := p.Router.Kick(t.Context(), router.Match{All: true}, "test"); n != 1 {
		t.Errorf("kicked %d, want 1", n)
	}
	rest, err := io.ReadAll(conn)
	if err != nil || !strings.HasSuffix(string(rest), "-ERR [SYS/TEMP] Session ended by the server, try again later\r\n") {
		t.Errorf("got %q, %v", rest, err)
	}
	check(t, p.Session(), map[string]any{"result": "kicked"})
}
