package sieve

import (
	"net/netip"
	"strings"
	"testing"

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
	plainWrong     = "AGFubmFAZXhhbXBsZS50ZXN0AHdyb25n"                             // anna@example.test, wrong
	plainBertaAnna = "YmVydGFAZXhhbXBsZS50ZXN0AGFubmFAZXhhbXBsZS50ZXN0AHNlc2FtZQ==" // anna's login for berta's scripts
	plainCarla     = "AGNhcmxhQGV4YW1wbGUudGVzdABzZXNhbWU="                         // carla@example.test, sesame
	plainProxy     = "YW5uYUBleGFtcGxlLnRlc3QAcHJveHkAcHJveHktc2VjcmV0"             // proxy's login for anna
	logIn          = `C: AUTHENTICATE "PLAIN" "` + plainAnna + "\"\n"
	notNow         = `S: NO (TRYLATER) "Temporarily unavailable, try again later"`
	rejected       = `S: NO "Authentication failed"`
	list           = "S: \"IMPLEMENTATION\" \"Switchyard\"\nS: \"SASL\" \"PLAIN LOGIN\"\nS: \"SIEVE\" \"\"\nS: \"VERSION\" \"1.0\"\n"
	hello          = list + "S: OK \"px1.example.test ready\"\n"
	xclient        = "C: XCLIENT SESSION=* TTL=6 CLIENT-TRANSPORT=* FORWARD=* DESTADDR=127.0.0.1 DESTPORT=* PORT=* ADDR=127.0.0.1\n"
	greeting       = `
	S: "IMPLEMENTATION" "Dovecot Pigeonhole"
	S: "SIEVE" "fileinto reject vacation"
	S: "NOTIFY" "mailto"
	S: "SASL" "PLAIN"
	S: "MAXREDIRECTS" "4"
	S: "XCLIENT"
	S: "VERSION" "1.0"
	S: OK "ready"
`
	// accept is a backend that takes anna's login and then plays the rest.
	accept = greeting + xclient + `
	C: AUTHENTICATE "PLAIN" "` + plainProxy + `"
	S: OK
	S: OK "Logged in."
`
)

func directory() *routertest.Directory {
	d := routertest.NewDirectory()
	d.Add(lookup.Account{Name: "anna@example.test", Home: "b1", Generation: 7}, "sesame")
	d.Add(lookup.Account{Name: "carla@example.test", Home: "b1", Status: lookup.StatusSuspended}, "sesame")
	return d
}

// clear allows everything in clear, to b1.
func clear(b1 *routertest.Backend) routertest.Config {
	c := routertest.Config{
		Protocol: New(Options{}), Directory: directory(),
		Listener: router.Listener{AllowCleartextLogin: true},
		Options:  router.Options{DefaultDomain: "example.test", DefaultBackend: "b1"},
	}
	if b1 != nil {
		c.Backends = []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{b1.Node("b1a", upstream.ManageSieve, tlsconf.Off, nil)}}}
	}
	return c
}

// TestDialogue plays what needs no backend.
func TestDialogue(t *testing.T) {
	for name, c := range map[string]struct{ script, result string }{
		"small talk, pipelined": {`
			C: CAPABILITY
			C: noop
			C: NOOP "STARTTLS-SYNC-42"
			C: NOOP {3+}
			C: a"\
			C: LOGOUT
			` + list + `
			S: OK "Done"
			S: OK "Done"
			S: OK (TAG "STARTTLS-SYNC-42") "Done"
			S: OK (TAG "a\"\\") "Done"
			S: OK "Bye"
			EOF`, "no login"},
		"not before login": {`
			C: LISTSCRIPTS
			S: NO "Unknown command, or not allowed before login"
			C: PUTSCRIPT "x" {4+}
			C: keep
			S: NO "Unknown command, or not allowed before login"
			C: UNAUTHENTICATE
			S: NO "Unknown command, or not allowed before login"
			C: XCLIENT ADDR=192.0.2.1
			S: NO "Unknown command, or not allowed before login"
			C: STARTTLS
			S: NO "TLS is not offered here"
			CLOSE`, "client gone"},
		"too many mistakes": {`
			C: CAPABILITY "x"
			S: NO "Too many arguments"
			C: NOOP 5
			S: NO "Arguments must be strings"
			C: "NOOP"
			S: NO "Command missing"
			C: NOOP "no end
			S: NO "Malformed command"
			C:
			S: NO "Command missing"
			C: AUTHENTICATE
			S: NO "AUTHENTICATE takes a mechanism and perhaps a response"
			S: BYE "Protocol error"
			EOF`, "protocol error"},
		"a literal that waits to be asked": {`
			C: NOOP {3}
			S: BYE "Protocol error"
			EOF`, "protocol error"},
		"a literal that is too big": {`
			C: NOOP {1000000000+}
			S: BYE "Command too long"
			EOF`, "protocol error"},
		"a literal whose size is no number that fits": {`
			C: NOOP {99999999999999999999+}
			S: BYE "Command too long"
			EOF`, "protocol error"},
		"NUL in a literal, and the next command": {`
			C: NOOP {1+}
			C: \0
			S: NO "Malformed command"
			C: LOGOUT
			S: OK "Bye"
			EOF`, "no login"},
		"a bare LF": {`
			C- NOOP\n
			S: BYE "Lines end in CRLF"
			EOF`, "protocol error"},
		"a line that never ends": {`
			C: ` + strings.Repeat("x", maxCommand+1) + `
			S: BYE "Command too long"
			EOF`, "protocol error"},
		"another protocol": {`
			C: GET / HTTP/1.1
			S: NO "Arguments must be strings"
			CLOSE`, "client gone"},
		"wrong password, then a third time": {`
			C: AUTHENTICATE "PLAIN" "` + plainWrong + `"
			` + rejected + `
			C: AUTHENTICATE "plain" {32+}
			C: ` + plainWrong + `
			` + rejected + `
			C: AUTHENTICATE "LOGIN"
			S: "VXNlcm5hbWU6"
			C: "YW5uYQ=="
			S: "UGFzc3dvcmQ6"
			C: {8+}
			C: d3Jvbmc=
			` + rejected + `
			S: BYE "Too many failed logins"
			EOF`, "login rejected"},
		"SASL that is none": {`
			C: AUTHENTICATE "PLAIN" "!"
			S: NO "Malformed SASL message"
			C: AUTHENTICATE "PLAIN"
			S: ""
			C: "*"
			S: NO "AUTHENTICATE cancelled"
			C: AUTHENTICATE "PLAIN"
			S: ""
			C: QUIT
			S: NO "A response is one string"
			C: AUTHENTICATE "PLAIN" "AGFubmE="
			S: NO "Malformed PLAIN message"
			C: AUTHENTICATE "GSSAPI"
			S: NO "Mechanism is not supported"
			C: LOGOUT
			S: OK "Bye"
			EOF`, "no login"},
		"for another": {`
			C: AUTHENTICATE "PLAIN" "` + plainBertaAnna + `"
			` + rejected + `
			CLOSE`, "login rejected"},
		"suspended": {`
			C: AUTHENTICATE "PLAIN" "` + plainCarla + `"
			S: NO "Account is suspended"
			CLOSE`, "account refused"},
	} {
		t.Run(name, func(t *testing.T) {
			p := routertest.Start(t, clear(nil))
			p.Play(hello + c.script)
			if got := p.Session(); got["result"] != c.result || got["protocol"] != "managesieve" {
				t.Errorf("got %v, want %s", got, c.result)
			}
		})
	}
}

// TestJoin: a login reaches the backend as the proxy's, with the client's
// identity, and what was pipelined behind it comes first.
func TestJoin(t *testing.T) {
	b := routertest.NewBackend(t, nil, accept+`
		C: LISTSCRIPTS
		S: "main" ACTIVE
		S: OK
		C: UNAUTHENTICATE
		S: NO "no"
		EOF`)
	p := routertest.Start(t, clear(b))
	p.Play(hello + logIn + `
		C: LISTSCRIPTS
		S: OK "Logged in."
		S: "main" ACTIVE
		S: OK
		C: UNAUTHENTICATE
		S: NO "no"
		CLOSE`)
	if got := p.Session(); got["home"] != "b1" || got["user"] != "anna@example.test" {
		t.Errorf("got %v", got)
	}
}

// TestBack holds what backends say against what the client hears.
func TestBack(t *testing.T) {
	auth := `C: AUTHENTICATE "PLAIN" "` + plainProxy + "\"\n"
	bare := "S: \"SASL\" \"PLAIN\"\nS: OK\n"
	for name, c := range map[string]struct{ backend, client, result string }{
		"no XCLIENT":               {bare + auth + "S: OK\nEOF", `S: OK "Logged in"`, ""},
		"a literal text":           {bare + auth + "S: OK {6}\nS: We\"lco\nEOF", `S: OK "We\"lco"`, ""},
		"a code with OK":           {bare + auth + "S: OK (SASL \"cnNwYXV0aA==\") \"in\"\nEOF", `S: OK "in"`, ""},
		"XCLIENT refused":          {greeting + xclient + auth + "S: NO \"no\"\nS: OK \"in\"\nEOF", `S: OK "in"`, ""},
		"BYE to XCLIENT":           {greeting + xclient + auth + "S: BYE \"no\"\nEOF", notNow, "backend unavailable"},
		"try later":                {bare + auth + "S: NO (TRYLATER) \"busy\"\nEOF", notNow, "backend unavailable"},
		"the proxy is not known":   {bare + auth + "S: NO \"Authentication failed\"\nEOF", notNow, "misconfigured"},
		"it wants TLS":             {bare + auth + "S: NO (ENCRYPT-NEEDED) \"x\"\nEOF", notNow, "misconfigured"},
		"BYE":                      {bare + auth + "S: BYE \"x\"\nEOF", notNow, "backend unavailable"},
		"moved, nowhere new":       {bare + auth + "S: NO (TRYLATER/MOVED) \"x\"\nEOF", notNow, "backend unavailable"},
		"a referral":               {bare + auth + "S: NO (REFERRAL \"sieve://b2.example.test\") \"x\"\nEOF", notNow, "backend unavailable"},
		"no mechanism":             {"S: \"SASL\" \"\"\nS: OK\nEOF", notNow, "misconfigured"},
		"PLAIN is another's name":  {"S: \"SASL\" \"PLAINER\"\nS: OK\nEOF", notNow, "misconfigured"},
		"BYE at first":             {"S: BYE (TRYLATER) \"full\"\nEOF", notNow, "backend unavailable"},
		"another protocol":         {"S: * OK IMAP4 ready\nEOF", notNow, "backend unavailable"},
		"silence":                  {"CLOSE", notNow, "backend unavailable"},
		"a literal without an end": {"S: \"SASL\" {2000000000}\nEOF", notNow, "backend unavailable"},
		"capabilities without end": {strings.Repeat("S: \"X\"\n", maxCapabilities) + "EOF", notNow, "backend unavailable"},
		"a code without an end":    {bare + auth + "S: NO (TRYLATER \"x\"\nEOF", notNow, "backend unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			b := routertest.NewBackend(t, nil, c.backend)
			p := routertest.Start(t, clear(b))
			p.Play(hello + logIn + c.client + "\nCLOSE")
			got := p.Session()
			if c.result != "" && got["result"] != c.result {
				t.Errorf("got %v, want %s", got, c.result)
			}
		})
	}
}

// TestMoved: a backend that says the account has moved sends the session to its
// new home, by a word of ours or by a referral, which the directory must confirm.
func TestMoved(t *testing.T) {
	for _, code := range []string{"TRYLATER/MOVED", `REFERRAL "sieve://evil.example"`} {
		b1 := routertest.NewBackend(t, nil, greeting+xclient+`C: AUTHENTICATE *
			S: OK
			S: NO (`+code+`) "elsewhere"
			EOF`)
		b2 := routertest.NewBackend(t, nil, accept+"EOF")
		cfg := clear(b1)
		cfg.Backends = append(cfg.Backends, upstream.Backend{Name: "b2", Nodes: []upstream.Node{b2.Node("b2a", upstream.ManageSieve, tlsconf.Off, nil)}})
		cfg.Directory.(*routertest.Directory).Move("anna@example.test", "b2", 8)
		p := routertest.Start(t, cfg)
		p.Play(hello + logIn + "S: OK \"Logged in.\"\nCLOSE")
		if got := p.Session(); got["home"] != "b2" {
			t.Errorf("%s: got %v", code, got)
		}
	}
}

// TestTLS: on both sides nothing of worth is said before TLS, the list is sent
// anew behind it, and bytes behind STARTTLS end the session.
func TestTLS(t *testing.T) {
	server, client := routertest.TLS(t)
	helloTLS := "S: \"IMPLEMENTATION\" *\nS: \"SASL\" \"\"\nS: \"SIEVE\" *\nS: \"STARTTLS\"\nS: \"VERSION\" *\nS: OK *\n"
	start := func(t *testing.T, backend string) *routertest.Proxy {
		b := routertest.NewBackend(t, server, backend)
		cfg := clear(b)
		cfg.Listener = router.Listener{TLS: tlsconf.StartTLS, Config: server}
		cfg.TLS = client
		cfg.Backends = []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{b.Node("b1a", upstream.ManageSieve, tlsconf.StartTLS, client)}}}
		return routertest.Start(t, cfg)
	}
	before := "S: \"SASL\" \"\"\nS: \"SIEVE\" \"forged\"\nS: \"STARTTLS\"\nS: OK\nC: STARTTLS\nS: OK\n"
	inside := helloTLS + "C: STARTTLS\nS: OK *\nTLS\n"
	listTLS := strings.Replace(list, "\"SIEVE\" \"\"", "\"SIEVE\" *", 1) + "S: OK \"TLS is active\"\n"
	for name, c := range map[string]struct{ backend, client string }{
		"both":                              {before + "TLS\n" + accept + "EOF", inside + listTLS + logIn + "S: OK \"Logged in.\"\nCLOSE"},
		"no passwords in clear":             {"CLOSE", helloTLS + logIn + "S: NO (ENCRYPT-NEEDED) *\nCLOSE"},
		"bytes behind our STARTTLS":         {"CLOSE", helloTLS + "C: STARTTLS\nC: NOOP\nEOF"},
		"a backend without STARTTLS":        {"S: \"SASL\" \"PLAIN\"\nS: OK\nEOF", inside + listTLS + logIn + notNow + "\nCLOSE"},
		"a backend that refuses STARTTLS":   {"S: \"SASL\" \"PLAIN\"\nS: \"STARTTLS\"\nS: OK\nC: STARTTLS\nS: NO\nEOF", inside + listTLS + logIn + notNow + "\nCLOSE"},
		"a backend's bytes behind STARTTLS": {"S: \"STARTTLS\"\nS: OK\nC: STARTTLS\nS: OK\nS: OK \"Logged in.\"\nEOF", inside + listTLS + logIn + notNow + "\nCLOSE"},
		"a list only before TLS":            {before + "TLS\nCLOSE", inside + listTLS + logIn + notNow + "\nCLOSE"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, c.backend)
			p.Play(c.client)
			p.Session()
		})
	}
}

// TestLearned: what is announced before a login is what all backends that were
// heard announce, and what is configured instead when something is.
func TestLearned(t *testing.T) {
	b := routertest.NewBackend(t, nil, accept+"EOF")
	cfg := clear(b)
	p := routertest.Start(t, cfg)
	p.Play(hello + logIn + "S: OK \"Logged in.\"\nCLOSE")
	p.Sessions(1)
	p.Play(`
		S: "IMPLEMENTATION" "Switchyard"
		S: "SASL" "PLAIN LOGIN"
		S: "SIEVE" "fileinto reject vacation"
		S: "NOTIFY" "mailto"
		S: "MAXREDIRECTS" "4"
		S: "VERSION" "1.0"
		S: OK *
		CLOSE`)

	protocol := New(Options{})
	protocol.learn("b1", readOffer(map[string]string{"SIEVE": "fileinto vacation reject", "NOTIFY": "mailto xmpp", "MAXREDIRECTS": "4"}))
	protocol.learn("b2", readOffer(map[string]string{"SIEVE": "vacation editheader fileinto b\"ad", "NOTIFY": "mailto", "MAXREDIRECTS": "9"}))
	for range 2 { // and nothing is used up
		got := protocol.offer()
		if strings.Join(got.extensions, " ") != "fileinto vacation" || strings.Join(got.notify, " ") != "mailto" || got.redirects != "4" {
			t.Errorf("got %+v", got)
		}
	}
	protocol.learn("b3", readOffer(map[string]string{"SIEVE": "", "MAXREDIRECTS": "many"}))
	if got := protocol.offer(); len(got.extensions) != 0 || len(got.notify) != 0 || got.redirects != "" {
		t.Errorf("got %+v", got)
	}
	protocol.o.Extensions = []string{"fileinto"}
	if got := protocol.offer(); strings.Join(got.extensions, " ") != "fileinto" {
		t.Errorf("configured: got %+v", got)
	}
}

// TestXCLIENT: another proxy of ours says who its client is; anyone else's words
// count for nothing.
func TestXCLIENT(t *testing.T) {
	b := routertest.NewBackend(t, nil, greeting+`
		C: XCLIENT SESSION=outer TTL=3 CLIENT-TRANSPORT=insecure FORWARD=* DESTADDR=127.0.0.1 DESTPORT=* PORT=4711 ADDR=192.0.2.9
		C: AUTHENTICATE *
		S: OK
		S: OK "Logged in."
		EOF`)
	cfg := clear(b)
	cfg.Listener.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	p := routertest.Start(t, cfg)
	p.Play(strings.Replace(hello, "S: \"VERSION\"", "S: \"XCLIENT\"\nS: \"VERSION\"", 1) + `
		C: XCLIENT ADDR=nonsense
		S: NO "Malformed client identity"
		C: XCLIENT SESSION=outer TTL=4 PORT=4711 ADDR=192.0.2.9
		S: OK "Updated"
		` + logIn + `
		S: OK "Logged in."
		CLOSE`)
	if got := p.Session(); got["session"] != "outer" || got["client"] != "192.0.2.9:4711" {
		t.Errorf("got %v", got)
	}
}

// TestBusy: a client that finds no room is told so, and so is one whose session is
// ended before its login.
func TestBusy(t *testing.T) {
	cfg := clear(nil)
	cfg.Options.Admit.Total = 1
	p := routertest.Start(t, cfg)
	first := p.Dial()
	one := make([]byte, 1)
	if _, err := first.Read(one); err != nil {
		t.Fatal(err)
	}
	p.Play("S: BYE (TRYLATER) \"Not now, try again later\"\nEOF")
	if n := p.Router.Kick(t.Context(), router.Match{All: true}, "test"); n != 1 {
		t.Errorf("kicked %d", n)
	}
	for _, l := range p.Sessions(2) {
		if l["result"] != "kicked" && l["result"] != "too many sessions" {
			t.Errorf("got %v", l)
		}
	}
}
