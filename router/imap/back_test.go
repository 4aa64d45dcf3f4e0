package imap

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// login is a client that logs in as anna and gets this.
func loginGets(want string) string { return hello + "C: a LOGIN anna sesame\nS: a " + want + "\n" }

const notNow = "NO [UNAVAILABLE] Temporarily unavailable, try again later"

// TestLogin plays logins that succeed, up to the far end of the splice.
func TestLogin(t *testing.T) {
	const greeting = "S: * OK [CAPABILITY IMAP4rev1 SASL-IR ID AUTH=PLAIN] ready\n"
	for name, c := range map[string]struct{ client, backend string }{
		"in one write": {`
			C: tag1 LOGIN anna sesame
			S: tag1 OK [CAPABILITY IMAP4rev1 IDLE] Logged in
			C: b NOOP
			S: b OK Done
			CLOSE`, accept + `
			C: b NOOP
			S: b OK Done
			EOF`},
		"commands behind the login reach the backend": {`
			C: a LOGIN anna sesame
			C: b SELECT INBOX
			C: c IDLE
			S: a OK [CAPABILITY IMAP4rev1 IDLE] Logged in
			S: b OK Selected
			S: + idling
			C: DONE
			S: c OK Done
			HALF
			EOF`, accept + `
			C: b SELECT INBOX
			C: c IDLE
			S: b OK Selected
			S: + idling
			C: DONE
			S: c OK Done
			EOF`},
		"half a command behind the login": {`
			C: a LOGIN anna sesame
			C- b SEL
			S: a OK *
			C: ECT INBOX
			S: b OK Selected
			CLOSE`, accept + `
			C: b SELECT INBOX
			S: b OK Selected
			EOF`},
		"bytes behind the backend's answer": {`
			C: a AUTHENTICATE PLAIN ` + plainAnnaSelf + `
			S: a OK [CAPABILITY IMAP4rev1 IDLE] Logged in
			S: \* OK [ALERT] Backup at eight
			C: b LOGOUT
			S: \* BYE
			S: b OK Done
			EOF`, accept + `
			S: * OK [ALERT] Backup at eight
			C: b LOGOUT
			S: * BYE
			S: b OK Done`},
		"SASL without an initial response": {`
			C: a AUTHENTICATE PLAIN
			S: + 
			C: ` + plainAnna + `
			S: a OK *
			CLOSE`, accept + "EOF"},
		"LOGIN mechanism": {`
			C: a AUTHENTICATE LOGIN
			S: + *
			C: YW5uYUBleGFtcGxlLnRlc3Q=
			S: + *
			C: c2VzYW1l
			S: a OK *
			CLOSE`, accept + "EOF"},
		"step by step, where the backend has neither SASL-IR nor ID": {`
			C: a LOGIN anna sesame
			S: a OK Welcome
			CLOSE`, `
			S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready
			C: L AUTHENTICATE PLAIN
			S: +
			C: ` + plainProxy + `
			S: L OK Welcome
			EOF`},
		"ID without SASL-IR": {`
			C: a LOGIN anna sesame
			S: a OK Welcome
			CLOSE`, `
			S: * OK [CAPABILITY IMAP4rev1 ID AUTH=PLAIN] ready
			C: ` + idLine + `
			S: * ID NIL
			S: I OK
			C: L AUTHENTICATE PLAIN
			S: + 
			C: ` + plainProxy + `
			S: L OK Welcome
			EOF`},
		"a backend that must be asked for its capabilities": {`
			C: a LOGIN anna sesame
			S: a OK Welcome
			CLOSE`, `
			S: * OK ready
			C: C CAPABILITY
			S: * CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR
			S: C OK
			C: L AUTHENTICATE PLAIN ` + plainProxy + `
			S: L OK Welcome
			EOF`},
		"capabilities in front of the answer": {`
			C: a LOGIN anna sesame
			S: \* CAPABILITY IMAP4rev1 IDLE
			S: \* OK [ALERT] Quota is near
			S: a OK Welcome
			CLOSE`, greeting + `
			C: I ID *
			C: L AUTHENTICATE PLAIN *
			S: * ID {6}
			S: ("a" "b")
			S: I OK
			S: * CAPABILITY IMAP4rev1 IDLE
			S: * OK [ALERT] Quota is near
			S: * OK chatter
			S: L OK Welcome
			EOF`},
		"a backend that refuses the identity": {`
			C: a LOGIN anna sesame
			S: a OK Welcome
			CLOSE`, greeting + `
			C: I ID *
			C: L AUTHENTICATE PLAIN *
			S: I BAD no
			S: L OK Welcome
			EOF`},
	} {
		t.Run(name, func(t *testing.T) {
			b := routertest.NewBackend(t, nil, c.backend)
			p := routertest.Start(t, clear(b))
			p.Play(hello + c.client)
			check(t, p.Session(), map[string]any{"user": "anna@example.test", "home": "b1", "node": "b1a"})
		})
	}
}

// TestIdentity: the backend learns the session's id, the client's address and
// the home's generation; what the client says of itself goes nowhere.
func TestIdentity(t *testing.T) {
	b := routertest.NewBackend(t, nil, accept+"EOF")
	p := routertest.Start(t, clear(b))
	p.Play(hello + `
		C: x ID ("name" "spoof" "x-originating-ip" "192.0.2.66" "x-session-id" "evil")
		S: \* ID *
		S: x OK *
		C: a LOGIN anna sesame
		S: a OK *
		CLOSE`)
	line := p.Session()
	id := b.Heard()[0]
	for _, want := range []string{
		fmt.Sprintf(`"x-session-id" "%s"`, line["session"]), `"x-originating-ip" "127.0.0.1"`, `"x-connected-ip" "127.0.0.1"`,
		`"x-proxy-ttl" "6"`, `"x-client-transport" "insecure"`, `"x-forward-home-generation" "7"`,
	} {
		if !strings.Contains(id, want) {
			t.Errorf("got %s, want %s in it", id, want)
		}
	}
	for _, b := range []string{"spoof", "192.0.2.66", "evil"} {
		if strings.Contains(id, b) {
			t.Errorf("the client's own words are in %s", id)
		}
	}
}

// TestFailures: what a backend can do wrong or refuse, and what the client and
// the log are told.
func TestFailures(t *testing.T) {
	const greeting = "S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\nC: L AUTHENTICATE PLAIN *\n"
	for name, c := range map[string]struct{ backend, want, result string }{
		"PREAUTH is refused":           {"S: * PREAUTH [CAPABILITY IMAP4rev1] hi\nEOF", notNow, "backend unavailable"},
		"BYE":                          {"S: * BYE full\nEOF", notNow, "backend unavailable"},
		"rubbish":                      {"S: SSH-2.0-OpenSSH_9.2\nEOF", notNow, "backend unavailable"},
		"binary":                       {"S: * OK \\0\nEOF", notNow, "backend unavailable"},
		"nothing":                      {"HANG", notNow, "backend unavailable"},
		"closed":                       {"CLOSE", notNow, "backend unavailable"},
		"part of a line":               {"S- * OK [CAPABI\nHANG", notNow, "backend unavailable"},
		"part of a line, closed":       {"S- * OK [CAPABI\nCLOSE", notNow, "backend unavailable"},
		"an endless line":              {"S- * OK " + strings.Repeat("x", 20000) + "\nHANG", notNow, "backend unavailable"},
		"bare LF":                      {"S- * OK ready\\n\nHANG", notNow, "backend unavailable"},
		"chatter without end":          {greeting + strings.Repeat("S: * OK chatter\n", 100) + "HANG", notNow, "backend unavailable"},
		"silence at the login":         {greeting + "HANG", notNow, "backend unavailable"},
		"closed at the login":          {greeting + "CLOSE", notNow, "backend unavailable"},
		"BYE at the login":             {greeting + "S: * BYE\nCLOSE", notNow, "backend unavailable"},
		"half an answer":               {greeting + "S- L OK [CAPA\nCLOSE", notNow, "backend unavailable"},
		"another's tag":                {greeting + "S: X OK Logged in\nEOF", notNow, "backend unavailable"},
		"BAD":                          {greeting + "S: L BAD what\nEOF", notNow, "backend unavailable"},
		"an untagged OK is no login":   {greeting + "S: * OK Logged in\nCLOSE", notNow, "backend unavailable"},
		"a huge literal":               {greeting + "S: * ID {4000000000}\nHANG", notNow, "backend unavailable"},
		"unavailable":                  {greeting + "S: L NO [UNAVAILABLE] store is busy\nEOF", notNow, "backend unavailable"},
		"an unknown code":              {greeting + "S: L NO [X-WHAT] x\nEOF", notNow, "backend unavailable"},
		"the proxy's login is refused": {greeting + "S: L NO [AUTHENTICATIONFAILED] no\nEOF", notNow, "misconfigured"},
		"the proxy's login is refused, wordlessly": {greeting + "S: L NO\nEOF", notNow, "misconfigured"},
		"no AUTH=PLAIN":     {"S: * OK [CAPABILITY IMAP4rev1 LOGINDISABLED] ready\nEOF", notNow, "misconfigured"},
		"too many sessions": {greeting + "S: L NO [LIMIT] Too many connections\nEOF", "NO [LIMIT] Too many connections", "account refused"},
		"status":            {greeting + "S: L NO [AUTHORIZATIONFAILED] Account is suspended\nEOF", "NO [AUTHORIZATIONFAILED] Account is suspended", "account refused"},
	} {
		t.Run(name, func(t *testing.T) {
			b := routertest.NewBackend(t, nil, c.backend)
			cfg := clear(b)
			cfg.Upstream.DialogueTimeout = 200 * time.Millisecond
			p := routertest.Start(t, cfg)
			p.Play(loginGets(c.want) + `
				C: z NOOP
				S: z OK Done
				CLOSE`)
			check(t, p.Session(), map[string]any{"result": c.result, "home": "b1"})
			for _, l := range p.Logs.All() {
				if strings.Contains(fmt.Sprint(l.Message, l.ContextMap()), routertest.Secret) {
					t.Errorf("the secret is in the log: %v", l)
				}
			}
		})
	}
}

// TestRefusedProxyIsTheOperatorsToMend: and the log says how.
func TestRefusedProxyIsTheOperatorsToMend(t *testing.T) {
	b := routertest.NewBackend(t, nil, "S: * OK [CAPABILITY SASL-IR AUTH=PLAIN]\nC: L *\nS: L NO [AUTHENTICATIONFAILED] x\nEOF")
	p := routertest.Start(t, clear(b))
	p.Play(loginGets(notNow) + "CLOSE")
	p.Session()
	for _, l := range p.Logs.All() {
		if l.Level.String() == "error" && strings.Contains(l.Message, "proxy networks") {
			return
		}
	}
	t.Errorf("got %v", p.Logs.All())
}

func TestBackendTLS(t *testing.T) {
	server, client := routertest.TLS(t)
	_, strange := routertest.TLS(t)
	const inside = `
		C: C CAPABILITY
		S: * CAPABILITY IMAP4rev1 AUTH=PLAIN
		S: C OK
		C: L AUTHENTICATE PLAIN
		S: +
		C: ` + plainProxy + `
		S: L OK Welcome
		EOF`
	for name, c := range map[string]struct {
		mode    tlsconf.Mode
		trust   bool
		backend string
		want    string
	}{
		// The first capabilities offer ID and SASL-IR, the true ones do not.
		"identity and capabilities only inside TLS": {tlsconf.StartTLS, true, `
			S: * OK [CAPABILITY IMAP4rev1 STARTTLS ID SASL-IR AUTH=PLAIN] ready
			C: S STARTTLS
			S: S OK go
			TLS` + inside, "OK Welcome"},
		"implicit": {tlsconf.Implicit, true, "TLS\nS: * OK ready" + inside, "OK Welcome"},
		"response injection behind STARTTLS": {tlsconf.StartTLS, true, `
			S: * OK ready
			C: S STARTTLS
			S: S OK go
			S: * CAPABILITY IMAP4rev1 ID SASL-IR AUTH=PLAIN
			HANG`, notNow},
		"PREAUTH in front of STARTTLS": {tlsconf.StartTLS, true, "S: * PREAUTH hi\nEOF", notNow},
		"a backend that refuses STARTTLS never gets the secret": {tlsconf.StartTLS, true, `
			S: * OK [CAPABILITY IMAP4rev1 ID SASL-IR AUTH=PLAIN] ready
			C: S STARTTLS
			S: S NO not today
			EOF`, notNow},
		"a strange certificate": {tlsconf.StartTLS, false, `
			S: * OK ready
			C: S STARTTLS
			S: S OK go
			NOTLS`, notNow},
	} {
		t.Run(name, func(t *testing.T) {
			config := client
			if !c.trust {
				config = strange
			}
			b := routertest.NewBackend(t, server, c.backend)
			cfg := clear(nil)
			cfg.Backends = []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{b.Node("b1a", upstream.IMAP, c.mode, config)}}}
			p := routertest.Start(t, cfg)
			p.Play(loginGets(c.want) + "CLOSE")
			p.Session()
		})
	}
}

// rig is two backends, b1 and b2, and a directory.
type rig struct {
	b1, b2 *routertest.Backend
	dir    *routertest.Directory
	p      *routertest.Proxy
}

func twoBackends(t *testing.T, s1, s2 string) *rig {
	r := &rig{b1: routertest.NewBackend(t, nil, s1), b2: routertest.NewBackend(t, nil, s2), dir: directory()}
	cfg := clear(r.b1)
	cfg.Directory = r.dir
	cfg.Backends = append(cfg.Backends, upstream.Backend{Name: "b2", Nodes: []upstream.Node{r.b2.Node("b2a", upstream.IMAP, tlsconf.Off, nil)}})
	r.p = routertest.Start(t, cfg)
	return r
}

const moved = `
	S: * OK [CAPABILITY SASL-IR AUTH=PLAIN] ready
	C: L AUTHENTICATE PLAIN *
	S: L NO [X-MOVED] home is elsewhere
	EOF
`

// TestMoved moves an account under a warm cache.
func TestMoved(t *testing.T) {
	down := lookup.Unavailable("dial", errors.New("refused"))
	for name, c := range map[string]struct {
		b2         string
		directory  func(*routertest.Directory)
		want       string
		result     string
		home       string
		calls1, c2 int
	}{
		"once": {accept + "EOF", func(d *routertest.Directory) { d.Move("anna@example.test", "b2", 8) },
			"OK *", "client gone", "b2", 1, 1},
		"twice": {moved, func(d *routertest.Directory) { d.Move("anna@example.test", "b2", 8) },
			notNow, "backend unavailable", "b2", 1, 1},
		"and the directory does not know": {"CLOSE", func(*routertest.Directory) {},
			notNow, "backend unavailable", "b1", 1, 0},
		"and the directory is down": {"CLOSE", func(d *routertest.Directory) {
			d.Fail(func(verb, _ string) error {
				if verb == "fresh" {
					return down
				}
				return nil
			})
		}, notNow, "directory unavailable", "b1", 1, 0},
		"and is gone": {"CLOSE", func(d *routertest.Directory) {
			d.Fail(func(verb, _ string) error {
				if verb == "fresh" {
					return lookup.ErrAbsent
				}
				return nil
			})
		}, "NO [AUTHENTICATIONFAILED] Authentication failed", "login rejected", "b1", 1, 0},
		"to a backend that we do not have": {"CLOSE", func(d *routertest.Directory) { d.Move("anna@example.test", "b7", 8) },
			notNow, "misconfigured", "b1", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := twoBackends(t, moved, c.b2)
			c.directory(r.dir)
			r.p.Play(loginGets(c.want) + "CLOSE")
			check(t, r.p.Session(), map[string]any{"result": c.result, "home": c.home})
			if r.b1.Calls() != c.calls1 || r.b2.Calls() != c.c2 {
				t.Errorf("b1 was called %d times, b2 %d, want %d and %d", r.b1.Calls(), r.b2.Calls(), c.calls1, c.c2)
			}
		})
	}
}

// TestDefaultBackend: it is for accounts that are found and have no home.
func TestDefaultBackend(t *testing.T) {
	r := twoBackends(t, strings.ReplaceAll(accept, plainProxy, plainProxyB)+"EOF", "CLOSE")
	r.p.Play(hello + "C: a LOGIN berta@example.test sesame\nS: a OK *\nCLOSE")
	check(t, r.p.Session(), map[string]any{"user": "berta@example.test", "home": "b1"})
}
