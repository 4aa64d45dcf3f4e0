package check

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"switchyard/internal/probe"
	"switchyard/internal/wire"
)

// play plays a server's side, one step a line: "S: text" is said, "C: text" must
// be heard, where * at the end stands for anything.
func play(t *testing.T, conn net.Conn, script string) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for step := range strings.SplitSeq(strings.TrimSpace(script), "\n") {
		step = strings.TrimSpace(step)
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		switch kind, text, _ := strings.Cut(step, ": "); kind {
		case "S":
			if _, err := io.WriteString(conn, text+"\r\n"); err != nil {
				t.Errorf("%s: %v", step, err)
				return
			}
		case "C":
			line, err := in.ReadString('\n')
			line = strings.TrimRight(line, "\r\n")
			prefix, open := strings.CutSuffix(text, "*")
			if err != nil || line != text && !(open && strings.HasPrefix(line, prefix)) {
				t.Errorf("%s: got %q, %v", step, line, err)
				return
			}
		}
	}
}

// message is what a proxy named proxy says for somebody.
func message(authzid string) string {
	m, err := wire.Plain{Authzid: authzid, Authcid: "proxy", Password: "sesame"}.Message()
	if err != nil {
		panic(err)
	}
	return wire.EncodeSASL(m)
}

var services = map[string]Func{"imap": IMAP, "pop3": POP3, "submission": SMTP, "lmtp": LMTP, "managesieve": ManageSieve}

// TestDialogues: what is said to a node of each kind, and what is made of its
// answers. A node that lives and refuses the proxy is no dead node.
func TestDialogues(t *testing.T) {
	own, monitor := message(probe.User), message("monitor@example.test")
	for name, c := range map[string]struct {
		service, account string
		noSecret         bool
		script           string
		want             Result
		fails            string
	}{
		"imap: backendd": {service: "imap", script: `
			S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN X-PROBE] hi
			C: P AUTHENTICATE PLAIN ` + own + `
			S: P NO [X-PROBE READY] serves
			C: P LOGOUT
			S: * BYE
			S: P OK`, want: Result{Answer: probe.Answer{Word: probe.Ready, Text: "serves"}, LoggedIn: true}},
		"imap: another, without an account": {service: "imap", script: `
			S: * OK Dovecot ready.
			C: P CAPABILITY
			S: * CAPABILITY IMAP4rev1 AUTH=PLAIN
			S: P OK done
			C: P LOGOUT`, want: ready},
		"imap: another, step by step": {service: "imap", account: "monitor@example.test", script: `
			S: * OK ready
			C: P CAPABILITY
			S: * capability imap4rev1 auth=plain
			S: P OK done
			C: P AUTHENTICATE PLAIN
			S: +
			C: ` + monitor + `
			S: * CAPABILITY IMAP4rev1
			S: P OK in
			C: P LOGOUT`, want: Result{Answer: ready.Answer, LoggedIn: true}},
		"imap: refused": {service: "imap", account: "monitor@example.test", script: `
			S: * OK [CAPABILITY SASL-IR AUTH=PLAIN] ready
			C: P AUTHENTICATE PLAIN ` + monitor + `
			S: P NO [AUTHENTICATIONFAILED] who?
			C: P LOGOUT`, want: Result{Answer: ready.Answer, Refused: "[AUTHENTICATIONFAILED] who?"}},
		"imap: no secret": {service: "imap", noSecret: true, script: `
			S: * OK [CAPABILITY AUTH=PLAIN X-PROBE] ready
			C: P LOGOUT`, want: ready},
		"imap: not now": {service: "imap", script: `
			S: * OK [CAPABILITY SASL-IR AUTH=PLAIN X-PROBE] ready
			C: P AUTHENTICATE*
			S: P NO [UNAVAILABLE] later`, fails: "later"},
		"imap: bye":     {service: "imap", script: "S: * BYE too busy", fails: "too busy"},
		"imap: preauth": {service: "imap", script: "S: * PREAUTH come in", fails: "PREAUTH"},
		"imap: rubbish": {service: "imap", script: "S: 220 hi", fails: "220 hi"},
		"imap: breaks off": {service: "imap", script: `
			S: * OK ready
			C: P CAPABILITY`, fails: "CAPABILITY: "}, // met by the read, or by the rest of the write
		"imap: bye behind the login": {service: "imap", script: `
			S: * OK [CAPABILITY SASL-IR AUTH=PLAIN X-PROBE] ready
			C: P AUTHENTICATE*
			S: * BYE shutting down`, fails: "shutting down"},

		"pop3: backendd": {service: "pop3", script: `
			S: +OK [XCLIENT] ready
			C: CAPA
			S: +OK
			S: TOP
			S: SASL PLAIN LOGIN
			S: X-PROBE
			S: .
			C: AUTH PLAIN ` + own + `
			S: -ERR [X-PROBE DRAIN] moves
			C: QUIT
			S: +OK`, want: Result{Answer: probe.Answer{Word: probe.Drain, Text: "moves"}, LoggedIn: true}},
		"pop3: without CAPA": {service: "pop3", account: "monitor@example.test", script: `
			S: +OK
			C: CAPA
			S: -ERR what?
			C: QUIT`, want: ready},
		"pop3: not now": {service: "pop3", account: "m", script: `
			S: +OK
			C: CAPA
			S: +OK
			S: SASL PLAIN
			S: .
			C: AUTH PLAIN*
			S: -ERR [SYS/TEMP] later`, fails: "later"},
		"pop3: refused at the door": {service: "pop3", script: "S: -ERR go away", fails: "go away"},

		"submission: backendd": {service: "submission", script: `
			S: 220 hi
			C: EHLO px.example.test
			S: 250-b1
			S: 250-AUTH PLAIN LOGIN
			S: 250 X-PROBE
			C: AUTH PLAIN ` + own + `
			S: 454 4.7.0 [X-PROBE READY] serves
			C: QUIT
			S: 221 bye`, want: Result{Answer: probe.Answer{Word: probe.Ready, Text: "serves"}, LoggedIn: true}},
		"submission: refused": {service: "submission", account: "m", script: `
			S: 220-hello
			S: 220 hi
			C: EHLO px.example.test
			S: 250-b1
			S: 250 AUTH PLAIN
			C: AUTH PLAIN*
			S: 535 5.7.8 who?
			C: QUIT`, want: Result{Answer: ready.Answer, Refused: "who?"}},
		"submission: 421":                  {service: "submission", script: "S: 421 4.3.2 too busy", fails: "too busy"},
		"submission: not now":              {service: "submission", account: "m", script: "S: 220 hi\nC: EHLO*\nS: 250-b\nS: 250 AUTH PLAIN\nC: AUTH*\nS: 454 4.7.0 later", fails: "later"},
		"submission: lines of two replies": {service: "submission", script: "S: 220-hi\nS: 250 ho", fails: "250 ho"},

		"lmtp: backendd": {service: "lmtp", script: `
			S: 220 hi
			C: LHLO px.example.test
			S: 250-b1
			S: 250-AUTH PLAIN
			S: 250 X-PROBE
			C: AUTH PLAIN ` + own + `
			S: 454 4.7.0 [X-PROBE NOT-READY] is behind
			C: QUIT`, want: Result{Answer: probe.Answer{Word: probe.NotReady, Text: "is behind"}, LoggedIn: true}},
		"lmtp: another": {service: "lmtp", script: "S: 220 hi\nC: LHLO*\nS: 250 dovecot\nC: QUIT", want: ready},

		"managesieve: backendd": {service: "managesieve", script: `
			S: "IMPLEMENTATION" "Switchyard"
			S: "SASL" "PLAIN LOGIN"
			S: "X-PROBE"
			S: OK "ready"
			C: AUTHENTICATE "PLAIN" "` + own + `"
			S: NO "[X-PROBE READY] serves"
			C: LOGOUT
			S: OK`, want: Result{Answer: probe.Answer{Word: probe.Ready, Text: "serves"}, LoggedIn: true}},
		"managesieve: not now": {service: "managesieve", script: `
			S: "SASL" "PLAIN"
			S: "X-PROBE"
			S: OK
			C: AUTHENTICATE*
			S: NO (TRYLATER) "later"`, fails: "later"},
		"managesieve: bye": {service: "managesieve", script: `S: BYE "busy"`, fails: "busy"},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			played := make(chan struct{})
			go func() {
				defer close(played)
				play(t, far, c.script)
			}()
			conn := wire.NewConn(near)
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			got, err := services[c.service](t.Context(), &Node{
				Conn: conn, Account: c.account, Hostname: "px.example.test",
				Login: func() (string, string) { return "proxy", map[bool]string{false: "sesame"}[c.noSecret] },
			})
			conn.Close()
			<-played
			switch {
			case c.fails == "" && (err != nil || got != c.want):
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			case c.fails != "" && (!errors.Is(err, ErrNode) || !strings.Contains(err.Error(), c.fails)):
				t.Errorf("got %+v, %v, want an ErrNode with %q", got, err, c.fails)
			}
			if err != nil && strings.Contains(fmt.Sprintf("%+v", err), own) {
				t.Error("the secret is in the error")
			}
		})
	}
}

// TestStartTLS: nothing of worth is said before the handshake, and what was
// offered before it counts for nothing behind it.
func TestStartTLS(t *testing.T) {
	for service, script := range map[string]string{
		"imap":        "S: * OK [CAPABILITY STARTTLS AUTH=PLAIN X-PROBE] hi\nC: P STARTTLS\nS: P OK\nC: P CAPABILITY\nS: * CAPABILITY IMAP4rev1\nS: P OK\nC: P LOGOUT",
		"pop3":        "S: +OK hi\nC: STLS\nS: +OK\nC: CAPA\nS: -ERR\nC: QUIT",
		"submission":  "S: 220 hi\nC: EHLO*\nS: 250-b\nS: 250-AUTH PLAIN\nS: 250 X-PROBE\nC: STARTTLS\nS: 220 go\nC: EHLO*\nS: 250 b\nC: QUIT",
		"lmtp":        "S: 220 hi\nC: LHLO*\nS: 250-b\nS: 250-AUTH PLAIN\nS: 250 X-PROBE\nC: STARTTLS\nS: 220 go\nC: LHLO*\nS: 250 b\nC: QUIT",
		"managesieve": "S: \"SASL\" \"PLAIN\"\nS: \"X-PROBE\"\nS: OK\nC: STARTTLS\nS: OK\nS: \"SASL\" \"\"\nS: OK\nC: LOGOUT",
	} {
		near, far := net.Pipe()
		played := make(chan struct{})
		go func() {
			defer close(played)
			play(t, far, script)
		}()
		conn := wire.NewConn(near)
		shaken := false
		n := &Node{Conn: conn, Login: func() (string, string) { return "proxy", "sesame" }, StartTLS: func(context.Context) error { shaken = true; return nil }}
		got, err := services[service](t.Context(), n)
		conn.Close()
		<-played
		if err != nil || got != ready || !shaken {
			t.Errorf("%s: got %+v, %v, shaken %v", service, got, err, shaken)
		}
		refusal := map[string]string{"imap": "S: * OK hi\nC: P STARTTLS\nS: P NO", "pop3": "S: +OK\nC: STLS\nS: -ERR", "submission": "S: 220 hi\nC: EHLO*\nS: 250 b\nC: STARTTLS\nS: 454 no",
			"lmtp": "S: 220 hi\nC: LHLO*\nS: 250 b\nC: STARTTLS\nS: 502 no", "managesieve": "S: OK\nC: STARTTLS\nS: NO"}[service]
		near, far = net.Pipe()
		played = make(chan struct{})
		go func() {
			defer close(played)
			play(t, far, refusal)
		}()
		conn = wire.NewConn(near)
		n.Conn, n.StartTLS = conn, func(context.Context) error { t.Error("shaken behind a refusal"); return nil }
		if _, err := services[service](t.Context(), n); !errors.Is(err, ErrNode) {
			t.Errorf("%s, refused: got %v", service, err)
		}
		conn.Close()
		<-played
	}
}

// FuzzNode: whatever a node says, the question ends, and the secret is in no
// error.
func FuzzNode(f *testing.F) {
	for _, s := range []string{
		"* OK [CAPABILITY SASL-IR AUTH=PLAIN X-PROBE] hi\r\nP NO [X-PROBE READY] serves\r\n* BYE\r\n", "+OK\r\n+OK\r\nSASL PLAIN\r\nX-PROBE\r\n.\r\n-ERR [X-PROBE DRAIN]\r\n",
		"220 hi\r\n250-b\r\n250-AUTH PLAIN\r\n250 X-PROBE\r\n454 4.7.0 [X-PROBE READY]\r\n", "\"SASL\" \"PLAIN\"\r\n\"X-PROBE\"\r\nOK\r\nNO \"[X-PROBE READY]\"\r\n",
		"* OK\r\n+ \r\nP OK\r\n", "220", "",
	} {
		for i := range uint8(5) {
			f.Add([]byte(s), i)
		}
	}
	names := []string{"imap", "pop3", "submission", "lmtp", "managesieve"}
	f.Fuzz(func(t *testing.T, said []byte, which uint8) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		go func() {
			far.Write(said)
			far.Close()
		}()
		conn := wire.NewConn(near)
		defer conn.Close()
		_, err := services[names[int(which)%len(names)]](t.Context(), &Node{
			Conn: conn, Account: "monitor", Login: func() (string, string) { return "proxy", "sesame" },
		})
		if err != nil && (strings.Contains(err.Error(), message(probe.User)) || strings.Contains(err.Error(), "sesame")) {
			t.Errorf("the secret is in %v", err)
		}
	})
}
