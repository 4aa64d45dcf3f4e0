package imap

import (
	"crypto/tls"
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
	plainAnna      = "AGFubmFAZXhhbXBsZS50ZXN0AHNlc2FtZQ=="                             // anna@example.test, sesame
	plainAnnaSelf  = "YW5uYUBleGFtcGxlLnRlc3QAYW5uYUBleGFtcGxlLnRlc3QAc2VzYW1l"         // and as herself
	plainBertaAnna = "YmVydGFAZXhhbXBsZS50ZXN0AGFubmFAZXhhbXBsZS50ZXN0AHNlc2FtZQ=="     // anna's login for berta's mail
	plainProxy     = "YW5uYUBleGFtcGxlLnRlc3QAcHJveHkAcHJveHktc2VjcmV0"                 // proxy's login for anna
	plainProxyB    = "YmVydGFAZXhhbXBsZS50ZXN0AHByb3h5AHByb3h5LXNlY3JldA=="             // and for berta
	idLine         = `I ID ("x-session-id" "*" "x-originating-ip" "127.0.0.1" "x-orig*` // as much as all have in common
)

// accept is a backend that takes anna's login and then plays the rest.
const accept = `
	S: * OK [CAPABILITY IMAP4rev1 SASL-IR ID AUTH=PLAIN] b1 ready
	C: ` + idLine + `
	C: L AUTHENTICATE PLAIN ` + plainProxy + `
	S: \* ID ("name" "Switchyard")
	S: I OK Done
	S: L OK [CAPABILITY IMAP4rev1 IDLE] Logged in
`

func directory() *routertest.Directory {
	d := routertest.NewDirectory()
	d.Add(lookup.Account{Name: "anna@example.test", Home: "b1", Generation: 7}, "sesame")
	d.Add(lookup.Account{Name: "berta@example.test"}, "sesame")
	d.Add(lookup.Account{Name: "carla@example.test", Home: "b1", Status: lookup.StatusSuspended}, "sesame")
	d.Add(lookup.Account{Name: "dora@example.test", Home: "b1", Status: "x] \r\n* BYE"}, "sesame")
	d.Add(lookup.Account{Name: "erna@example.test", Home: "b9"}, "sesame")
	return d
}

// clear allows everything in clear, to b1.
func clear(b1 *routertest.Backend) routertest.Config {
	c := routertest.Config{
		Protocol: New(), Directory: directory(),
		Listener: router.Listener{AllowCleartextLogin: true},
		Options:  router.Options{DefaultDomain: "example.test", DefaultBackend: "b1"},
	}
	if b1 != nil {
		c.Backends = backends(b1)
	}
	return c
}

func backends(b1 *routertest.Backend) []upstream.Backend {
	return []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{b1.Node("b1a", upstream.IMAP, tlsconf.Off, nil)}}}
}

// secure offers STARTTLS and wants it.
func secure(t *testing.T) routertest.Config {
	server, client := routertest.TLS(t)
	c := clear(nil)
	c.Listener = router.Listener{TLS: tlsconf.StartTLS, Config: server}
	c.TLS = client
	return c
}

// implicit wraps the client's connection in TLS at once.
func implicit(t *testing.T, c routertest.Config) (routertest.Config, *tls.Config) {
	server, client := routertest.TLS(t)
	c.Listener = router.Listener{TLS: tlsconf.Implicit, Config: server}
	c.TLS = client
	return c, client
}

func check(t *testing.T, got map[string]any, want map[string]any) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("the session's line: %s is %v, want %v (%v)", k, got[k], v, got["reason"])
		}
	}
}
