package e2e

import (
	"net"
	"path/filepath"
	"testing"

	"switchyard/internal/harness"
)

// testPython runs the scripts of testdata: Python's own imaplib, poplib and
// smtplib, in clear, with STARTTLS and with TLS.
func testPython(t *testing.T, c *cluster) {
	program(t, "python3")
	for _, script := range []struct {
		name      string
		listeners map[string]string // by the way of encryption
	}{
		{"imap.py", map[string]string{"clear": "imap", "starttls": "imap", "tls": "imaps"}},
		{"pop.py", map[string]string{"clear": "pop3", "starttls": "pop3", "tls": "pop3s"}},
		{"smtp.py", map[string]string{"clear": "submission", "starttls": "submission", "tls": "submissions"}},
	} {
		for how, listener := range script.listeners {
			t.Run(script.name+" "+how, func(t *testing.T) {
				a, other := c.account(t, "python", "b2"), harness.Account{}
				if script.name == "smtp.py" {
					other = c.account(t, "other", "b1")
				}
				var sent []message
				if script.name == "pop.py" {
					for range 3 {
						m := newMessage("For Python", 3000)
						send(t, c.Proxies[0], m, a.Name)
						sent = append(sent, m)
					}
				}
				host, port, err := net.SplitHostPort(c.Proxies[0].Addr[listener])
				if err != nil {
					t.Fatal(err)
				}
				job{args: []string{"python3", filepath.Join("testdata", script.name), how, host, port, c.CA.File, a.Name, other.Name},
					env: []string{"PASSWORD=" + a.Password}}.run(t)
				switch script.name {
				case "pop.py":
					c.wantInbox(t, c.Proxies[1], a, sent[0], sent[2]) // it deletes the second
				case "smtp.py":
					for _, to := range []harness.Account{a, other} {
						eventually(t, "the mail sent by smtplib", func() error { return c.wantSubjects(t, to, "From Python 0", "From Python 1") })
					}
				}
			})
		}
	}
}
