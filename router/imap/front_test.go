package imap

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/routertest"
)

const hello = "S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=LOGIN] px1.example.test ready\n"

// TestDialogue plays what needs no backend.
func TestDialogue(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		result string
	}{
		"small talk": {`
			C: a CAPABILITY
			S: \* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=LOGIN
			S: a OK Done
			C: b noop
			S: b OK Done
			C: c ID NIL
			S: \* ID ("name" "Switchyard")
			S: c OK Done
			C: d ID ("name" "mutt" "x-originating-ip" "192.0.2.1" "version" NIL)
			S: \* ID ("name" "Switchyard")
			S: d OK Done
			C: e LOGOUT
			S: \* BYE Logging out
			S: e OK Done
			EOF`, "no login"},
		"pipelined": {`
			C: a NOOP
			C: b NOOP
			C: c LOGOUT
			S: a OK Done
			S: b OK Done
			S: \* BYE Logging out
			S: c OK Done
			EOF`, "no login"},
		"not before login": {`
			C: a SELECT INBOX
			S: a BAD Unknown command, or not allowed before login
			C: b ENABLE UTF8=ACCEPT
			S: b BAD Unknown command, or not allowed before login
			C: c UNAUTHENTICATE
			S: c BAD Unknown command, or not allowed before login
			C: d STARTTLS
			S: d BAD TLS is not offered here
			CLOSE`, "client gone"},
		"other protocols": {`
			C: GET / HTTP/1.1
			S: GET BAD Unknown command, or not allowed before login
			C: Host: imap.example.test
			S: Host: BAD Unknown command, or not allowed before login
			C: Accept: *
			S: Accept: BAD *
			C: User-Agent: curl
			S: User-Agent: BAD *
			C:
			S: \* BAD Tag missing or malformed
			C: x
			S: \* BYE Protocol error
			EOF`, "protocol error"},
		"binary": {`
			C: \0\0\0
			S: \* BAD Tag missing or malformed
			C: a\0b c
			S: \* BAD Tag missing or malformed
			C: a LOGIN \0 b
			S: a BAD LOGIN takes a user name and a password
			C: a LOGIN "a\0" b
			S: a BAD LOGIN takes a user name and a password
			C: a LOGIN {3+}
			C: a\0b sesame
			S: a BAD LOGIN takes a user name and a password
			CLOSE`, "client gone"},
		"bad tags": {`
			C: + NOOP
			S: \* BAD Tag missing or malformed
			C: * NOOP
			S: \* BAD Tag missing or malformed
			C: a(b NOOP
			S: \* BAD Tag missing or malformed
			C: "a" NOOP
			S: \* BAD Tag missing or malformed
			CLOSE`, "client gone"},
		"bad arguments": {`
			C: a LOGIN anna
			S: a BAD LOGIN takes a user name and a password
			C: b LOGIN anna sesame more
			S: b BAD LOGIN takes a user name and a password
			C: c LOGIN "anna
			S: c BAD LOGIN takes a user name and a password
			C: d LOGIN "an\x" y
			S: d BAD LOGIN takes a user name and a password
			C: e NOOP please
			S: e BAD NOOP takes no arguments
			CLOSE`, "client gone"},
		"bad ID": {`
			C: a ID
			S: a BAD ID takes NIL or a list of at most 30 pairs
			C: b ID ("name" "x"
			S: b BAD ID takes *
			C: c ID ((((((((((((((((
			S: c BAD ID takes *
			C: d ID ("a" NIL "b")
			S: d BAD ID takes *
			CLOSE`, "client gone"},
		"bare LF": {`
			C- a NOOP\n
			S: \* BYE Lines end in CRLF
			EOF`, "protocol error"},
		"rejected": {`
			C: a LOGIN anna@example.test wrong
			S: a NO [AUTHENTICATIONFAILED] Authentication failed
			C: b LOGIN nobody@example.test sesame
			S: b NO [AUTHENTICATIONFAILED] Authentication failed
			C: c LOGIN "" ""
			S: c NO [AUTHENTICATIONFAILED] Authentication failed
			S: \* BYE Too many failed logins
			EOF`, "login rejected"},
		"rejected, and left": {`
			C: a LOGIN anna wrong
			S: a NO [AUTHENTICATIONFAILED] Authentication failed
			C: b LOGOUT
			S: \* BYE Logging out
			S: b OK Done
			EOF`, "login rejected"},
		"empty password": {`
			C: a LOGIN anna ""
			S: a NO [AUTHENTICATIONFAILED] Authentication failed
			CLOSE`, "login rejected"},
		"names that cannot be": {`
			C: a LOGIN "an na" sesame
			S: a NO [AUTHENTICATIONFAILED] Authentication failed
			C: b LOGIN {6+}
			C: an\r\nna sesame
			S: b NO [AUTHENTICATIONFAILED] Authentication failed
			CLOSE`, "login rejected"},
		"suspended: only the right password learns it": {`
			C: a LOGIN carla wrong
			S: a NO [AUTHENTICATIONFAILED] Authentication failed
			C: b LOGIN carla sesame
			S: b NO [AUTHORIZATIONFAILED] Account is suspended
			CLOSE`, "account refused"},
		"a status that would break the line": {`
			C: a LOGIN dora sesame
			S: a NO [AUTHORIZATIONFAILED] Account is disabled
			CLOSE`, "account refused"},
		"a home that is no backend never becomes the default backend": {`
			C: a LOGIN erna sesame
			S: a NO [UNAVAILABLE] Temporarily unavailable, try again later
			CLOSE`, "misconfigured"},
		"authzid of another": {`
			C: a AUTHENTICATE PLAIN ` + plainBertaAnna + `
			S: a NO [AUTHENTICATIONFAILED] Authentication failed
			CLOSE`, "login rejected"},
		"mechanisms": {`
			C: a AUTHENTICATE CRAM-MD5
			S: a NO Mechanism is not supported
			C: b AUTHENTICATE EXTERNAL =
			S: b NO Mechanism is not supported
			C: c AUTHENTICATE
			S: c BAD AUTHENTICATE takes a mechanism and at most an initial response
			C: d AUTHENTICATE PLAIN a b
			S: d BAD AUTHENTICATE takes a mechanism and at most an initial response
			CLOSE`, "client gone"},
		"bad SASL": {`
			C: a AUTHENTICATE PLAIN !!!
			S: a BAD Malformed SASL message
			C: b AUTHENTICATE PLAIN =
			S: b BAD Malformed PLAIN message
			C: c AUTHENTICATE PLAIN
			S: + 
			C: *
			S: c BAD AUTHENTICATE cancelled
			C: d AUTHENTICATE LOGIN
			S: + VXNlcm5hbWU6
			C: YW5uYQ==
			S: + UGFzc3dvcmQ6
			C: *
			S: d BAD AUTHENTICATE cancelled
			C: e AUTHENTICATE PLAIN AGEAYgBj
			S: e BAD Malformed PLAIN message
			CLOSE`, "client gone"},
		"LOGIN mechanism": {`
			C: a AUTHENTICATE login
			S: + VXNlcm5hbWU6
			C: YW5uYQ==
			S: + UGFzc3dvcmQ6
			C: d3Jvbmc=
			S: a NO [AUTHENTICATIONFAILED] Authentication failed
			C: b AUTHENTICATE LOGIN YW5uYQ==
			S: + UGFzc3dvcmQ6
			C: d3Jvbmc=
			S: b NO [AUTHENTICATIONFAILED] Authentication failed
			CLOSE`, "login rejected"},
		"literals": {`
			C: a LOGIN {4}
			S: + OK
			C: anna {5}
			S: + OK
			C: wrong
			S: a NO [AUTHENTICATIONFAILED] Authentication failed
			C: b LOGIN {4+}
			C: anna {5+}
			C: wrong
			S: b NO [AUTHENTICATIONFAILED] Authentication failed
			C: c LOGIN {0}
			S: + OK
			C:  x
			S: c NO [AUTHENTICATIONFAILED] Authentication failed
			S: \* BYE Too many failed logins
			EOF`, "login rejected"},
		"a literal that is too long is never asked for": {`
			C: a LOGIN {100000}
			S: a BAD Literal too long
			C: b LOGIN {99999999999999999999}
			S: b BAD Literal too long
			C: c NOOP
			S: c OK Done
			CLOSE`, "client gone"},
		"a literal that is too long and on its way is not run": {`
			C: a LOGIN {100000+}
			C: b LOGOUT
			S: \* BYE Line too long
			EOF`, "protocol error"},
		"a literal of a refused command is not run": {`
			C: a APPEND INBOX {10+}
			C: b LOGOUT\r\n
			S: a BAD Unknown command, or not allowed before login
			C: c NOOP
			S: c OK Done
			CLOSE`, "client gone"},
	} {
		t.Run(name, func(t *testing.T) {
			p := routertest.Start(t, clear(nil))
			p.Play(hello + c.script)
			check(t, p.Session(), map[string]any{"result": c.result, "protocol": "imap", "listener": "test"})
		})
	}
}

// TestThreeAnswers: absent, rejected and unavailable on the wire.
func TestThreeAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		want   string
		result string
	}{
		"rejected":     {lookup.ErrRejected, "NO [AUTHENTICATIONFAILED] *", "login rejected"},
		"absent":       {lookup.ErrAbsent, "NO [AUTHENTICATIONFAILED] *", "login rejected"},
		"unavailable":  {lookup.Unavailable("dial", errors.New("refused")), "NO [UNAVAILABLE] *", "directory unavailable"},
		"a new error":  {errors.New("a bug"), "NO [UNAVAILABLE] *", "directory unavailable"},
		"network down": {net.ErrClosed, "NO [UNAVAILABLE] *", "directory unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := clear(nil)
			d := directory()
			d.Fail(func(verb, _ string) error { return c.err })
			cfg.Directory = d
			p := routertest.Start(t, cfg)
			p.Play(hello + "C: a LOGIN anna sesame\nS: a " + c.want + "\nCLOSE")
			check(t, p.Session(), map[string]any{"result": c.result})
		})
	}
}

const helloTLS = "S: * OK [CAPABILITY IMAP4rev1 SASL-IR STARTTLS LOGINDISABLED] px1.example.test ready\n"

func TestStartTLS(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		result string
	}{
		"passwords need TLS": {`
			C: a LOGIN anna sesame
			S: a NO [PRIVACYREQUIRED] Passwords need TLS here
			C: b AUTHENTICATE PLAIN ` + plainAnna + `
			S: b NO [PRIVACYREQUIRED] Passwords need TLS here
			CLOSE`, "client gone"},
		"upgrade": {`
			C: a STARTTLS
			S: a OK Begin TLS negotiation now
			TLS
			C: b CAPABILITY
			S: \* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=LOGIN
			S: b OK Done
			C: c STARTTLS
			S: c BAD TLS is active already
			C: d LOGIN anna wrong
			S: d NO [AUTHENTICATIONFAILED] Authentication failed
			C: e LOGOUT
			S: \* BYE Logging out
			S: e OK Done
			EOF`, "login rejected"},
		"bytes behind STARTTLS end the session": {`
			C: a STARTTLS
			C: b LOGIN anna sesame
			EOF`, "protocol error"},
		"no handshake": {`
			C: a STARTTLS
			S: a OK Begin TLS negotiation now
			C: b LOGIN anna sesame
			HANG`, "protocol error"},
	} {
		t.Run(name, func(t *testing.T) {
			p := routertest.Start(t, secure(t))
			p.Play(helloTLS + c.script)
			check(t, p.Session(), map[string]any{"result": c.result})
		})
	}
}

// TestOthersDoNotNotice: a rejected login waits without holding anybody up.
func TestOthersDoNotNotice(t *testing.T) {
	cfg := clear(nil)
	cfg.Options.FailureDelay = time.Hour
	p := routertest.Start(t, cfg)
	slow := p.Dial()
	io.WriteString(slow, "a LOGIN anna wrong\r\n")
	p.Play(hello + `
		C: a CAPABILITY
		S: \* CAPABILITY *
		S: a OK Done
		CLOSE`)
	p.Stop() // and an hour's wait ends with the daemon
	b, _ := io.ReadAll(slow)
	if !bytes.HasSuffix(b, []byte("* BYE [UNAVAILABLE] Shutting down, try again later\r\n")) {
		t.Errorf("got %q", b)
	}
}

func TestShutdownSaysGoodbye(t *testing.T) {
	p := routertest.Start(t, clear(nil))
	conn := p.Dial()
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil {
		t.Fatal(err)
	}
	p.Drain()
	rest, err := io.ReadAll(conn)
	if err != nil || !bytes.HasSuffix(rest, []byte("* BYE [UNAVAILABLE] Shutting down, try again later\r\n")) {
		t.Errorf("got %q, %v", rest, err)
	}
	check(t, p.Session(), map[string]any{"result": "shutdown"})
}

func TestKickedSaysGoodbye(t *testing.T) {
	p := routertest.Start(t, clear(nil))
	conn := p.Dial()
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil {
		t.Fatal(err)
	}
	if n := p.Router.Kick(t.Context(), router.Match{All: true}, "test"); n != 1 {
		t.Errorf("kicked %d, want 1", n)
	}
	rest, err := io.ReadAll(conn)
	if err != nil || !bytes.HasSuffix(rest, []byte("* BYE [UNAVAILABLE] Session ended by the server, try again later\r\n")) {
		t.Errorf("got %q, %v", rest, err)
	}
	check(t, p.Session(), map[string]any{"result": "kicked"})
}

// TestImplicitTLS goes through TLS to the far end of the splice.
func TestImplicitTLS(t *testing.T) {
	b := routertest.NewBackend(t, nil, accept+"C: b NOOP\nS: b OK Done\nEOF")
	cfg, _ := implicit(t, clear(b))
	p := routertest.Start(t, cfg)
	p.Play("TLS\n" + hello + `
		C: a LOGIN anna sesame
		C: b NOOP
		S: a OK [CAPABILITY IMAP4rev1 IDLE] Logged in
		S: b OK Done
		CLOSE`)
	line := p.Session()
	check(t, line, map[string]any{"tls": true, "user": "anna@example.test"})
	if line["bytes_in"].(int64) < 500 || line["bytes_out"].(int64) < 500 {
		t.Errorf("counted %v in, %v out, of a TLS session", line["bytes_in"], line["bytes_out"])
	}
	if !strings.Contains(b.Heard()[0], `"x-client-transport" "TLS"`) {
		t.Errorf("got %q", b.Heard()[0])
	}
}

// TestIDFromAProxy: another proxy of ours is believed, once, and not in clear
// where TLS is to be had.
func TestIDFromAProxy(t *testing.T) {
	const id = `ID ("x-session-id" "first" "x-originating-ip" "192.0.2.9" "x-originating-port" "1234" "x-proxy-ttl" "4")`
	server, client := routertest.TLS(t)
	for name, c := range map[string]struct {
		listener router.Listener
		script   string
		want     map[string]any
	}{
		"once": {router.Listener{AllowCleartextLogin: true}, hello + `
			C: a ` + id + `
			S: \* ID *
			S: a OK Done
			C: b ID ("x-originating-ip" "192.0.2.66")
			S: \* ID *
			S: b OK Done
			CLOSE`, map[string]any{"session": "first", "client": "192.0.2.9:1234"}},
		"malformed": {router.Listener{AllowCleartextLogin: true}, hello + `
			C: a ID ("x-originating-ip" "nowhere")
			S: a BAD Malformed client identity
			CLOSE`, map[string]any{"result": "client gone"}},
		"a circle": {router.Listener{AllowCleartextLogin: true}, hello + `
			C: a ID ("x-proxy-ttl" "1")
			S: \* BYE Protocol error
			EOF`, map[string]any{"result": "protocol error"}},
		"in front of STARTTLS it may be anyone's": {router.Listener{TLS: tlsconf.StartTLS, Config: server}, helloTLS + `
			C: a ID ("x-originating-ip" "192.0.2.66")
			S: \* ID *
			S: a OK Done
			C: b STARTTLS
			S: b OK *
			TLS
			C: c ` + id + `
			S: \* ID *
			S: c OK Done
			CLOSE`, map[string]any{"session": "first", "client": "192.0.2.9:1234"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := clear(nil)
			cfg.TLS = client
			cfg.Listener = c.listener
			cfg.Listener.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			p := routertest.Start(t, cfg)
			p.Play(c.script)
			check(t, p.Session(), c.want)
		})
	}
}
