package e2e

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

func testSwaks(t *testing.T, c *cluster) {
	program(t, "swaks")
	perlModule(t, "Net::SSLeay", "libnet-ssleay-perl")
	anna, bert := c.account(t, "anna", "b1"), c.account(t, "bert", "b2")
	dir := t.TempDir()
	swaks := func(listener string, m message, args ...string) string {
		t.Helper()
		host, port, err := net.SplitHostPort(c.Proxies[0].Addr[listener])
		if err != nil {
			t.Fatal(err)
		}
		file := writeFile(t, filepath.Join(dir, "m.eml"), strings.TrimSuffix(m.text, "\r\n")) // swaks adds one
		base := []string{"swaks", "--server", host, "--port", port, "--data", "@" + file, "--suppress-data",
			"--timeout", "30s", "--to", anna.Name + "," + bert.Name}
		return job{args: append(base, args...)}.run(t)
	}
	verify := []string{"--tls-verify", "--tls-ca-path", c.CA.File}
	user := func(a string) []string {
		return []string{"--auth", a, "--auth-user", anna.Name, "--auth-password", anna.Password, "--from", anna.Name}
	}
	var sent []message
	for _, s := range []struct {
		name, listener string
		args           []string
		shows          string // what its transcript must show
	}{
		{"in clear", "smtp", []string{"--from", "sender@example.org"}, "<-  250"},
		{"STARTTLS", "smtp", append([]string{"--from", "sender@example.org", "--tls"}, verify...), "=== TLS started"},
		{"pipelining", "smtp", []string{"--from", "sender@example.org", "--pipeline"}, " -> RCPT TO:<" + bert.Name + ">\n -> DATA"},
		{"AUTH PLAIN with STARTTLS", "submission", append(append(user("PLAIN"), "--tls"), verify...), "235 2.7.0"},
		{"AUTH LOGIN with STARTTLS", "submission", append(append(user("LOGIN"), "--tls"), verify...), "235 2.7.0"},
		{"AUTH PLAIN with TLS", "submissions", append(append(user("PLAIN"), "--tls-on-connect"), verify...), "235 2.7.0"},
		{"AUTH LOGIN with TLS", "submissions", append(append(user("LOGIN"), "--tls-on-connect", "--pipeline"), verify...), "235 2.7.0"},
	} {
		m := newMessage("By swaks, "+s.name, 3000)
		if out := swaks(s.listener, m, s.args...); !strings.Contains(out, s.shows) {
			t.Errorf("%s: no %q in\n%s", s.name, s.shows, out)
		}
		sent = append(sent, m)
	}
	c.wantInbox(t, c.Proxies[1], anna, sent...)
	c.wantInbox(t, c.Proxies[1], bert, sent...)
}
