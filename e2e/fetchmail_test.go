package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fetchmailConfig fetches everything into a file, one message behind the
// other. fetchmail does not know addresses in certificates, so it is told the
// name.
const fetchmailConfig = `poll %[1]s protocol %[2]s port %[3]s auth password:
  user "%[4]s" password "%[5]s"
  fetchall no rewrite %[6]s
  sslcertck sslcertfile "%[7]s" sslcommonname "localhost"
  mda "tee -a %[8]s/got"
`

func testFetchmail(t *testing.T, c *cluster) {
	program(t, "fetchmail")
	p := c.Proxies[1]
	for _, f := range []struct{ protocol, listener, ssl string }{
		{"POP3", "pop3", "sslproto \"TLS1.2+\""}, // by STLS
		{"POP3", "pop3s", "ssl"},
		{"IMAP", "imap", "sslproto \"TLS1.2+\""}, // by STARTTLS
		{"IMAP", "imaps", "ssl"},
	} {
		t.Run(f.listener, func(t *testing.T) {
			a := c.account(t, "fetchmail", "b1")
			var sent []message
			for i := range 5 {
				m := newMessage(fmt.Sprintf("For fetchmail %d", i), 2000*i)
				send(t, c.Proxies[0], m, a.Name)
				sent = append(sent, m)
			}
			dir := t.TempDir()
			host, port, err := net.SplitHostPort(p.Addr[f.listener])
			if err != nil {
				t.Fatal(err)
			}
			rc := writeFile(t, filepath.Join(dir, "fetchmailrc"), fmt.Sprintf(fetchmailConfig, host, f.protocol, port, a.Name, a.Password, f.ssl, c.CA.File, dir))
			fetch := job{args: []string{"fetchmail", "-v", "--fetchmailrc", rc, "--nodetach", "--nosyslog", "--pidfile", filepath.Join(dir, "pid")},
				env: []string{"HOME=" + dir, "FETCHMAILHOME=" + dir, "USER=root", "LC_ALL=C"}}
			fetch.run(t)
			got, err := os.ReadFile(filepath.Join(dir, "got"))
			if err != nil {
				t.Fatal(err)
			}
			for i, m := range sent {
				if n := strings.Count(string(got), strings.ReplaceAll(m.text, "\r\n", "\n")); n != 1 {
					t.Errorf("message %d was fetched %d times", i, n)
				}
			}
			c.wantInbox(t, p, a) // it deletes what it has fetched
		})
	}
}
