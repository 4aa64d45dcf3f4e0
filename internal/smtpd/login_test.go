package smtpd

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"switchyard/internal/wire"
)

var loginOptions = Options{AllowCleartextAuth: true, RequireAuth: true, Hostname: "mx.test"}

const login = `
	S: 220 *
	C: HELO x
	S: 250 mx.test
`

func TestAuth(t *testing.T) {
	long := strings.Repeat("QUJD", 3000) // 12,000 characters
	tests := []struct {
		name, script string
		log          []string
		err          error
	}{
		{"initial response", login + `
			C: auth plain YQBiAHNlY3JldA==
			S: 235 2.7.0 authentication succeeded
			C: AUTH PLAIN YQBiAHNlY3JldA==
			S: 503 5.5.1 authenticated already
			C: QUIT
			S: 221 *`, []string{`auth PLAIN "a" "b" "secret"`}, nil},
		{"asked for", login + `
			C: AUTH PLAIN
			S: 334
			C: AGIAc2VjcmV0
			S: 235 *
			C: QUIT
			S: 221 *`, []string{`auth PLAIN "" "b" "secret"`}, nil},
		{"LOGIN", login + `
			C: AUTH LOGIN
			S: 334 VXNlcm5hbWU6
			C: Yg==
			S: 334 UGFzc3dvcmQ6
			C: c2VjcmV0
			S: 235 *
			C: QUIT
			S: 221 *`, []string{`auth LOGIN "" "b" "secret"`}, nil},
		{"LOGIN with the name at once", login + `
			C: AUTH LOGIN Yg==
			S: 334 UGFzc3dvcmQ6
			C: c2VjcmV0
			S: 235 *
			C: QUIT
			S: 221 *`, []string{`auth LOGIN "" "b" "secret"`}, nil},
		{"cancelled, and broken", login + `
			C: AUTH PLAIN
			S: 334
			C: *
			S: 501 5.7.0 authentication cancelled
			C: AUTH LOGIN
			S: 334 *
			C: Yg==
			S: 334 *
			C: *
			S: 501 5.7.0 *
			C: AUTH PLAIN !!!
			S: 501 5.5.2 *
			C: AUTH PLAIN AGI=
			S: 501 5.5.2 *
			C: AUTH PLAIN =
			S: 501 5.5.2 *
			C: AUTH CRAM-MD5
			S: 504 5.5.4 *
			C: AUTH
			S: 504 5.5.4 *
			C: QUIT
			S: 221 *`, nil, nil},
		{"before EHLO", `
			S: 220 *
			C: AUTH PLAIN AGIAc2VjcmV0
			S: 503 5.5.1 say EHLO first
			C: QUIT
			S: 221 *`, nil, nil},
		{"nothing before login", login + `
			C: MAIL FROM:<a@x.test>
			S: 530 5.7.0 *
			C: RCPT TO:<a@x.test>
			S: 530 5.7.0 *
			C: DATA
			S: 530 5.7.0 *
			C: VRFY a
			S: 530 5.7.0 *
			C: EXPN a
			S: 530 5.7.0 *
			C: NOOP
			S: 250 *
			C: RSET
			S: 250 *
			C: HELP
			S: 214 *
			C: BDAT 10
			S: 530 5.7.0 *`, nil, ErrChunk},
		{"three failures", login + `
			C: AUTH PLAIN AGIAeA==
			S: 535 5.7.8 no
			C: AUTH PLAIN AGIAeA==
			S: 535 5.7.8 no
			C: AUTH PLAIN AGJ1c3kAeA==
			S: 454 4.7.0 not now
			C: AUTH PLAIN AGIAeA==
			S: 535 5.7.8 no
			S: 421 4.7.0 too many failed logins, goodbye`,
			[]string{`auth PLAIN "" "b" "x"`, `auth PLAIN "" "b" "x"`, `auth PLAIN "" "busy" "x"`, `auth PLAIN "" "b" "x"`}, ErrAuthFailures},
		{"a long message fits", login + `
			C: AUTH PLAIN ` + long + `
			S: 501 5.5.2 malformed SASL message: PLAIN takes two NULs
			C: AUTH PLAIN
			S: 334
			C: ` + long + long + `
			S: 500 5.5.2 line too long, goodbye`, nil, wire.ErrLineTooLong},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := &loginFake{}
			p := start(t, loginOptions, withLogin(f))
			// The space behind a bare 334 is lost in the script.
			p.run(strings.ReplaceAll(test.script, "S: 334\n", "S: 334 *\n"))
			if err := p.result(); !errors.Is(err, test.err) {
				t.Errorf("got %v, want %v", err, test.err)
			}
			f.wantLog(t, test.log...)
		})
	}
}

// A session that is taken over gets no answer from here, and keeps what the
// client has sent behind its login.
func TestTakeOver(t *testing.T) {
	f := &loginFake{}
	p := start(t, loginOptions, withLogin(f))
	p.run(login + "C: AUTH PLAIN AHByb3hpZWQAeA==\nC: MAIL FROM:<a@x.test>")
	if err := p.result(); !errors.Is(err, ErrTakeOver) {
		t.Fatalf("got %v", err)
	}
	conn, rest, err := p.wc.Detach()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if want := "MAIL FROM:<a@x.test>\r\n"; string(rest) != want {
		t.Errorf("left %q, want %q", rest, want)
	}
	io.WriteString(conn, "235 from elsewhere\r\n")
	p.expect("235 from elsewhere")
}

// XCLIENT is believed from trusted peers, before login, outside of
// transactions, and until one has said ADDR.
func TestXCLIENT(t *testing.T) {
	o := Options{AllowCleartextAuth: true}
	f := &loginFake{fake: fake{trusts: true}}
	p := start(t, o, withLogin(f))
	p.run(`
		S: 220 *
		C: EHLO x
		S: 250-mx.test
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-AUTH PLAIN LOGIN
		S: 250-XCLIENT ADDR PORT *
		S: 250 XPIPELOGIN
		C: XCLIENT
		S: 501 *
		C: XCLIENT NONSENSE=1
		S: 501 *
		C: XCLIENT ADDR=192.0.2.999
		S: 501 *
		C: MAIL FROM:<a@x.test>
		S: 250 *
		C: XCLIENT ADDR=192.0.2.1
		S: 503 5.5.1 not within a transaction
		C: RSET
		S: 250 *
		C: XCLIENT ADDR=192.0.2.1 TTL=1
		S: 550 5.4.6 loop
		C: XCLIENT SESSION=s1 TTL=5
		S: 220 mx.test ESMTP
		C: MAIL FROM:<a@x.test>
		S: 503 5.5.1 say EHLO first
		C: XCLIENT PORT=25 ADDR=IPV6:2001:db8::1
		S: 220 mx.test ESMTP
		C: HELO x
		S: 250 *
		C: XCLIENT ADDR=192.0.2.2
		S: 503 5.5.1 the client is known already
		C: QUIT
		S: 221 *`)
	p.result()
	f.wantLog(t, `mail "a@x.test" {Size:0 Body: UTF8:false Ret: EnvID: Auth: Trace:0}`, "reset",
		"identify  192.0.2.1:0 ttl 1", "identify s1 [2001:db8::1]:25 ttl 5")

	// All that XPIPELOGIN promises, in one write.
	f = &loginFake{fake: fake{trusts: true}}
	p = start(t, o, withLogin(f))
	p.run(`
		S: 220 *
		C: XCLIENT ADDR=192.0.2.1
		C: EHLO proxy
		C: AUTH PLAIN AGEAc2VjcmV0
		C: MAIL FROM:<a@x.test>
		S: 220 mx.test ESMTP
		S: 250-mx.test
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250 AUTH PLAIN LOGIN
		S: 235 *
		S: 250 *
		C: QUIT
		S: 221 *`)
	p.result()

	f = &loginFake{}
	p = start(t, o, withLogin(f))
	p.run(login + "C: XCLIENT ADDR=192.0.2.1\nS: 550 5.7.0 not from here\nC: QUIT\nS: 221 *")
	f = &loginFake{fake: fake{trusts: true}}
	p = start(t, o, withLogin(f))
	p.run(login + `
		C: AUTH PLAIN AGIAc2VjcmV0
		S: 235 *
		C: XCLIENT LOGIN=root ADDR=192.0.2.1
		S: 503 5.5.1 not behind AUTH
		C: QUIT
		S: 221 *`)
	p.result()
	f.wantLog(t, `auth PLAIN "" "b" "secret"`)
}

// The private parameters are for those to whom they are offered.
func TestPrivateParameters(t *testing.T) {
	f := &loginFake{fake: fake{private: true}}
	p := start(t, Options{LMTP: true, AllowCleartextAuth: true}, withLogin(f))
	p.run(`
		S: 220 mx.test LMTP
		C: LHLO x
		S: 250-mx.test
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-LIMITS *
		S: 250 AUTH PLAIN LOGIN
		C: MAIL FROM:<> XTRACELEN=5
		S: 555 5.5.4 *
		C: AUTH PLAIN AGIAc2VjcmV0
		S: 235 *
		C: LHLO x
		S: 250-mx.test
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-LIMITS *
		S: 250-XRCPTFORWARD
		S: 250-XTRACELEN
		S: 250 XRELAY
		C: MAIL FROM:<> XTRACELEN=-5
		S: 501 *
		C: MAIL FROM:<> XTRACELEN=5 AUTH=a+40x
		S: 250 *
		C: RCPT TO:<b@x.test> XRCPTFORWARD=!
		S: 501 5.5.4 malformed parameter XRCPTFORWARD
		C: RCPT TO:<b@x.test> XRCPTFORWARD=aG9tZS1nZW5lcmF0aW9uPTc=
		S: 250 *
		C: RCPT TO:<c@far.test> XRELAY=yes
		S: 501 5.5.4 malformed parameter XRELAY
		C: RCPT TO:<c@far.test> XRELAY
		S: 250 *
		C: QUIT
		S: 221 *`)
	p.result()
	f.wantLog(t, `auth PLAIN "" "b" "secret"`,
		`mail "" {Size:0 Body: UTF8:false Ret: EnvID: Auth:a@x Trace:5}`,
		`rcpt "b@x.test" {Notify: ORcptType: ORcpt: Relay:false Generation:7}`,
		`rcpt "c@far.test" {Notify: ORcptType: ORcpt: Relay:true Generation:0}`, "reset")
}

func TestTrace(t *testing.T) {
	at := time.Date(2026, 11, 5, 3, 4, 5, 0, time.FixedZone("", 3600))
	tests := []struct {
		trace Trace
		want  string
	}{
		{Trace{"client.test", netip.MustParseAddr("192.0.2.1"), "mx.test", "ESMTPS", "s1", at},
			"Received: from client.test ([192.0.2.1])\r\n\tby mx.test with ESMTPS id s1;\r\n\tThu, 5 Nov 2026 03:04:05 +0100\r\n"},
		{Trace{"[IPv6:2001:db8::1]", netip.MustParseAddr("::ffff:192.0.2.1"), "mx.test", "LMTP", "s1", at},
			"Received: from [IPv6:2001:db8::1] ([192.0.2.1])\r\n\tby mx.test with LMTP id s1;\r\n\tThu, 5 Nov 2026 03:04:05 +0100\r\n"},
		{Trace{"x\r\nBcc: (evil);\x00ä", netip.MustParseAddr("2001:db8::1"), "mx.test", "SMTP", "s 1\r\n", at},
			"Received: from x??Bcc:??evil???? ([IPv6:2001:db8::1])\r\n\tby mx.test with SMTP id none;\r\n\tThu, 5 Nov 2026 03:04:05 +0100\r\n"},
		{Trace{By: "mx.test", With: "SMTP", ID: "s1", Time: at},
			"Received: from unknown\r\n\tby mx.test with SMTP id s1;\r\n\tThu, 5 Nov 2026 03:04:05 +0100\r\n"},
	}
	for _, test := range tests {
		if got := test.trace.Field(); got != test.want {
			t.Errorf("got %q\nwant %q", got, test.want)
		}
	}
}

// An answer is what the session said, and never more answers than one.
func TestReply(t *testing.T) {
	tests := []struct {
		reply Reply
		want  string
	}{
		{NewReply(250, "2.0.0", "ok"), "250 2.0.0 ok\r\n"},
		{NewReply(250, "", "a\nb"), "250-a\r\n250 b\r\n"},
		{NewReply(550, "5.1.1", "a\nb"), "550-5.1.1 a\r\n550 5.1.1 b\r\n"},
		{NewReply(550, "5.1.1", "a\r\n250 ok"), "550-5.1.1 a?\r\n550 5.1.1 250 ok\r\n"},
		{NewReply(0, "", "x"), "451 x\r\n"},
		{NewReply(250, "", strings.Repeat("x", 2000)), "250 " + strings.Repeat("x", maxReplyText) + "\r\n"},
	}
	for _, test := range tests {
		if got := string(test.reply.append(nil)); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}
