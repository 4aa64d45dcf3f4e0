package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"switchyard/internal/harness"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// message is a message to send.
type message struct {
	id   string // Message-ID, without brackets; "" for none
	text string // with CRLF line ends
}

// newMessage makes a message of about size bytes.
func newMessage(subject string, size int) message {
	id := rand.Text() + "@example.org"
	var b strings.Builder
	fmt.Fprintf(&b, "Message-ID: <%s>\r\n%s", id, withoutID(subject, size).text)
	return message{id, b.String()}
}

// withoutID makes a message that has no Message-ID.
func withoutID(subject string, size int) message {
	var b strings.Builder
	fmt.Fprintf(&b, "From: Sender <sender@example.org>\r\nTo: somebody@example.test\r\nSubject: %s\r\nDate: Tue, 03 Mar 2026 10:00:00 +0000\r\n\r\n", subject)
	for b.Len() < size {
		b.WriteString("The quick brown fox jumps over the lazy dog, once more.\r\n")
	}
	b.WriteString("End.\r\n")
	return message{text: b.String()}
}

// trySend sends a message to a proxy's inbound listener, in clear, and returns
// the error of the first step that failed.
func trySend(address string, m message, to ...string) error {
	conn, err := tryDial("", address)
	if err != nil {
		return err
	}
	client := smtp.NewClient(conn)
	defer client.Close()
	if err := client.SendMail("sender@example.org", to, strings.NewReader(m.text)); err != nil {
		return err
	}
	client.Quit()
	return nil
}

// send delivers a message through a proxy.
func send(t testing.TB, p *harness.Proxy, m message, to ...string) {
	t.Helper()
	if err := trySend(p.Addr["smtp"], m, to...); err != nil {
		t.Fatalf("send through %s to %v: %v", p.Name, to, err)
	}
}

// code returns an error's SMTP code, 0 for other errors.
func code(err error) int {
	var said *smtp.SMTPError
	if errors.As(err, &said) {
		return said.Code
	}
	return 0
}

// trySubmit sends a message as a user.
func (c *cluster) trySubmit(p *harness.Proxy, a harness.Account, m message, to ...string) error {
	conn, err := tryDial("", p.Addr["submissions"])
	if err != nil {
		return err
	}
	client := smtp.NewClient(tls.Client(conn, c.tls))
	defer client.Close()
	if err := client.Auth(sasl.NewPlainClient("", a.Name, a.Password)); err != nil {
		return err
	}
	if err := client.SendMail(a.Name, to, strings.NewReader(m.text)); err != nil {
		return err
	}
	client.Quit()
	return nil
}

// submit sends a message as a user.
func (c *cluster) submit(t testing.TB, p *harness.Proxy, a harness.Account, m message, to ...string) {
	t.Helper()
	if err := c.trySubmit(p, a, m, to...); err != nil {
		t.Fatalf("submit through %s to %v: %v", p.Name, to, err)
	}
}

// login opens an IMAP session through a proxy, with TLS from the start. It is
// closed with the test, when not before.
func (c *cluster) login(t testing.TB, p *harness.Proxy, a harness.Account, o *imapclient.Options) *imapclient.Client {
	t.Helper()
	client := imapclient.New(tls.Client(dialFrom(t, "", p.Addr["imaps"]), c.tls), o)
	t.Cleanup(func() { client.Close() })
	if err := client.Login(a.Name, a.Password).Wait(); err != nil {
		t.Fatalf("log in as %s through %s: %v", a.Name, p.Name, err)
	}
	return client
}

// wholeBody is BODY.PEEK[].
var wholeBody = &imap.FetchItemBodySection{Peek: true}

// mailbox reads all messages of a mailbox by IMAP.
func (c *cluster) mailbox(t testing.TB, p *harness.Proxy, a harness.Account, name string) [][]byte {
	t.Helper()
	client := c.login(t, p, a, nil)
	defer client.Close()
	box, err := client.Select(name, &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	if box.NumMessages > 0 {
		var all imap.SeqSet
		all.AddRange(1, box.NumMessages)
		fetched, err := client.Fetch(all, &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{wholeBody}}).Collect()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fetched {
			out = append(out, f.FindBodySection(wholeBody))
		}
	}
	if err := client.Logout().Wait(); err != nil {
		t.Error(err)
	}
	return out
}

func (c *cluster) inbox(t testing.TB, p *harness.Proxy, a harness.Account) [][]byte {
	t.Helper()
	return c.mailbox(t, p, a, "INBOX")
}

// count is how often a message is among those read, byte for byte behind the
// trace fields that the servers put in front.
func count(got [][]byte, m message) int {
	n := 0
	for _, b := range got {
		if bytes.HasSuffix(b, []byte(m.text)) {
			n++
		}
	}
	return n
}

// wantInbox waits until exactly these messages are in an account's INBOX.
func (c *cluster) wantInbox(t testing.TB, p *harness.Proxy, a harness.Account, want ...message) {
	t.Helper()
	eventually(t, "the mail of "+a.Name, func() error {
		got := c.inbox(t, p, a)
		if len(got) != len(want) {
			return fmt.Errorf("%d messages are there, want %d", len(got), len(want))
		}
		for i, m := range want {
			if n := count(got, m); n != 1 {
				return fmt.Errorf("message %d is there %d times", i, n)
			}
		}
		return nil
	})
}

// maildrop reads all messages by POP3 through a proxy.
func (c *cluster) maildrop(t testing.TB, p *harness.Proxy, a harness.Account) [][]byte {
	t.Helper()
	k := c.secure(t, p.Addr["pop3s"])
	defer k.conn.Close()
	if s := c.answer(k, "pop3", a); !strings.HasPrefix(s, "+OK") {
		t.Fatalf("log in as %s: %s", a.Name, s)
	}
	k.say("STAT")
	var n, size int
	if _, err := fmt.Sscanf(k.line(), "+OK %d %d", &n, &size); err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	r := textproto.NewReader(k.r)
	for i := range n {
		k.say("RETR %d", i+1)
		k.want("+OK")
		body, err := io.ReadAll(r.DotReader())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, bytes.ReplaceAll(body, []byte("\n"), []byte("\r\n")))
	}
	k.say("QUIT")
	k.want("+OK")
	return out
}

// appendMail puts a message into a mailbox by IMAP.
func appendMail(t testing.TB, client *imapclient.Client, box string, m message, flags ...imap.Flag) imap.UID {
	t.Helper()
	cmd := client.Append(box, int64(len(m.text)), &imap.AppendOptions{Flags: flags, Time: time.Date(2026, 3, 3, 10, 0, 0, 0, time.UTC)})
	if _, err := io.WriteString(cmd, m.text); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return data.UID
}

// subjects returns the subjects of messages, sorted.
func subjects(messages [][]byte) []string {
	var out []string
	for _, m := range messages {
		_, rest, _ := bytes.Cut(m, []byte("Subject: "))
		subject, _, _ := bytes.Cut(rest, []byte("\r\n"))
		out = append(out, string(subject))
	}
	slices.Sort(out)
	return out
}

// wantSubjects checks the subjects in an account's INBOX.
func (c *cluster) wantSubjects(t testing.TB, a harness.Account, want ...string) error {
	t.Helper()
	if got := subjects(c.inbox(t, c.Proxies[1], a)); !slices.Equal(got, want) {
		return fmt.Errorf("the subjects are %q, want %q", got, want)
	}
	return nil
}
