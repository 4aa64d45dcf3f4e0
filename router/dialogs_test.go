package router_test

import (
	"testing"

	"switchyard/internal/tlsconf"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// mailboxes are the backends of the dialogues: anyone is logged in, and says
// NOOP and goodbye.
var mailboxes = map[string]string{
	"imap": `
		S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] b1
		C: L AUTHENTICATE PLAIN *
		S: L OK [CAPABILITY IMAP4rev1 IDLE] Logged in
		C: z1 NOOP
		S: z1 OK Done
		C: z2 LOGOUT
		S: * BYE Logging out
		S: z2 OK Done`,
	"pop3": `
		S: +OK b1
		C: AUTH PLAIN *
		S: +OK 0 messages
		C: NOOP
		S: +OK
		C: QUIT
		S: +OK`,
	"submission": `
		S: 220 b1
		C: EHLO px1.example.test
		S: 250-b1
		S: 250 AUTH PLAIN
		C: AUTH PLAIN *
		S: 235 2.7.0 welcome
		C: NOOP
		S: 250 2.0.0 ok
		C: QUIT
		S: 221 2.0.0 bye`,
}

// TestDialogs plays testdata/dialogs on a pipe: a proxy without a network before
// a scripted backend.
func TestDialogs(t *testing.T) {
	for _, d := range routertest.Dialogs(t, "../testdata/dialogs", "pipe") {
		t.Run(d.Name, func(t *testing.T) {
			how := dialects[d.Protocol]
			b1 := routertest.NewBackend(t, nil, mailboxes[d.Protocol])
			dir := routertest.NewDirectory()
			dir.Add(anna(), "sesame")
			pipes := routertest.NewPipes()
			p := routertest.Start(t, routertest.Config{
				Protocol: how.protocol(), Directory: dir, Net: pipes,
				Listener: router.Listener{AllowCleartextLogin: true},
				Backends: []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{b1.Node("b1a", how.service, tlsconf.Off, nil)}}},
			})
			conn, err := pipes.Dial()
			if err != nil {
				t.Fatal(err)
			}
			d.Play(t, conn, "anna@example.test", "sesame")
			if line := p.Session(); line["result"] != "logged out" && line["result"] != "no login" {
				t.Errorf("session: %v", line)
			}
		})
	}
}
