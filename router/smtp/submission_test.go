package smtp

import (
	"errors"
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
	plainBertaAnna = "YmVydGFAZXhhbXBsZS50ZXN0AGFubmFAZXhhbXBsZS50ZXN0AHNlc2FtZQ==" // anna's login for berta's mail
	plainWrong     = "AGFubmFAZXhhbXBsZS50ZXN0AHdyb25n"                             // anna, wrong
	plainCarla     = "AGNhcmxhQGV4YW1wbGUudGVzdABzZXNhbWU="                         // carla, sesame
	plainErna      = "AGVybmFAZXhhbXBsZS50ZXN0AHNlc2FtZQ=="                         // erna, sesame
	plainProxyAnna = "YW5uYUBleGFtcGxlLnRlc3QAcHJveHkAcHJveHktc2VjcmV0"             // proxy's login for anna
	plainProxy     = "AHByb3h5AHByb3h5LXNlY3JldA=="                                 // proxy's login as itself
)

const submissionHello = `
	S: 220 px1.example.test ESMTP
	C: EHLO client.test
	S: 250-px1.example.test
	S: 250 AUTH PLAIN LOGIN
`

// enter is a backend's side of the login of anna.
const enter = `
	S: 220 b1 ESMTP
	C: EHLO px1.example.test
	S: 250-b1
	S: 250 XCLIENT ADDR PORT DESTADDR DESTPORT SESSION TTL CLIENT-TRANSPORT FORWARD HELO
	C: XCLIENT SESSION=* TTL=6 CLIENT-TRANSPORT=insecure FORWARD=* HELO=client.test DESTADDR=127.0.0.1 DESTPORT=* PORT=* ADDR=127.0.0.1
	S: 220 b1 ESMTP
	C: EHLO px1.example.test
	S: 250 b1
	C: AUTH PLAIN ` + plainProxyAnna + "\n"

func directory() *routertest.Directory {
	d := routertest.NewDirectory()
	for _, a := range []lookup.Account{
		{Name: "anna@example.test", Home: "b1", Generation: 7},
		{Name: "berta@example.test", Home: "b2"},
		{Name: "carla@example.test", Home: "b1", Status: lookup.StatusSuspended},
		{Name: "closed@example.test", Home: "b1", Status: lookup.StatusClosed},
		{Name: "dora@example.test"},
		{Name: "erna@example.test", Home: "b9"},
		{Name: "postmaster@example.test", Home: "b1"},
	} {
		d.Add(a, "sesame")
	}
	return d
}

func config(p router.Protocol, service upstream.Service, backends ...*routertest.Backend) routertest.Config {
	c := routertest.Config{
		Protocol: p, Directory: directory(),
		Listener: router.Listener{AllowCleartextLogin: true},
		Options:  router.Options{DefaultDomain: "example.test", DefaultBackend: "b1"},
	}
	for i, b := range backends {
		name := "b" + string(rune('1'+i))
		c.Backends = append(c.Backends, upstream.Backend{Name: name, Nodes: []upstream.Node{b.Node(name+"a", service, tlsconf.Off, nil)}})
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

func TestSubmission(t *testing.T) {
	b1 := routertest.NewBackend(t, nil, enter+`
		S: 235 2.7.0 welcome
		C: MAIL FROM:<anna@example.test>
		S: 250 2.1.0 ok
		C: QUIT
		S: 221 2.0.0 bye`)
	p := routertest.Start(t, config(NewSubmission(Options{}), upstream.Submission, b1))
	p.Play(submissionHello + `
		C: MAIL FROM:<anna@example.test>
		S: 530 5.7.0 authentication required
		C: RCPT TO:<anna@example.test>
		S: 530 *
		C: VRFY anna
		S: 530 *
		C: AUTH PLAIN ` + plainAnna + `
		C: MAIL FROM:<anna@example.test>
		S: 235 2.7.0 authentication succeeded
		S: 250 2.1.0 ok
		C: QUIT
		S: 221 2.0.0 bye
		EOF`)
	check(t, p.Session(), map[string]any{"user": "anna@example.test", "home": "b1", "node": "b1a", "result": "logged out"})
}

// TestSubmissionInOneWrite: a server of ours gets all that comes before the session
// without being waited for; identity and login are judged as one by one.
func TestSubmissionInOneWrite(t *testing.T) {
	const ours = `
		S: 220 b1 ESMTP
		C: EHLO px1.example.test
		S: 250-b1
		S: 250-PIPELINING
		S: 250-AUTH PLAIN LOGIN
		S: 250-XCLIENT ADDR
		S: 250 XPIPELOGIN
		C: XCLIENT ADDR=127.0.0.1
		C: EHLO px1.example.test
		C: AUTH PLAIN ` + plainProxyAnna + "\n"
	for name, c := range map[string]struct{ script, want string }{
		"welcome":          {"S: 220 b1 ESMTP\nS: 250 b1\nS: 235 2.7.0 welcome\nC: QUIT\nS: 221 2.0.0 bye", "235 *"},
		"identity refused": {"S: 550 5.7.0 not from here\nS: 250 b1\nS: 235 2.7.0 welcome\nC: QUIT\nS: 221 2.0.0 bye", "235 *"},
		"moved":            {"S: 220 b1 ESMTP\nS: 250 b1\nS: 451 4.1.6 moved\nEOF", "454 *"},
		"lost":             {"S: 220 b1 ESMTP\nS: 250 b1\nCLOSE", "454 *"},
	} {
		t.Run(name, func(t *testing.T) {
			p := routertest.Start(t, config(NewSubmission(Options{}), upstream.Submission, routertest.NewBackend(t, nil, ours+c.script)))
			answer := "\nC: AUTH PLAIN " + plainAnna + "\nS: " + c.want + "\nC: QUIT\nS: 221 2.0.0 *\nEOF"
			p.Play(submissionHello + answer)
		})
	}
}

func TestSubmissionTLS(t *testing.T) {
	server, client := routertest.TLS(t)
	hello := strings.Split(enter, "C: XCLIENT")[0]
	// Identity goes out behind TLS only, and what was offered before counts for
	// nothing.
	b1 := routertest.NewBackend(t, server, `
		S: 220 b1 ESMTP
		C: EHLO px1.example.test
		S: 250-b1
		S: 250-XCLIENT NAME
		S: 250 STARTTLS
		C: STARTTLS
		S: 220 2.0.0 go
		TLS
		C: EHLO px1.example.test`+strings.Split(hello, "C: EHLO px1.example.test")[1]+`
		C: XCLIENT SESSION=* CLIENT-TRANSPORT=TLS * ADDR=127.0.0.1
		S: 220 b1 ESMTP
		C: EHLO px1.example.test
		S: 250 b1
		C: AUTH PLAIN `+plainProxyAnna+`
		S: 235 2.7.0 welcome
		C: QUIT
		S: 221 2.0.0 bye`)
	c := config(NewSubmission(Options{}), upstream.Submission)
	c.Backends = []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{b1.Node("b1a", upstream.Submission, tlsconf.StartTLS, client)}}}
	c.Listener = router.Listener{TLS: tlsconf.StartTLS, Config: server}
	c.TLS = client
	p := routertest.Start(t, c)
	p.Play(strings.Replace(submissionHello, "250 AUTH PLAIN LOGIN", "250 STARTTLS", 1) + `
		C: AUTH PLAIN ` + plainAnna + `
		S: 538 5.7.11 *
		C: STARTTLS
		S: 220 *
		TLS
		C: EHLO client.test
		S: 250-*
		S: 250 AUTH PLAIN LOGIN
		C: AUTH LOGIN
		S: 334 VXNlcm5hbWU6
		C: YW5uYUBleGFtcGxlLnRlc3Q=
		S: 334 UGFzc3dvcmQ6
		C: c2VzYW1l
		S: 235 *
		C: QUIT
		S: 221 2.0.0 bye
		EOF`)
	check(t, p.Session(), map[string]any{"user": "anna@example.test", "tls": true, "result": "logged out"})
}

// Each failed login gets its own answer: no, not now, and never the wrong one.
func TestSubmissionRefusals(t *testing.T) {
	down := func(verb, _ string) error {
		if verb == "check" {
			return errors.New("ldap is on fire")
		}
		return nil
	}
	for name, c := range map[string]struct {
		auth, backend, want, result string
		fail                        func(verb, name string) error
	}{
		"wrong password":    {auth: plainWrong, want: "535 5.7.8 *", result: "login rejected"},
		"someone else":      {auth: plainBertaAnna, want: "535 5.7.8 *", result: "login rejected"},
		"malformed":         {auth: "AGFubmE=", want: "501 5.5.2 *", result: "no login"},
		"suspended":         {auth: plainCarla, want: "525 5.7.13 account is suspended", result: "account refused"},
		"no such backend":   {auth: plainErna, want: "454 4.7.0 *", result: "misconfigured"},
		"directory down":    {auth: plainAnna, want: "454 4.7.0 *", result: "directory unavailable", fail: down},
		"backend refuses":   {auth: plainAnna, backend: "S: 554 5.7.1 go away\nEOF", want: "454 4.7.0 *", result: "backend unavailable"},
		"backend is gone":   {auth: plainAnna, backend: "CLOSE", want: "454 4.7.0 *", result: "backend unavailable"},
		"backend's rubbish": {auth: plainAnna, backend: "S: * OK IMAP4rev1\nEOF", want: "454 4.7.0 *", result: "backend unavailable"},
		"proxy unknown":     {auth: plainAnna, backend: enter + "S: 535 5.7.8 who\nEOF", want: "454 4.7.0 *", result: "misconfigured"},
		"backend is busy":   {auth: plainAnna, backend: enter + "S: 454 4.7.0 later\nEOF", want: "454 4.7.0 *", result: "backend unavailable"},
		"expired there":     {auth: plainAnna, backend: enter + "S: 525 5.7.13 account is expired\nEOF", want: "525 5.7.13 account is expired", result: "account refused"},
		"moved nowhere":     {auth: plainAnna, backend: enter + "S: 454 4.1.6 moved\nEOF", want: "454 4.7.0 *", result: "backend unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			backend := c.backend
			if backend == "" {
				backend = "EOF"
			}
			b1 := routertest.NewBackend(t, nil, backend)
			config := config(NewSubmission(Options{}), upstream.Submission, b1)
			config.Directory.(*routertest.Directory).Fail(c.fail)
			p := routertest.Start(t, config)
			p.Play(submissionHello + "C: AUTH PLAIN " + c.auth + "\nS: " + c.want + "\nC: QUIT\nS: 221 *\nEOF")
			check(t, p.Session(), map[string]any{"result": c.result})
			for _, e := range p.Logs.All() {
				for k, v := range e.ContextMap() {
					if s, ok := v.(string); ok && (strings.Contains(s, "proxy-secret") || strings.Contains(s, plainProxyAnna) || strings.Contains(s, "sesame")) {
						t.Errorf("%s: %s has a secret: %s", e.Message, k, s)
					}
				}
			}
		})
	}
}

func TestSubmissionMoved(t *testing.T) {
	b1 := routertest.NewBackend(t, nil, enter+"S: 454 4.1.6 moved\nEOF")
	b2 := routertest.NewBackend(t, nil, enter+"S: 235 2.7.0 welcome\nC: QUIT\nS: 221 bye")
	c := config(NewSubmission(Options{}), upstream.Submission, b1, b2)
	dir := c.Directory.(*routertest.Directory)
	dir.Move("anna@example.test", "b2", 8)
	p := routertest.Start(t, c)
	p.Play(submissionHello + "C: AUTH PLAIN " + plainAnna + "\nS: 235 *\nC: QUIT\nS: 221 bye\nEOF")
	check(t, p.Session(), map[string]any{"home": "b2", "result": "logged out"})
	if got := strings.Join(dir.Asked(), ", "); got != "check anna@example.test, forget anna@example.test, fresh anna@example.test" {
		t.Errorf("the directory was asked: %s", got)
	}
}

func TestSubmissionExhausted(t *testing.T) {
	c := config(NewSubmission(Options{}), upstream.Submission)
	c.Options.MaxFailures = 2
	p := routertest.Start(t, c)
	p.Play(submissionHello + "C: AUTH PLAIN " + plainWrong + "\nS: 535 *\nC: AUTH PLAIN " + plainWrong + "\nS: 535 *\nS: 421 4.7.0 *\nEOF")
	check(t, p.Session(), map[string]any{"result": "login rejected"})
}

// A secret that does not fit into a line waits to be asked for.
func TestSubmissionLongSecret(t *testing.T) {
	b1 := routertest.NewBackend(t, nil, strings.TrimSuffix(enter, " "+plainProxyAnna+"\n")+`
		S: 334
		C: *
		S: 235 2.7.0 welcome
		C: QUIT
		S: 221 bye`)
	c := config(NewSubmission(Options{}), upstream.Submission, b1)
	c.Upstream = upstream.Options{ProxyName: "proxy", ProxySecret: strings.Repeat("s", 400)}
	p := routertest.Start(t, c)
	p.Play(submissionHello + "C: AUTH PLAIN " + plainAnna + "\nS: 235 *\nC: QUIT\nS: 221 bye\nEOF")
}
