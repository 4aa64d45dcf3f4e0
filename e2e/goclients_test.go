package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
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

func testGoIMAP(t *testing.T, c *cluster) {
	t.Run("IDLE", func(t *testing.T) { testIdle(t, c) })
	t.Run("UIDPLUS and MOVE", func(t *testing.T) { testMove(t, c) })
	t.Run("two sessions", func(t *testing.T) { testTwoSessions(t, c) })
	t.Run("IMAP, every listener", func(t *testing.T) { testIMAPListeners(t, c) })
}

// counted delivers the message counts that a server announces.
func counted() (<-chan uint32, *imapclient.Options) {
	counts := make(chan uint32, 100)
	return counts, &imapclient.Options{UnilateralDataHandler: &imapclient.UnilateralDataHandler{
		Mailbox: func(data *imapclient.UnilateralDataMailbox) {
			if data.NumMessages != nil {
				counts <- *data.NumMessages
			}
		},
	}}
}

// await waits for a count.
func await(t *testing.T, counts <-chan uint32, want uint32) {
	t.Helper()
	patience := time.NewTimer(stepTimeout)
	defer patience.Stop()
	for {
		select {
		case n := <-counts:
			if n == want {
				return
			}
		case <-patience.C:
			t.Fatalf("the server did not announce %d messages within %v", want, stepTimeout)
		}
	}
}

// testIdle: a session in IDLE sees a delivery through the other proxy.
func testIdle(t *testing.T, c *cluster) {
	a := c.account(t, "idle", "b1")
	counts, o := counted()
	client := c.login(t, c.Proxies[0], a, o)
	if _, err := client.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	idle, err := client.Idle()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		send(t, c.Proxies[1], newMessage("Ring", 500), a.Name)
		await(t, counts, uint32(i+1))
	}
	if err := idle.Close(); err != nil {
		t.Fatal(err)
	}
	if err := idle.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := client.Logout().Wait(); err != nil {
		t.Error(err)
	}
}

// testMove: the UIDs of APPEND, COPY and MOVE are the true ones.
func testMove(t *testing.T, c *cluster) {
	a := c.account(t, "move", "b2")
	client := c.login(t, c.Proxies[0], a, nil)
	for _, capability := range []imap.Cap{imap.CapUIDPlus, imap.CapMove, imap.CapIdle, imap.CapNamespace, imap.CapSpecialUse, imap.CapID} {
		if !client.Caps().Has(capability) {
			t.Errorf("no %s among the capabilities behind the login", capability)
		}
	}
	if err := client.Create("Filed", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	first, second := newMessage("First", 2000), newMessage("Second", 3000)
	uids := []imap.UID{appendMail(t, client, "INBOX", first, imap.FlagSeen), appendMail(t, client, "INBOX", second)}
	if uids[0] == 0 || uids[1] <= uids[0] {
		t.Fatalf("APPENDUID: %v", uids)
	}
	if _, err := client.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	moved, err := client.Move(imap.UIDSetNum(uids[0]), "Filed").Wait()
	if err != nil {
		t.Fatal(err)
	}
	copied, err := client.Copy(imap.UIDSetNum(uids[1]), "Filed").Wait()
	if err != nil {
		t.Fatal(err)
	}
	if got := fetchAll(t, client, "INBOX"); len(got) != 1 || got[0].UID != uids[1] {
		t.Errorf("%d messages are left behind the move", len(got))
	}
	got := fetchAll(t, client, "Filed")
	if len(got) != 2 || string(got[0].FindBodySection(wholeBody)) != first.text || string(got[1].FindBodySection(wholeBody)) != second.text {
		t.Fatalf("%d messages in the archive, want the first and the second", len(got))
	}
	if !slices.Contains(got[0].Flags, imap.FlagSeen) {
		t.Error("the move lost a flag")
	}
	if moved.DestUIDs == nil || moved.DestUIDs.String() != fmt.Sprint(got[0].UID) || copied.DestUIDs.String() != fmt.Sprint(got[1].UID) {
		t.Errorf("COPYUID said %v and %v, the UIDs are %d and %d", moved.DestUIDs, copied.DestUIDs, got[0].UID, got[1].UID)
	}
}

// testTwoSessions: what one session does the other sees, through different
// proxies.
func testTwoSessions(t *testing.T, c *cluster) {
	a := c.account(t, "two", "b1")
	counts, o := counted()
	one, other := c.login(t, c.Proxies[0], a, o), c.login(t, c.Proxies[1], a, nil)
	for _, client := range []*imapclient.Client{one, other} {
		if _, err := client.Select("INBOX", nil).Wait(); err != nil {
			t.Fatal(err)
		}
	}
	uid := appendMail(t, other, "INBOX", newMessage("Seen by both", 1000))
	if err := one.Noop().Wait(); err != nil {
		t.Fatal(err)
	}
	await(t, counts, 1)
	set := imap.UIDSetNum(uid)
	if err := one.Store(set, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagFlagged, "$Work"}}, nil).Close(); err != nil {
		t.Fatal(err)
	}
	// A session sees others' changes with the end of its next command.
	if err := other.Noop().Wait(); err != nil {
		t.Fatal(err)
	}
	got, err := other.Fetch(set, &imap.FetchOptions{Flags: true}).Collect()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || !slices.Contains(got[0].Flags, imap.FlagFlagged) || !slices.Contains(got[0].Flags, "$Work") {
		t.Errorf("the other session sees %d messages, flags %v", len(got), flagsOf(got))
	}
	if err := other.Store(set, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close(); err != nil {
		t.Fatal(err)
	}
	if err := other.UIDExpunge(set).Close(); err != nil {
		t.Fatal(err)
	}
	// The message is gone for the first session with its next command.
	if err := one.Noop().Wait(); err != nil {
		t.Fatal(err)
	}
	if box := one.Mailbox(); box == nil || box.NumMessages != 0 {
		t.Errorf("behind the expunge the first session sees %+v", box)
	}
}

func flagsOf(fetched []*imapclient.FetchMessageBuffer) (out [][]imap.Flag) {
	for _, f := range fetched {
		out = append(out, f.Flags)
	}
	return out
}

// testIMAPListeners logs in by each mechanism on each listener.
func testIMAPListeners(t *testing.T, c *cluster) {
	a := c.account(t, "listeners", "b2")
	p := c.Proxies[0]
	dial := map[string]func() (*imapclient.Client, error){
		"clear": func() (*imapclient.Client, error) { return imapclient.New(dialFrom(t, "", p.Addr["imap"]), nil), nil },
		"STARTTLS": func() (*imapclient.Client, error) {
			return imapclient.NewStartTLS(dialFrom(t, "", p.Addr["imap"]), &imapclient.Options{TLSConfig: c.tls})
		},
		"TLS": func() (*imapclient.Client, error) {
			return imapclient.New(tls.Client(dialFrom(t, "", p.Addr["imaps"]), c.tls), nil), nil
		},
	}
	login := map[string]func(*imapclient.Client) error{
		"LOGIN":      func(i *imapclient.Client) error { return i.Login(a.Name, a.Password).Wait() },
		"PLAIN":      func(i *imapclient.Client) error { return i.Authenticate(sasl.NewPlainClient("", a.Name, a.Password)) },
		"SASL LOGIN": func(i *imapclient.Client) error { return i.Authenticate(sasl.NewLoginClient(a.Name, a.Password)) },
	}
	for how, dial := range dial {
		for mechanism, login := range login {
			t.Run(how+" "+mechanism, func(t *testing.T) {
				client, err := dial()
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				if err := login(client); err != nil {
					t.Fatal(err)
				}
				if _, err := client.List("", "*", nil).Collect(); err != nil {
					t.Error(err)
				}
				if err := client.Logout().Wait(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// testGoSMTP: several transactions on one connection, and what a refused
// recipient does to the others.
func testGoSMTP(t *testing.T, c *cluster) {
	anna, bert := c.account(t, "anna", "b1"), c.account(t, "bert", "b2")
	client, err := smtp.NewClientStartTLS(dialFrom(t, "", c.Proxies[0].Addr["smtp"]), c.tls)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, extension := range []string{"PIPELINING", "8BITMIME", "SIZE", "ENHANCEDSTATUSCODES", "SMTPUTF8"} {
		if ok, _ := client.Extension(extension); !ok {
			t.Errorf("EHLO does not offer %s", extension)
		}
	}
	first, second, third := newMessage("First", 100), newMessage("Second", 200<<10), newMessage("Third", 4000)
	if err := client.SendMail("sender@example.org", []string{anna.Name, bert.Name}, strings.NewReader(first.text)); err != nil {
		t.Fatal(err)
	}
	if err := client.SendMail("", []string{bert.Name}, strings.NewReader(second.text)); err != nil {
		t.Fatal(err)
	}
	sendDespite(t, client, harness.Account{Name: "nobody-at-all@" + c.Spec.Domain}, anna, third)
	if err := client.Quit(); err != nil {
		t.Error(err)
	}
	c.wantInbox(t, c.Proxies[1], anna, first, third)
	c.wantInbox(t, c.Proxies[1], bert, first, second)
}

// sendDespite sends a message with a recipient that does not exist beside one
// that does.
func sendDespite(t *testing.T, client *smtp.Client, absent, a harness.Account, m message) {
	t.Helper()
	if err := client.Mail("sender@example.org", &smtp.MailOptions{Size: int64(len(m.text))}); err != nil {
		t.Fatal(err)
	}
	var said *smtp.SMTPError
	if err := client.Rcpt(absent.Name, nil); !errors.As(err, &said) || said.Code != 550 || said.EnhancedCode != (smtp.EnhancedCode{5, 1, 1}) {
		t.Errorf("nobody: got %v", err)
	}
	if err := client.Rcpt(a.Name, nil); err != nil {
		t.Fatal(err)
	}
	w, err := client.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, m.text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
