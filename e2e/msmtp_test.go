package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

const msmtpConfig = `account default
host %s
port %s
auth %s
user %s
password %s
from %[4]s
tls on
tls_starttls %[6]s
tls_trust_file %[7]s
`

func testMsmtp(t *testing.T, c *cluster) {
	program(t, "msmtp")
	anna, bert := c.account(t, "anna", "b1"), c.account(t, "bert", "b2")
	var sent []message
	for _, s := range []struct{ listener, starttls, auth string }{
		{"submission", "on", "plain"}, {"submission", "on", "login"}, {"submissions", "off", "plain"}, {"submissions", "off", "login"},
	} {
		host, port, err := net.SplitHostPort(c.Proxies[0].Addr[s.listener])
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		rc := writeFile(t, filepath.Join(dir, "msmtprc"), fmt.Sprintf(msmtpConfig, host, port, s.auth, anna.Name, anna.Password, s.starttls, c.CA.File))
		m := newMessage(fmt.Sprintf("By msmtp, %s %s", s.listener, s.auth), 5000)
		job{args: []string{"msmtp", "--file", rc, "--", anna.Name, bert.Name}, stdin: strings.ReplaceAll(m.text, "\r\n", "\n"), env: []string{"HOME=" + dir}}.run(t)
		sent = append(sent, m)
	}
	c.wantInbox(t, c.Proxies[1], anna, sent...)
	c.wantInbox(t, c.Proxies[1], bert, sent...)
}
