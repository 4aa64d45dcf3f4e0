package pop

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"switchyard/backend"
	"switchyard/internal/server"
	"switchyard/lookup"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// fill gives anna three messages: one plain, one with dots and bare LFs, one
// that is a copy of the first.
func (f *fixture) fill() {
	f.store.put("anna@example.test", "Subject: one\r\n\r\nfirst\r\nsecond\r\n", 1)
	f.store.put("anna@example.test", "Subject: two\n\n.dot\n..\nlast", 2)
	f.store.put("anna@example.test", "Subject: one\r\n\r\nfirst\r\nsecond\r\n", 1)
}

func TestDialogues(t *testing.T) {
	guid := func(b byte) string { return backend.GUID{b}.String() }
	for name, script := range map[string]string{
		"read everything": login + `
			C: STAT
			S: +OK 3 94
			C: LIST
			S: +OK octets
			S: 1 31
			S: 2 32
			S: 3 31
			S: .
			C: LIST 2
			S: +OK 2 32
			C: UIDL
			S: +OK *
			S: 1 ` + guid(1) + `
			S: 2 ` + guid(2) + `
			S: 3 ` + guid(1) + `.3
			S: .
			C: UIDL 3
			S: +OK 3 ` + guid(1) + `.3
			C: RETR 2
			S: +OK 32 octets
			S: Subject: two
			S: 
			S: ..dot
			S: ...
			S: last
			S: .
			C: TOP 1 1
			S: +OK *
			S: Subject: one
			S: 
			S: first
			S: .
			C: TOP 2 0
			S: +OK *
			S: Subject: two
			S: 
			S: .
			C: TOP 1 1000
			S: +OK *
			S: Subject: one
			S: 
			S: first
			S: second
			S: .
			C: NOOP
			S: +OK done
			C: QUIT
			S: +OK bye, 0 deleted
			EOF`,
		"delete and reset": login + `
			C: DELE 1
			S: +OK *
			C: DELE 1
			S: -ERR message is marked*
			C: RETR 1
			S: -ERR message is marked*
			C: STAT
			S: +OK 2 63
			C: LIST
			S: +OK *
			S: 2 32
			S: 3 31
			S: .
			C: RSET
			S: +OK 3 messages
			C: STAT
			S: +OK 3 94
			C: QUIT
			S: +OK bye, 0 deleted
			EOF`,
		"pipelined": `
			C: USER anna
			C: PASS sesame street
			C: NOOP
			C: STAT
			C: QUIT
			S: +OK *
			S: +OK 3 messages
			S: +OK *
			S: +OK 3 94
			S: +OK bye*
			EOF`,
		"bad arguments": login + `
			C: RETR
			S: -ERR not a message number
			C: RETR 0
			S: -ERR no such message
			C: RETR 4
			S: -ERR no such message
			C: RETR -1
			S: -ERR not a message number
			C: RETR 99999999999999999999
			S: -ERR not a message number
			C: TOP 1
			S: -ERR TOP takes *
			C: TOP 1 x
			S: -ERR TOP takes *
			C: TOP 1 -1
			S: -ERR TOP takes *
			C: LIST x
			S: -ERR not a message number
			C: USER anna
			S: -ERR logged in already
			C: XCLIENT ADDR=192.0.2.1
			S: -ERR logged in already
			C: STLS
			S: -ERR logged in already
			C: FOO
			S: -ERR unknown command
			C: 
			S: -ERR unknown command`,
		"before login": `
			C: STAT
			S: -ERR log in first
			C: PASS x
			S: -ERR send USER first
			C: USER
			S: -ERR USER takes a name
			C: AUTH
			S: -ERR AUTH takes a mechanism
			C: AUTH KERBEROS_V4
			S: -ERR unknown mechanism
			C: CAPA
			S: +OK *
			S: TOP
			S: UIDL
			S: RESP-CODES
			S: AUTH-RESP-CODE
			S: PIPELINING
			S: EXPIRE NEVER
			S: IMPLEMENTATION *
			S: USER
			S: SASL PLAIN LOGIN
			S: STLS
			S: .
			C: quit
			S: +OK bye
			EOF`,
		"auth plain": `
			C: AUTH PLAIN ` + b64("\x00anna\x00"+password) + `
			S: +OK 3 messages`,
		"auth plain in two steps": `
			C: AUTH PLAIN
			S: + 
			C: ` + b64("anna@example.test\x00anna\x00"+password) + `
			S: +OK 3 messages`,
		"auth login": `
			C: AUTH LOGIN
			S: + VXNlcm5hbWU6
			C: ` + b64("Anna@Example.test") + `
			S: + UGFzc3dvcmQ6
			C: ` + b64(password) + `
			S: +OK 3 messages`,
		"auth login with the name at once": `
			C: AUTH LOGIN ` + b64("anna") + `
			S: + UGFzc3dvcmQ6
			C: ` + b64(password) + `
			S: +OK 3 messages`,
		"auth cancelled and malformed": `
			C: AUTH PLAIN
			S: + 
			C: *
			S: -ERR cancelled
			C: AUTH PLAIN !!!
			S: -ERR malformed SASL message*
			C: AUTH PLAIN ` + b64("anna") + `
			S: -ERR malformed SASL message*`,
		"acting for another": `
			C: AUTH PLAIN ` + b64("eve\x00anna\x00"+password) + `
			S: -ERR [AUTH] wrong name or password`,
		"three wrong passwords": `
			C: USER anna
			S: +OK *
			C: PASS wrong
			S: -ERR [AUTH] wrong name or password
			C: USER nobody
			S: +OK *
			C: PASS wrong
			S: -ERR [AUTH] wrong name or password
			C: AUTH PLAIN ` + b64("\x00anna\x00") + `
			S: -ERR [AUTH] wrong name or password
			EOF`,
		"suspended": `
			C: USER eve
			S: +OK *
			C: PASS sesame street
			S: -ERR [AUTH] account is suspended
			C: USER eve
			S: +OK *
			C: PASS wrong
			S: -ERR [AUTH] wrong name or password`,
		"moved": `
			C: USER far
			S: +OK *
			C: PASS sesame street
			S: -ERR [SYS/TEMP/MOVED] *`,
		"a name with rubbish": `
			C: USER ann a
			S: +OK *
			C: PASS x
			S: -ERR [AUTH] *`,
		"ten mistakes": strings.Repeat("C: \x00\xff\x16\x03\nS: -ERR unknown command\n", 10) + "EOF",
		"line too long": `
			C: USER ` + strings.Repeat("a", 600) + `
			S: -ERR line too long
			C: NOOP
			S: -ERR log in first
			C: ` + strings.Repeat("a", 20000) + `
			S: -ERR line too long
			EOF`,
		"proxy's secret in clear": `
			C: AUTH PLAIN ` + b64("anna@example.test\x00proxy\x00cluster secret") + `
			S: -ERR [AUTH] *`,
		"identity in clear": `
			C: XCLIENT ADDR=192.0.2.1
			S: -ERR XCLIENT is for trusted proxies`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Options{AllowClear: true})
			f.fill()
			c := f.open()
			c.run("S: +OK [XCLIENT] *\n" + script)
		})
	}
}

func TestClearRefused(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.open()
	c.run(`
		S: +OK *
		C: USER anna
		S: -ERR no login without TLS*
		C: AUTH PLAIN ` + b64("\x00anna\x00"+password) + `
		S: -ERR no login without TLS*
		C: CAPA
		S: +OK *
		S: TOP
		S: UIDL
		S: RESP-CODES
		S: AUTH-RESP-CODE
		S: PIPELINING
		S: EXPIRE NEVER
		S: IMPLEMENTATION *
		S: STLS
		S: .
		C: STLS x
		S: -ERR *
		C: STLS
		S: +OK *
		TLS
		C: STLS
		S: -ERR TLS is active already
		C: USER anna
		S: +OK *
		C: PASS sesame street
		S: +OK 0 messages
		C: STAT
		S: +OK 0 0
		C: LIST
		S: +OK *
		S: .
		C: QUIT
		S: +OK *
		EOF`)
}

func TestBytesBehindSTLS(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.open()
	c.run(`
		S: +OK *
		C: STLS
		C: USER anna
		S: -ERR bytes behind STLS
		EOF`)
}

// TestProxied: a proxy says who the client is and logs in for the user; the
// log line has the proxy's session id and the client's address.
func TestProxied(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	f := newFixture(t, Options{Logger: zap.New(core), Node: "b1a"})
	f.fill()
	c := f.dial(context.Background(), "127.0.0.1", f.srv.ServeTLS)
	c.secure()
	c.run(`
		S: +OK [XCLIENT] *
		C: XCLIENT ADDR=rubbish
		S: -ERR XCLIENT is malformed
		C: XCLIENT SESSION=s1 TTL=6
		S: +OK Updated
		C: XCLIENT ADDR=2001:db8::1 PORT=50123
		C: AUTH PLAIN ` + b64("anna@example.test\x00proxy\x00cluster secret") + `
		S: +OK Updated
		S: +OK 3 messages
		C: DELE 2
		S: +OK *
		C: RETR 1
		S: +OK *
		S: Subject: one
		S: 
		S: first
		S: second
		S: .
		C: QUIT
		S: +OK bye, 1 deleted
		EOF`)
	if got := f.store.uids("anna@example.test"); !slices.Equal(got, []backend.UID{1, 3}) {
		t.Errorf("left: %v", got)
	}
	line := logs.FilterMessage("session").All()
	if len(line) != 1 {
		t.Fatalf("got %d lines, want 1", len(line))
	}
	fields := line[0].ContextMap()
	for k, want := range map[string]any{"session": "s1", "client": "[2001:db8::1]:50123", "user": "anna@example.test",
		"node": "b1a", "proxied": true, "tls": true, "retrieved": int64(1), "deleted": int64(1), "reason": "quit"} {
		if fields[k] != want {
			t.Errorf("%s: got %v, want %v", k, fields[k], want)
		}
	}
	for _, e := range logs.All() {
		if s := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(s, "secret") {
			t.Errorf("logged %s", s)
		}
	}
}

func TestProxiedSuspended(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.dial(context.Background(), "127.0.0.1", f.srv.ServeTLS)
	c.secure()
	c.run(`
		S: +OK *
		C: AUTH PLAIN ` + b64("eve@example.test\x00proxy\x00cluster secret") + `
		S: -ERR [SYS/PERM] account is suspended
		C: AUTH PLAIN ` + b64("far@example.test\x00proxy\x00cluster secret") + `
		S: -ERR [SYS/TEMP/MOVED] *
		C: AUTH PLAIN ` + b64("anna@example.test\x00proxy\x00wrong") + `
		S: -ERR [AUTH] *`)
}

func TestXCLIENTOnce(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.dial(context.Background(), "127.0.0.1", f.srv.ServeTLS)
	c.secure()
	c.run(`
		S: +OK [XCLIENT] *
		C: XCLIENT SESSION=s1 ADDR=192.0.2.1 PORT=1
		S: +OK Updated
		C: XCLIENT SESSION=s2 ADDR=192.0.2.2 PORT=1
		S: -ERR XCLIENT was sent already`)
}

// TestWrongNetwork: from elsewhere the right secret is a wrong password, and
// no identity is taken.
func TestWrongNetwork(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.dial(context.Background(), "127.0.0.2", f.srv.ServeTLS)
	c.secure()
	c.run(`
		S: +OK POP3 ready
		C: XCLIENT ADDR=192.0.2.1
		S: -ERR XCLIENT is for trusted proxies
		C: AUTH PLAIN ` + b64("anna@example.test\x00proxy\x00cluster secret") + `
		S: -ERR [AUTH] *`)
}

func TestUnavailable(t *testing.T) {
	for name, break_ := range map[string]func(*fixture){
		"directory": func(f *fixture) { f.dir.err = lookup.Unavailable("dial", errors.New("refused")) },
		"store":     func(f *fixture) { f.store.viewErr = backend.ErrBusy },
		"bug":       func(f *fixture) { f.store.viewErr = errors.New("a bug") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Options{AllowClear: true})
			break_(f)
			c := f.open()
			c.run("S: +OK *\n" + strings.Repeat(`
				C: USER anna
				S: +OK *
				C: PASS sesame street
				S: -ERR [SYS/TEMP] try again later
			`, 4))
			f.dir.err, f.store.viewErr = nil, nil
			c.run(login)
		})
	}
}

// TestInUse: one session per maildrop, also across listeners, and a new one as
// soon as the first has ended.
func TestInUse(t *testing.T) {
	f := newFixture(t, Options{AllowClear: true})
	first := f.open()
	first.run("S: +OK *\n" + login)
	second := f.dial(context.Background(), "127.0.0.1", f.srv.ServeTLS)
	second.secure()
	second.run(`
		S: +OK *
		C: USER anna
		S: +OK *
		C: PASS sesame street
		S: -ERR [IN-USE] *`)
	first.nc.Close()
	<-first.done
	second.run(login)
}

// TestBackAtOnce: who has the answer to QUIT may log in again.
func TestBackAtOnce(t *testing.T) {
	f := newFixture(t, Options{AllowClear: true})
	for range 50 {
		f.open().run("S: +OK *\n" + login + "C: QUIT\nS: +OK *\n")
	}
}

// TestNoUpdate: only QUIT deletes.
func TestNoUpdate(t *testing.T) {
	all := []backend.UID{1, 2, 3}
	for name, end := range map[string]func(*testing.T, *client, context.CancelCauseFunc){
		"dropped": func(_ *testing.T, c *client, _ context.CancelCauseFunc) { c.nc.Close() },
		"half":    func(_ *testing.T, c *client, _ context.CancelCauseFunc) { io.WriteString(c.nc, "QUIT\r"); c.nc.Close() },
		"bare LF": func(_ *testing.T, c *client, _ context.CancelCauseFunc) { io.WriteString(c.nc, "QUIT\n") },
		"too long": func(_ *testing.T, c *client, _ context.CancelCauseFunc) {
			c.run("C: QUIT " + strings.Repeat("x", 20000))
		},
		"shutdown": func(t *testing.T, c *client, stop context.CancelCauseFunc) {
			stop(server.ErrShutdown)
			if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
				t.Errorf("at shutdown the client got %q, %v", rest, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Options{AllowClear: true})
			f.fill()
			ctx, stop := context.WithCancelCause(context.Background())
			defer stop(nil)
			c := f.dial(ctx, "127.0.0.1", f.srv.Serve)
			c.run("S: +OK *\n" + login + "C: DELE 1\nS: +OK *\n")
			end(t, c, stop)
			<-c.done
			if got := f.store.uids("anna@example.test"); !slices.Equal(got, all) {
				t.Errorf("left: %v", got)
			}
		})
	}
}

func TestIdleDeadline(t *testing.T) {
	f := newFixture(t, Options{AllowClear: true, Idle: 20 * time.Millisecond})
	f.fill()
	c := f.open()
	c.run("S: +OK *\n" + login + "C: DELE 1\nS: +OK *\nEOF")
	if got := f.store.uids("anna@example.test"); len(got) != 3 {
		t.Errorf("left: %v", got)
	}
}

func TestLoginDeadline(t *testing.T) {
	f := newFixture(t, Options{AllowClear: true, LoginTime: 20 * time.Millisecond})
	f.open().run("S: +OK *\nEOF")
	c := f.dial(context.Background(), "127.0.0.1", f.srv.ServeTLS) // and no handshake
	<-c.done
}

func TestUpdateFails(t *testing.T) {
	f := newFixture(t, Options{AllowClear: true})
	f.fill()
	f.store.expungeEr = backend.ErrOutcomeUnknown
	f.open().run("S: +OK *\n" + login + `
		C: DELE 1
		S: +OK *
		C: QUIT
		S: -ERR [SYS/TEMP] *
		EOF`)
}

// TestGoneMeanwhile: another session expunged a message of the maildrop.
func TestGoneMeanwhile(t *testing.T) {
	f := newFixture(t, Options{AllowClear: true})
	f.fill()
	c := f.open()
	c.run("S: +OK *\n" + login)
	u, _ := f.store.User(context.Background(), "anna@example.test")
	u.Expunge(context.Background(), backend.GUID{1}, []backend.UID{2}, false)
	c.run(`
		C: RETR 2
		S: -ERR message is gone
		C: LIST 2
		S: +OK 2 26
		C: TOP 2 1
		S: -ERR message is gone
		C: DELE 2
		S: +OK *
		C: QUIT
		S: +OK *
		EOF`)
}

// TestUnreadable: a message that fails half-way must not look complete.
func TestUnreadable(t *testing.T) {
	f := newFixture(t, Options{AllowClear: true})
	f.store.put("anna@example.test", "Subject: x\r\n\r\n"+strings.Repeat("0123456789\r\n", 5000), 1)
	c := f.open()
	c.run("S: +OK *\n" + login + "C: LIST 1\nS: +OK 1 60014\n")
	f.store.mu.Lock()
	f.store.bodyErrAt = 30000
	f.store.mu.Unlock()
	c.run("C: RETR 1\nS: +OK 60014 octets\n")
	rest, _ := io.ReadAll(c.r)
	<-c.done
	if len(rest) == 0 || strings.HasSuffix(string(rest), "\r\n.\r\n") {
		t.Errorf("a broken message ends like a whole one: %d bytes", len(rest))
	}
}

// TestMeasuredOnce: sizes are remembered across sessions.
func TestMeasuredOnce(t *testing.T) {
	f := newFixture(t, Options{AllowClear: true})
	f.fill()
	for range 3 {
		f.open().run("S: +OK *\n" + login + "C: STAT\nS: +OK 3 94\nC: QUIT\nS: +OK *\nEOF")
	}
	if n := f.store.boxes["anna@example.test"].bodyRead; n != 2 {
		t.Errorf("bodies read %d times, want 2 (two GUIDs)", n)
	}
}

func TestRefusal(t *testing.T) {
	for want, err := range map[string]error{
		"[SYS/TEMP/MOVED]": fmt.Errorf("x: %w", backend.ErrMoved),
		"[AUTH]":           fmt.Errorf("x: %w", lookup.ErrRejected),
		"[SYS/TEMP]":       lookup.Unavailable("x", lookup.ErrRejected),
	} {
		if got := refusal(err); !strings.HasPrefix(got, want) {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}

func TestServeTLSWithoutConfig(t *testing.T) {
	f := newFixture(t, Options{TLS: &tls.Config{}})
	f.srv.o.TLS = nil
	c := f.dial(context.Background(), "127.0.0.1", f.srv.ServeTLS)
	c.run("EOF")
}
