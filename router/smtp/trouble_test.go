package smtp

import (
	"strings"
	"testing"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// TestInboundTrouble: a backend that answers rubbish, or nothing, costs its
// recipients a temporary failure within a known time, and others nothing.
func TestInboundTrouble(t *testing.T) {
	const hello = "S: 220 b1 LMTP\nC: LHLO *\nS: 250-b1\nS: 250 PIPELINING\n"
	const mail = hello + "C: MAIL *\nC: RCPT *\n"
	for name, c := range map[string]struct {
		script string
		starts bool // STARTTLS is demanded
		want   string
	}{
		"refuses":                           {script: "S: 554 5.7.1 go away\nEOF", want: "451 4.4.1 *"},
		"another protocol":                  {script: "S: * OK IMAP4rev1\nEOF", want: "451 4.4.1 *"},
		"closes":                            {script: "CLOSE", want: "451 4.4.1 *"},
		"silent":                            {script: "HANG", want: "451 4.4.1 *"},
		"endless line":                      {script: "S- 220 " + strings.Repeat("x", 9000) + "\nEOF", want: "451 4.4.1 *"},
		"endless reply":                     {script: "S- 220 b1\\r\\n" + strings.Repeat("250-x\\r\\n", 300) + "\nC: LHLO *\nEOF", want: "451 4.4.1 *"},
		"speaks no LMTP":                    {script: "S: 220 b1\nC: LHLO *\nS: 500 5.5.1 what?\nEOF", want: "451 4.4.1 *"},
		"no STARTTLS":                       {script: hello + "EOF", starts: true, want: "451 4.3.5 *"},
		"STARTTLS refused":                  {script: "S: 220 b1\nC: LHLO *\nS: 250-b1\nS: 250 STARTTLS\nC: STARTTLS\nS: 454 4.7.0 no\nEOF", starts: true, want: "451 4.4.1 *"},
		"bytes behind STARTTLS":             {script: "S: 220 b1\nC: LHLO *\nS: 250-b1\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\nS: 250 injected\nEOF", starts: true, want: "451 4.4.1 *"},
		"login refused":                     {script: "S: 220 b1\nC: LHLO *\nS: 250-b1\nS: 250 AUTH PLAIN\nC: AUTH *\nS: 535 5.7.8 who?\nEOF", want: "451 4.3.5 *"},
		"login offered behind the identity": {script: "S: 220 b1\nC: LHLO *\nS: 250-b1\nS: 250 XCLIENT ADDR\nC: XCLIENT ADDR=*\nS: 220 b1\nC: LHLO *\nS: 250-b1\nS: 250 AUTH PLAIN\nC: AUTH *\nS: 535 5.7.8 who?\nEOF", want: "451 4.3.5 *"},
		"login demanded":                    {script: mail + "S: 530 5.7.0 login first\nS: 530 5.7.0 login first\nC: QUIT", want: "451 4.3.5 *"},
		"identity refused":                  {script: "S: 220 b1\nC: LHLO *\nS: 250-b1\nS: 250 XCLIENT ADDR\nC: XCLIENT ADDR=*\nS: 550 no\nC: MAIL *\nS: 250 ok\nC: RCPT *\nS: 250 ok\nC: QUIT", want: "250 2.1.5 *"},
		"MAIL refused for now":              {script: mail + "S: 452 4.3.1 disk full\nS: 503 what\nC: QUIT", want: "452 4.3.1 disk full"},
		"says goodbye":                      {script: mail + "S: 421 4.3.2 restarting\nEOF", want: "451 4.4.1 *"},
		"silent at RCPT":                    {script: mail + "S: 250 ok\nHANG", want: "451 4.4.1 *"},
		"rubbish at RCPT":                   {script: mail + "S: 250 ok\nS: +OK\nEOF", want: "451 4.4.1 *"},
		"an answer that is no answer":       {script: mail + "S: 250 ok\nS: 354 go\nC: QUIT", want: "451 4.4.1 *"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, client := routertest.TLS(t)
			b1, b2 := routertest.NewBackend(t, server, c.script), newStore(t, "b2")
			o := inboundOptions
			o.ReplyTimeout = 300 * time.Millisecond
			config := config(newInbound(t, o), upstream.LMTP)
			mode := tlsconf.Off
			if c.starts {
				mode = tlsconf.StartTLS
			}
			config.Backends = []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{b1.Node("b1a", upstream.LMTP, mode, client)}}, b2.backend()}
			config.Upstream = upstream.Options{ProxyName: "proxy", ProxySecret: routertest.Secret, DialogueTimeout: 300 * time.Millisecond}
			p := routertest.Start(t, config)
			p.Play(helo + `
				C: MAIL FROM:<x@far.test>
				S: 250 *
				C: RCPT TO:<anna@example.test>
				S: ` + c.want + `
				C: RSET
				C: MAIL FROM:<x@far.test>
				C: RCPT TO:<berta@example.test>
				C: DATA
				S: 250 *
				S: 250 *
				S: 250 *
				S: 354 *
				C: x
				C: .
				S: 250 *
				C: QUIT
				S: 221 *`)
			p.Session()
			for _, e := range p.Logs.All() {
				for k, v := range e.ContextMap() {
					if s, ok := v.(string); ok && (strings.Contains(s, routertest.Secret) || strings.Contains(s, plainProxy)) {
						t.Errorf("%s: %s has a secret: %s", e.Message, k, s)
					}
				}
			}
		})
	}
}

// TestInboundLostAtDATA: what is lost before or behind 354 is "come back".
func TestInboundLostAtDATA(t *testing.T) {
	const accept = `
		S: 220 b1 LMTP
		C: LHLO *
		S: 250-b1
		S: 250 XTRACELEN
		C: MAIL *
		S: 250 ok
		C: RCPT *
		S: 250 ok
		C: DATA
	`
	const message = "S: 354 go\nC: Received: *\nC: *\nC: *\nC: x\nC: .\n"
	for name, script := range map[string]string{
		"closes":                "CLOSE",
		"not now":               "S: 451 4.3.0 no\nC: QUIT",
		"goodbye":               "S: 421 4.3.2 no\nEOF",
		"yes instead of 354":    "S: 250 what?\nEOF",
		"rubbish":               "S: hello\nEOF",
		"does not understand":   "S: 500 5.5.1 what?\nC: QUIT",
		"closes behind 354":     "S: 354 go\nCLOSE",
		"closes behind the dot": message + "CLOSE",
		"rubbish in the end":    message + "S: stored\nEOF",
		"goodbye in the end":    message + "S: 421 4.3.2 restarting\nEOF",
		"complains in the end":  message + "S: 503 5.5.1 what?\nC: QUIT",
		"354 again":             message + "S: 354 more\nEOF",
		"silent in the end":     message + "HANG",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b1 := routertest.NewBackend(t, nil, accept+script)
			o := inboundOptions
			o.FinalTimeout = 300 * time.Millisecond
			p := routertest.Start(t, config(newInbound(t, o), upstream.LMTP, b1))
			p.Play(helo + `
				C: MAIL FROM:<x@far.test>
				C: RCPT TO:<anna@example.test>
				C: DATA
				S: 250 *
				S: 250 *
				S: 354 *
				C: x
				C: .
				S: 451 4.3.0 *
				C: QUIT
				S: 221 *`)
			p.Session()
		})
	}
}
