package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"switchyard/internal/harness"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// mbsyncConfig pairs all mailboxes of an account with a Maildir, both ways.
// mbsync does not know addresses in certificates, so it trusts the proxy's own
// certificate, not the one of its CA.
const mbsyncConfig = `IMAPAccount cluster
Host %[1]s
Port %[2]s
User %[3]s
Pass %[4]s
AuthMechs PLAIN
SSLType %[5]s
SystemCertificates no
CertificateFile %[6]s

IMAPStore far
Account cluster

MaildirStore near
Path %[7]s/mail/
Inbox %[7]s/mail/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Remove Both
Expunge Both
SyncState *
`

// mbsync is a Maildir that is kept in step with an account.
type mbsync struct {
	t    *testing.T
	c    *cluster
	a    harness.Account
	dir  string
	file string
}

// testMbsync syncs an account of 200 messages both ways: all of it, then
// changes on both sides, and then nothing is left to do.
func testMbsync(t *testing.T, c *cluster) {
	program(t, "mbsync")
	for sslType, listener := range map[string]string{"STARTTLS": "imap", "IMAPS": "imaps"} {
		t.Run(sslType, func(t *testing.T) {
			m := newMbsync(t, c, sslType, listener)
			m.fill()
			if moved := m.sync(); len(moved) == 0 {
				t.Error("no command of the first sync moved anything")
			}
			m.same(200)
			m.still()
			m.change()
			if moved := m.sync(); len(moved) < 3 {
				t.Errorf("the second sync moved by %q only", moved)
			}
			m.same(200 - 20 - 20 + 20 + 20)
			m.still()
		})
	}
}

func newMbsync(t *testing.T, c *cluster, sslType, listener string) *mbsync {
	m := &mbsync{t: t, c: c, a: c.account(t, "mbsync", "b2"), dir: t.TempDir()}
	host, port, err := net.SplitHostPort(c.Proxies[0].Addr[listener])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(m.dir, "mail"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.file = writeFile(t, filepath.Join(m.dir, "mbsyncrc"),
		fmt.Sprintf(mbsyncConfig, host, port, m.a.Name, m.a.Password, sslType, filepath.Join(c.Spec.Dir, c.Proxies[0].Name+".pem"), m.dir))
	return m
}

// boxes are the mailboxes of the test; each gets 50 messages.
var mbsyncBoxes = []string{"INBOX", "Filed", "Lists/go", "Grüße"}

// fill puts messages on the far side, with flags on some.
func (m *mbsync) fill() {
	client := m.c.login(m.t, m.c.Proxies[1], m.a, nil)
	defer client.Close()
	for _, box := range mbsyncBoxes {
		if box != "INBOX" {
			if err := client.Create(box, nil).Wait(); err != nil {
				m.t.Fatal(err)
			}
		}
		for i := range 50 {
			var flags []imap.Flag
			if i%2 == 0 {
				flags = append(flags, imap.FlagSeen)
			}
			if i%5 == 0 {
				flags = append(flags, imap.FlagFlagged, imap.FlagAnswered)
			}
			appendMail(m.t, client, box, newMessage(fmt.Sprintf("%s %d", "far", i), 200+i*100), flags...)
		}
	}
}

// sync runs mbsync and returns the IMAP commands that moved or changed
// something.
func (m *mbsync) sync() []string {
	m.t.Helper()
	out := job{args: []string{"mbsync", "--debug-net", "--config", m.file, "all"}, env: []string{"HOME=" + m.dir}}.run(m.t)
	return mbsyncMoves.FindAllString(out, -1)
}

// mbsyncMoves finds what the client says to move or change something.
var mbsyncMoves = regexp.MustCompile(`(?m)>>> \d+ .*(?:APPEND|STORE|EXPUNGE|CREATE|DELETE|BODY\.PEEK\[\]).*$`)

// still runs mbsync once more: it must find nothing to do on either side.
func (m *mbsync) still() {
	m.t.Helper()
	near, far := m.near(), m.farState()
	if moved := m.sync(); len(moved) > 0 {
		m.t.Fatalf("it did something:\n%s", strings.Join(moved, "\n"))
	}
	if after := m.near(); !slices.Equal(near, after) {
		m.t.Fatalf("the Maildir changed from\n%s\nto\n%s", strings.Join(near, "\n"), strings.Join(after, "\n"))
	}
	if after := m.farState(); !maps.Equal(far, after) {
		m.t.Fatalf("the account changed from\n%v\nto\n%v", far, after)
	}
}

// near lists the files of the Maildir.
func (m *mbsync) near() []string {
	var out []string
	err := filepath.WalkDir(filepath.Join(m.dir, "mail"), func(path string, d fs.DirEntry, err error) error {
		if dir := filepath.Base(filepath.Dir(path)); err == nil && !d.IsDir() && (dir == "cur" || dir == "new") {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// state is a message on either side: mailbox, identity and flags.
type state struct{ box, id, flags string }

func (m *mbsync) nearState() map[state]int {
	out := make(map[state]int)
	for _, path := range m.near() {
		text, err := os.ReadFile(path)
		if err != nil {
			m.t.Fatal(err)
		}
		rel, err := filepath.Rel(filepath.Join(m.dir, "mail"), filepath.Dir(filepath.Dir(path)))
		if err != nil {
			m.t.Fatal(err)
		}
		_, flags, _ := strings.Cut(filepath.Base(path), ":2,")
		out[state{decodeUTF7(rel), messageID(string(text)), flags}]++
	}
	return out
}

func (m *mbsync) farState() map[state]int {
	out := make(map[state]int)
	client := m.c.login(m.t, m.c.Proxies[1], m.a, nil)
	defer client.Close()
	for _, box := range mbsyncBoxes {
		for _, f := range fetchAll(m.t, client, box) {
			out[state{box, messageID(string(f.FindBodySection(wholeBody))), maildirFlags(f.Flags)}]++
		}
	}
	return out
}

// same checks that both sides hold the same n messages with the same flags.
func (m *mbsync) same(n int) {
	m.t.Helper()
	near, far := m.nearState(), m.farState()
	if len(near) != n || len(far) != n {
		m.t.Fatalf("%d messages near, %d far, want %d", len(near), len(far), n)
	}
	for s, k := range near {
		if k != 1 || far[s] != 1 {
			m.t.Fatalf("%v is there %d times near and %d far", s, k, far[s])
		}
	}
}

// change makes, in each mailbox and on each side, 5 new messages, 5 deletions
// and 5 changes of flags.
func (m *mbsync) change() {
	client := m.c.login(m.t, m.c.Proxies[1], m.a, nil)
	defer client.Close()
	for _, box := range mbsyncBoxes {
		if _, err := client.Select(box, nil).Wait(); err != nil {
			m.t.Fatal(err)
		}
		store := func(first, last uint32, f *imap.StoreFlags) {
			var set imap.SeqSet
			set.AddRange(first, last)
			if err := client.Store(set, f, nil).Close(); err != nil {
				m.t.Fatal(err)
			}
		}
		store(1, 5, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagSeen, imap.FlagDraft}})
		store(6, 10, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}})
		if _, err := client.Expunge().Collect(); err != nil {
			m.t.Fatal(err)
		}
		for i := range 5 {
			appendMail(m.t, client, box, newMessage(fmt.Sprintf("far, later %d", i), 3000))
		}
		m.changeNear(box)
	}
}

// changeNear works on the end of a mailbox, where the far side did not.
func (m *mbsync) changeNear(box string) {
	dir := filepath.Join(m.dir, "mail", encodeUTF7(box))
	files, err := filepath.Glob(filepath.Join(dir, "*", "*:2,*"))
	if err != nil {
		m.t.Fatal(err)
	}
	left := map[string]int{"delete": 5, "flag": 5}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			m.t.Fatal(err)
		}
		var i int
		if _, err := fmt.Sscanf(subjects([][]byte{text})[0], "far %d", &i); err != nil {
			m.t.Fatal(err)
		}
		switch {
		case i >= 40 && i < 45:
			left["delete"]--
			err = os.Remove(path)
		case i >= 45:
			left["flag"]--
			base, flags, _ := strings.Cut(path, ":2,")
			base = filepath.Join(dir, "cur", filepath.Base(base))
			err = os.Rename(path, base+":2,"+sortFlags(strings.ReplaceAll(flags, "F", "")+"R"))
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
	if left["delete"] != 0 || left["flag"] != 0 {
		m.t.Fatalf("changes not made in %s: %v", box, left)
	}
	for i := range 5 {
		text := strings.ReplaceAll(newMessage(fmt.Sprintf("near %d", i), 1000).text, "\r\n", "\n")
		writeFile(m.t, filepath.Join(dir, "new", fmt.Sprintf("1700000000.%d_1.test", i)), text)
	}
}

func sortFlags(s string) string {
	b := []byte(s)
	slices.Sort(b)
	return string(slices.Compact(b))
}

// maildirFlags writes IMAP flags as a Maildir does.
func maildirFlags(flags []imap.Flag) string {
	letters := map[imap.Flag]string{imap.FlagSeen: "S", imap.FlagAnswered: "R", imap.FlagFlagged: "F", imap.FlagDraft: "D", imap.FlagDeleted: "T"}
	var out string
	for _, f := range flags {
		out += letters[f]
	}
	return sortFlags(out)
}

// messageID returns a message's Message-ID.
func messageID(text string) string {
	_, rest, _ := strings.Cut(text, "Message-ID: <")
	id, _, _ := strings.Cut(rest, ">")
	return id
}

// The mailbox with an umlaut is kept as the server names it.
func encodeUTF7(box string) string { return strings.ReplaceAll(box, "Grüße", "Gr&APwA3w-e") }
func decodeUTF7(box string) string { return strings.ReplaceAll(box, "Gr&APwA3w-e", "Grüße") }

// fetchAll fetches flags, UIDs and bodies of a mailbox.
func fetchAll(t testing.TB, client *imapclient.Client, box string) []*imapclient.FetchMessageBuffer {
	t.Helper()
	selected, err := client.Select(box, &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil {
		t.Fatal(err)
	}
	if selected.NumMessages == 0 {
		return nil
	}
	var all imap.SeqSet
	all.AddRange(1, selected.NumMessages)
	fetched, err := client.Fetch(all, &imap.FetchOptions{UID: true, Flags: true, BodySection: []*imap.FetchItemBodySection{wholeBody}}).Collect()
	if err != nil {
		t.Fatal(err)
	}
	return fetched
}
