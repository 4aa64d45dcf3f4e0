package smtpd

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"switchyard/internal/wire"
)

const hello = `
	S: 220 mx.test ESMTP
	C: EHLO client.test
	S: 250-mx.test
	S: 250-PIPELINING
	S: 250-8BITMIME
	S: 250-ENHANCEDSTATUSCODES
	S: 250-CHUNKING
	S: 250-SMTPUTF8
	S: 250-DSN
	S: 250-SIZE 1000
	S: 250 LIMITS RCPTMAX=100
`

func TestDialogues(t *testing.T) {
	const mail = `mail "a@x.test" {Size:0 Body: UTF8:false Ret: EnvID: Auth: Trace:0}`
	const rcpt = `rcpt "b@x.test" {Notify: ORcptType: ORcpt: Relay:false Generation:0}`
	tests := []struct {
		name, script string
		log          []string
	}{
		{"one message", hello + `
			C: MAIL FROM:<a@x.test>
			S: 250 2.1.0 sender ok
			C: RCPT TO:<b@x.test>
			S: 250 2.1.5 recipient ok
			C: DATA
			S: 354 *
			C: Subject: x
			C:
			C: ..
			C: .
			S: 250 2.0.0 taken
			C: QUIT
			S: 221 *`,
			[]string{mail, rcpt, "data ESMTP 17", "reset"}},
		{"pipelined, and a second message", hello + `
			C: MAIL FROM:<a@x.test>
			C: RCPT TO:<b@x.test>
			C: DATA
			S: 250 *
			S: 250 *
			S: 354 *
			C: x
			C: .
			C: MAIL FROM:<a@x.test>
			C: RCPT TO:<b@x.test>
			C: DATA
			S: 250 2.0.0 taken
			S: 250 *
			S: 250 *
			S: 354 *
			C: y
			C: .
			C: QUIT
			S: 250 2.0.0 taken
			S: 221 *`,
			[]string{mail, rcpt, "data ESMTP 3", "reset", mail, rcpt, "data ESMTP 3", "reset"}},
		{"no recipient accepted", hello + `
			C: MAIL FROM:<a@x.test>
			C: RCPT TO:<nobody@x.test>
			C: RCPT TO:<later@x.test>
			C: DATA
			S: 250 *
			S: 550 5.1.1 no such user
			S: 451 4.4.3 not now
			S: 503 5.5.1 no recipient was accepted
			C: RSET
			S: 250 *
			C: QUIT
			S: 221 *`,
			[]string{mail,
				`rcpt "nobody@x.test" {Notify: ORcptType: ORcpt: Relay:false Generation:0}`,
				`rcpt "later@x.test" {Notify: ORcptType: ORcpt: Relay:false Generation:0}`, "reset"}},
		{"nested MAIL", hello + `
			C: MAIL FROM:<a@x.test>
			C: MAIL FROM:<c@x.test>
			S: 250 *
			S: 503 5.5.1 there is a sender already
			C: QUIT
			S: 221 *`, []string{mail, "reset"}},
		{"EHLO and a lost connection reset", hello + `
			C: MAIL FROM:<a@x.test>
			C: HELO again.test
			C: RCPT TO:<b@x.test>
			C: MAIL FROM:<a@x.test>
			S: 250 *
			S: 250 mx.test
			S: 503 5.5.1 say MAIL first
			S: 250 *`,
			[]string{mail, "reset", mail, "reset"}},
		{"sender refused and broken", hello + `
			C: MAIL FROM:<refused@x.test>
			S: 550 5.7.1 go away
			C: MAIL FROM:<broken@x.test>
			S: 451 4.3.0 internal error, try again later
			C: RCPT TO:<b@x.test>
			S: 503 5.5.1 say MAIL first`,
			[]string{strings.Replace(mail, "a@", "refused@", 1), strings.Replace(mail, "a@", "broken@", 1)}},
		{"order", `
			S: 220 *
			C: MAIL FROM:<a@x.test>
			S: 503 5.5.1 say EHLO first
			C: RCPT TO:<a@x.test>
			S: 503 5.5.1 say MAIL first
			C: DATA
			S: 503 5.5.1 say MAIL first
			C: AUTH PLAIN
			S: 502 5.5.1 AUTH is not offered
			C: STARTTLS
			S: 502 5.5.1 STARTTLS is not offered
			C: XCLIENT ADDR=192.0.2.1
			S: 500 5.5.1 unknown command
			C: LHLO x
			S: 500 5.5.1 unknown command, this is SMTP`, nil},
		{"small words", `
			S: 220 *
			C: noop whatever
			S: 250 *
			C: HELP
			S: 214 *
			C: VRFY root
			S: 252 *
			C: EXPN all
			S: 502 *
			C: STARTTLSFOO
			S: 500 5.5.1 unknown command
			C: EHLO
			S: 501 5.5.4 EHLO takes the name of the client
			C: EHLO two words
			S: 501 *
			C: RSET
			S: 250 *`, nil},
		{"parameters", `
			S: 220 *
			C: HELO x
			S: 250 mx.test
			C: MAIL FROM:<a@x.test> SIZE=1001
			S: 552 5.3.4 *
			C: MAIL FROM:<a@x.test> SIZE=99999999999999999999
			S: 552 5.3.4 *
			C: MAIL FROM:<a@x.test> SIZE=x
			S: 501 5.5.4 malformed parameter SIZE
			C: MAIL FROM:<a@x.test> BODY=BINARYMIME
			S: 555 5.5.4 *
			C: MAIL FROM:<a@x.test> XTRACELEN=5
			S: 555 5.5.4 parameter not offered: XTRACELEN
			C: MAIL FROM:<ä@x.test>
			S: 553 5.6.7 address needs SMTPUTF8
			C: MAIL FROM:<a@x.test> SIZE=5 size=6
			S: 501 5.5.4 malformed parameter: SIZE is there twice
			C: MAIL FROM: <> size=500 BODY=8bitmime RET=HDRS ENVID=a+2Bb SMTPUTF8
			S: 250 *
			C: RCPT TO:<b@x.test> NOTIFY=NEVER,FAILURE
			S: 501 5.5.4 malformed parameter NOTIFY
			C: RCPT TO:<b@x.test> NOTIFY=failure,DELAY ORCPT=rfc822;c+40x.test
			S: 250 *
			C: RCPT TO:<ö@x.test>
			S: 250 *`,
			[]string{`mail "" {Size:500 Body:8BITMIME UTF8:true Ret:HDRS EnvID:a+b Auth: Trace:0}`,
				`rcpt "b@x.test" {Notify:FAILURE,DELAY ORcptType:rfc822 ORcpt:c@x.test Relay:false Generation:0}`,
				`rcpt "ö@x.test" {Notify: ORcptType: ORcpt: Relay:false Generation:0}`, "reset"}},
		{"postmaster", hello + `
			C: MAIL FROM:<>
			C: RCPT TO:<PostMaster>
			C: RCPT TO:<root>
			C: RCPT TO:<>
			S: 250 *
			S: 250 *
			S: 501 5.1.3 *
			S: 501 5.1.3 *`,
			[]string{`mail "" {Size:0 Body: UTF8:false Ret: EnvID: Auth: Trace:0}`,
				`rcpt "PostMaster" {Notify: ORcptType: ORcpt: Relay:false Generation:0}`, "reset"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := &fake{}
			p := start(t, Options{MaxSize: 1000}, plain(f))
			p.run(test.script)
			p.conn.Close()
			p.result()
			f.wantLog(t, test.log...)
		})
	}
}

func TestLMTP(t *testing.T) {
	f := &fake{replies: func(n int) []Reply {
		return []Reply{NewReply(250, "2.0.0", "one"), NewReply(452, "4.2.2", "two"), NewReply(250, "2.0.0", "three")}
	}}
	p := start(t, Options{LMTP: true}, plain(f))
	p.run(`
		S: 220 mx.test LMTP
		C: EHLO x
		S: 500 5.5.1 unknown command, this is LMTP
		C: LHLO x
		S: 250-mx.test
		S: 250-PIPELINING
		S: 250-8BITMIME
		S: 250-ENHANCEDSTATUSCODES
		S: 250-CHUNKING
		S: 250-SMTPUTF8
		S: 250-DSN
		S: 250-SIZE
		S: 250 LIMITS RCPTMAX=100
		C: MAIL FROM:<>
		C: RCPT TO:<a@x.test>
		C: RCPT TO:<nobody@x.test>
		C: RCPT TO:<b@x.test>
		C: RCPT TO:<a@x.test>
		C: DATA
		S: 250 *
		S: 250 *
		S: 550 *
		S: 250 *
		S: 250 *
		S: 354 *
		C: x
		C: .
		S: 250 2.0.0 one
		S: 452 4.2.2 two
		S: 250 2.0.0 three
		C: MAIL FROM:<>
		C: RCPT TO:<a@x.test>
		C: RCPT TO:<a@x.test>
		C: BDAT 3
		C: x
		S: 250 *
		S: 250 *
		S: 250 *
		S: 250 2.0.0 3 bytes
		C: BDAT 3 LAST
		C: y
		S: 451 4.3.0 *
		S: 451 4.3.0 *
		C: QUIT
		S: 221 *
	`)
	if err := p.end(); err != nil {
		t.Error(err)
	}
	if want := []string{"x\r\n", "x\r\ny\r\n"}; strings.Join(f.bodies, "|") != strings.Join(want, "|") {
		t.Errorf("got bodies %q, want %q", f.bodies, want)
	}
}

// TestBatch: a batch of commands is answered in one write.
func TestBatch(t *testing.T) {
	p := start(t, Options{}, plain(&fake{}))
	p.run("S: 220 *")
	p.send("EHLO x\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nRCPT TO:<c@x.test>\r\nNOOP\r\n")
	buf := make([]byte, 4096)
	n, err := p.conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(buf[:n]), "\r\n"); got != 13 {
		t.Errorf("got %d lines in the first read, want 13: %q", got, buf[:n])
	}
}

// A half command behind a batch does not hold the answers back.
func TestHalfCommand(t *testing.T) {
	p := start(t, Options{}, plain(&fake{}))
	p.run("S: 220 *")
	p.send("NOOP\r\nNO")
	p.expect("250 2.0.0 ok")
	p.send("OP\r\n")
	p.expect("250 2.0.0 ok")
}

func TestBadInput(t *testing.T) {
	tests := []struct {
		name, send, want string
		err              error
	}{
		{"endless line", strings.Repeat("x", 20<<10), "500 5.5.2 line too long, goodbye", wire.ErrLineTooLong},
		{"bare LF", "NOOP\n", "500 5.5.2 lines end in CRLF, goodbye", wire.ErrBareLF},
		{"long command", "NOOP " + strings.Repeat("x", 3000) + "\r\n", "500 5.5.2 line too long", nil},
		{"binary", "\x16\x03\x01\x00\r\n", "500 5.5.2 line has characters that no command has", nil},
		{"NUL in an address", "RCPT TO:<a\x00b@x.test>\r\n", "500 5.5.2 line has characters that no command has", nil},
		{"mistakes", strings.Repeat("X\r\n", 10), "500 5.5.1 unknown command", ErrMistakes},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := start(t, Options{}, plain(&fake{}))
			p.run("S: 220 *")
			p.send(test.send)
			p.expect(test.want)
			if test.err == nil {
				p.run("C: NOOP\nS: 250 *")
				return
			}
			if test.err == ErrMistakes {
				for range 9 {
					p.expect(test.want)
				}
				p.expect("421 4.7.0 too many mistakes, goodbye")
			}
			if err := p.result(); !errors.Is(err, test.err) {
				t.Errorf("got %v, want %v", err, test.err)
			}
		})
	}
}

func TestStartTLS(t *testing.T) {
	f := &loginFake{}
	p := start(t, Options{StartTLS: func(context.Context) error { return nil }}, withLogin(f))
	p.run(`
		S: 220 *
		C: EHLO x
		S: 250-mx.test
		S: 250-PIPELINING
		S: 250-8BITMIME
		S: 250-ENHANCEDSTATUSCODES
		S: 250-CHUNKING
		S: 250-SMTPUTF8
		S: 250-DSN
		S: 250-SIZE
		S: 250-LIMITS RCPTMAX=100
		S: 250 STARTTLS
		C: AUTH PLAIN AGEAYg==
		S: 538 5.7.11 *
		C: MAIL FROM:<a@x.test>
		S: 250 *
		C: STARTTLS
		S: 220 2.0.0 ready for TLS`)
	p.upgrade()
	p.run(`
		C: MAIL FROM:<a@x.test>
		S: 503 5.5.1 say EHLO first
		C: EHLO x
		S: 250-mx.test
		S: 250-PIPELINING
		S: 250-8BITMIME
		S: 250-ENHANCEDSTATUSCODES
		S: 250-CHUNKING
		S: 250-SMTPUTF8
		S: 250-DSN
		S: 250-SIZE
		S: 250-LIMITS RCPTMAX=100
		S: 250 AUTH PLAIN LOGIN
		C: STARTTLS
		S: 503 *
		C: AUTH PLAIN AGEAc2VjcmV0
		S: 235 2.7.0 *
		C: MAIL FROM:<a@x.test>
		C: RCPT TO:<b@x.test>
		C: DATA
		S: 250 *
		S: 250 *
		S: 354 *
		C: .
		S: 250 *
		C: QUIT
		S: 221 *`)
	if err := p.result(); err != nil {
		t.Error(err)
	}
	if got := f.log[len(f.log)-2]; got != "data ESMTPSA 0" {
		t.Errorf("got %q", got)
	}
}

func TestBytesBehindStartTLS(t *testing.T) {
	f := &fake{}
	p := start(t, Options{StartTLS: func(context.Context) error { return nil }}, plain(f))
	p.run(`
		S: 220 *
		C: STARTTLS
		C: MAIL FROM:<evil@x.test>
		S: 501 5.5.1 nothing may follow STARTTLS, goodbye`)
	io.Copy(io.Discard, p.conn)
	if err := p.result(); !errors.Is(err, wire.ErrBytesBehindStartTLS) {
		t.Errorf("got %v", err)
	}
	f.wantLog(t)
}
