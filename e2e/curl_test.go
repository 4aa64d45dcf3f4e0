package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"switchyard/internal/harness"
)

// security is how a program's connection to a proxy is encrypted.
type security struct {
	name   string
	suffix string // of the URL's scheme and the listener's name
	args   []string
}

func testCurl(t *testing.T, c *cluster) {
	program(t, "curl")
	for _, s := range []security{
		{"clear", "", nil},
		{"STARTTLS", "", []string{"--ssl-reqd", "--cacert", c.CA.File}},
		{"TLS", "s", []string{"--cacert", c.CA.File}},
	} {
		t.Run(s.name, func(t *testing.T) {
			a := c.account(t, "curl", "b2")
			curl := func(args ...string) string {
				t.Helper()
				base := append([]string{"curl", "--silent", "--show-error", "--max-time", "30", "--user", a.Name + ":" + a.Password}, s.args...)
				return job{args: append(base, args...)}.run(t)
			}
			curlIMAP(t, c.Proxies[0], s, curl)
			curlPOP3(t, c, a, s, curl)
			curlSMTP(t, c, a, s, curl)
		})
	}
}

// curlIMAP appends, lists, fetches, searches and deletes.
func curlIMAP(t *testing.T, p *harness.Proxy, s security, curl func(...string) string) {
	url := "imap" + s.suffix + "://" + p.Addr["imap"+s.suffix]
	m := newMessage("By curl", 2000)
	file := writeFile(t, filepath.Join(t.TempDir(), "m.eml"), m.text)
	curl("--upload-file", file, url+"/INBOX")
	if got := curl(url); !strings.Contains(got, "INBOX") || !strings.Contains(got, "* LIST") {
		t.Errorf("list: %q", got)
	}
	if got := curl(url + "/INBOX;MAILINDEX=1"); got != m.text {
		t.Errorf("fetch: %q", got)
	}
	if got := curl(url + "/INBOX;MAILINDEX=1;SECTION=HEADER.FIELDS%20(SUBJECT)"); !strings.Contains(got, "Subject: By curl") {
		t.Errorf("fetch a section: %q", got)
	}
	for query, want := range map[string]string{"SUBJECT%20curl": "* SEARCH 1\r\n", "SUBJECT%20wget": "* SEARCH\r\n"} {
		if got := curl(url + "/INBOX?" + query); got != want {
			t.Errorf("search %s: %q", query, got)
		}
	}
	curl(url+"/INBOX", "--request", `STORE 1 +FLAGS.SILENT (\Deleted)`)
	if got := curl(url+"/INBOX", "--request", "EXPUNGE"); !strings.Contains(got, "* 1 EXPUNGE") {
		t.Errorf("expunge: %q", got)
	}
	if got := curl(url+"/INBOX", "--request", "STATUS INBOX (MESSAGES)"); !strings.Contains(got, "(MESSAGES 0)") {
		t.Errorf("status behind the deletion: %q", got)
	}
}

// curlPOP3 lists, retrieves and deletes a message that was delivered.
func curlPOP3(t *testing.T, c *cluster, a harness.Account, s security, curl func(...string) string) {
	p := c.Proxies[1]
	url := "pop3" + s.suffix + "://" + p.Addr["pop3"+s.suffix] + "/"
	m := newMessage("For curl", 3000)
	send(t, p, m, a.Name)
	if got := curl(url); !strings.HasPrefix(got, "1 ") {
		t.Errorf("list: %q", got)
	}
	if got := curl(url + "1"); !strings.HasSuffix(got, m.text) {
		t.Errorf("retrieve: %q", got)
	}
	curl("--head", "--request", "DELE 1", url)
	if got := c.maildrop(t, p, a); len(got) > 0 {
		t.Errorf("%d messages are left behind the deletion", len(got))
	}
}

// curlSMTP sends as a stranger and as a user.
func curlSMTP(t *testing.T, c *cluster, a harness.Account, s security, curl func(...string) string) {
	p := c.Proxies[0]
	m := newMessage("From curl", 4000)
	file := writeFile(t, filepath.Join(t.TempDir(), "m.eml"), m.text)
	mail := []string{"--mail-from", a.Name, "--mail-rcpt", a.Name, "--upload-file", file}
	listener := "submission" + s.suffix
	curl(append(mail, "smtp"+s.suffix+"://"+p.Addr[listener])...)
	c.wantInbox(t, c.Proxies[1], a, m)
	if s.suffix == "s" {
		return // there is no port 25 with TLS from the start
	}
	other := newMessage("From curl, a stranger", 4000)
	writeFile(t, file, other.text)
	args := append([]string{"curl", "--silent", "--show-error", "--max-time", "30"}, s.args...)
	args = append(args, "--mail-from", "sender@example.org", "--mail-rcpt", a.Name, "--upload-file", file, "smtp://"+p.Addr["smtp"])
	job{args: args}.run(t)
	c.wantInbox(t, c.Proxies[1], a, m, other)
}
