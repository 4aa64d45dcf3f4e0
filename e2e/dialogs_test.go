package e2e

import (
	"crypto/tls"
	"net"
	"testing"

	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

const dialogs = "../testdata/dialogs"

// testDialogs plays testdata/dialogs against the daemons: through a proxy, up to
// what a backendd says behind the login.
func testDialogs(t *testing.T, c *cluster) {
	anna := c.account(t, "anna", "b1")
	listeners := map[string]string{"imap": "imaps", "pop3": "pop3s", "submission": "submissions"}
	for _, d := range routertest.Dialogs(t, dialogs, "daemon") {
		t.Run(d.Name, func(t *testing.T) {
			conn := tls.Client(dialFrom(t, "", c.Proxies[0].Addr[listeners[d.Protocol]]), c.tls)
			d.Play(t, conn, anna.Name, anna.Password)
		})
	}
}

// TestDialogsWithDovecot plays testdata/dialogs against real Dovecot alone: what
// our proxy answers in them is what a client is used to.
func TestDialogsWithDovecot(t *testing.T) {
	slow(t)
	f := startDovecotLogins(t)
	for _, d := range routertest.Dialogs(t, dialogs, "dovecot") {
		t.Run(d.Name, func(t *testing.T) {
			conn, err := net.Dial("tcp", f.services[upstream.Service(d.Protocol)])
			if err != nil {
				t.Fatal(err)
			}
			d.Play(t, conn, foreignUser, foreignPassword)
		})
	}
}
