package imap

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"switchyard/internal/tlsconf"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// dial connects go-imap's client, which parses everything the server says.
func dial(t *testing.T, f *fixture, mode tlsconf.Mode, o *imapclient.Options) *imapclient.Client {
	t.Helper()
	if o == nil {
		o = &imapclient.Options{}
	}
	o.TLSConfig = f.tls
	connect := map[tlsconf.Mode]func(string, *imapclient.Options) (*imapclient.Client, error){
		tlsconf.Off: imapclient.DialInsecure, tlsconf.StartTLS: imapclient.DialStartTLS, tlsconf.Implicit: imapclient.DialTLS,
	}[mode]
	c, err := connect(f.addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Login("ada@example.test", "secret").Wait(); err != nil {
		t.Fatal(err)
	}
	return c
}

func clientAppend(t *testing.T, c *imapclient.Client, mailbox, text string) imap.UID {
	t.Helper()
	cmd := c.Append(mailbox, int64(len(text)), &imap.AppendOptions{Flags: []imap.Flag{imap.FlagFlagged}, Time: time.Unix(1700000000, 0)})
	if _, err := io.WriteString(cmd, text); err != nil {
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

// TestClient puts every test message through the server with another's client
// and compares what comes back, byte for byte.
func TestClient(t *testing.T) {
	for _, mode := range []tlsconf.Mode{tlsconf.Off, tlsconf.StartTLS, tlsconf.Implicit} {
		t.Run(mode.String(), func(t *testing.T) {
			f := start(t, Options{Mode: mode, RequireTLS: mode != tlsconf.Off})
			c := dial(t, f, mode, nil)
			names := []string{"plain.eml", "alternative.eml", "attachment.eml", "forwarded.eml", "encoded-header.eml",
				"utf8-header.eml", "long-lines.eml", "groups.eml", "empty-body.eml", "big.eml", "no-message-id.eml", "digest.eml"}
			for _, name := range names {
				clientAppend(t, c, "INBOX", testMessage(t, name))
			}
			data, err := c.Select("INBOX", nil).Wait()
			if err != nil || data.NumMessages != uint32(len(names)) || data.UIDNext != imap.UID(len(names)+1) || data.HighestModSeq == 0 {
				t.Fatalf("select: %+v, %v", data, err)
			}
			whole := &imap.FetchItemBodySection{Peek: true}
			got, err := c.Fetch(imap.SeqSet{{Start: 1}}, &imap.FetchOptions{
				UID: true, Flags: true, Envelope: true, InternalDate: true, RFC822Size: true,
				BodyStructure: &imap.FetchItemBodyStructure{Extended: true}, BodySection: []*imap.FetchItemBodySection{whole},
			}).Collect()
			if err != nil || len(got) != len(names) {
				t.Fatalf("fetch: %d messages, %v", len(got), err)
			}
			for i, m := range got {
				want := testMessage(t, names[i])
				if !bytes.Equal(m.FindBodySection(whole), []byte(want)) {
					t.Errorf("%s came back different", names[i])
				}
				if m.RFC822Size != int64(len(want)) || m.UID != imap.UID(i+1) || !m.InternalDate.Equal(time.Unix(1700000000, 0)) ||
					!slices.Equal(m.Flags, []imap.Flag{imap.FlagFlagged}) || m.BodyStructure == nil || m.Envelope == nil {
					t.Errorf("%s: got %+v", names[i], m)
				}
			}
			checkClientParts(t, c)
			checkClientMailboxes(t, c)
			if err := c.Logout().Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// checkClientParts fetches parts one by one.
func checkClientParts(t *testing.T, c *imapclient.Client) {
	t.Helper()
	for _, want := range []struct {
		seq  uint32
		item imap.FetchItemBodySection
		text string
	}{
		{2, imap.FetchItemBodySection{Part: []int{2}}, "<p>A gr=C3=BC=C3=9Fe to <b>all</b></p>"},
		{4, imap.FetchItemBodySection{Part: []int{2, 1}}, "plain words"},
		{4, imap.FetchItemBodySection{Part: []int{3}, Specifier: imap.PartSpecifierHeader, HeaderFields: []string{"Subject"}}, "Subject: simple inside\r\n\r\n"},
		{12, imap.FetchItemBodySection{Part: []int{1, 1}}, "one"},
		{1, imap.FetchItemBodySection{Specifier: imap.PartSpecifierText, Partial: &imap.SectionPartial{Offset: 5, Size: 3}}, "Bob"},
	} {
		item := want.item
		item.Peek = true
		got, err := c.Fetch(imap.SeqSetNum(want.seq), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{&item}}).Collect()
		if err != nil || len(got) != 1 || string(got[0].FindBodySection(&item)) != want.text {
			t.Errorf("%d %+v: got %+v, %v", want.seq, item, got, err)
		}
	}
}

// checkClientMailboxes moves messages about.
func checkClientMailboxes(t *testing.T, c *imapclient.Client) {
	t.Helper()
	if err := c.Create("Käse/Brot", &imap.CreateOptions{}).Wait(); err != nil {
		t.Fatal(err)
	}
	list, err := c.List("", "*", &imap.ListOptions{ReturnStatus: &imap.StatusOptions{NumMessages: true}, ReturnSubscribed: true}).Collect()
	if err != nil || !slices.ContainsFunc(list, func(d *imap.ListData) bool { return d.Mailbox == "Käse/Brot" && d.Status != nil }) {
		t.Errorf("list: %+v, %v", list, err)
	}
	copied, err := c.Copy(imap.UIDSetNum(1, 2, 3), "Käse/Brot").Wait()
	if err != nil || copied.DestUIDs.String() != "1:3" || copied.SourceUIDs.String() != "1:3" {
		t.Errorf("copy: %+v, %v", copied, err)
	}
	if _, err := c.Move(imap.SeqSetNum(4), "Käse/Brot").Wait(); err != nil {
		t.Errorf("move: %v", err)
	}
	found, err := c.UIDSearch(&imap.SearchCriteria{Body: []string{"ALGEBRAIC"}, NotFlag: []imap.Flag{imap.FlagSeen}}, nil).Wait()
	if err != nil || !slices.Equal(found.AllUIDs(), []imap.UID{1}) {
		t.Errorf("search: %+v, %v", found, err)
	}
	stored, err := c.Store(imap.SeqSetNum(1, 2), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted, "$Any"}}, nil).Collect()
	if err != nil || len(stored) != 2 {
		t.Errorf("store: %+v, %v", stored, err)
	}
	gone, err := c.Expunge().Collect()
	if err != nil || !slices.Equal(gone, []uint32{2, 1}) {
		t.Errorf("expunge: %v, %v", gone, err)
	}
	status, err := c.Status("Käse/Brot", &imap.StatusOptions{NumMessages: true, Size: true, UIDNext: true}).Wait()
	if err != nil || *status.NumMessages != 4 || status.UIDNext != 5 {
		t.Errorf("status: %+v, %v", status, err)
	}
}

// TestClientRev2 does it again as an IMAP4rev2 client: UTF-8 names, ESEARCH.
func TestClientRev2(t *testing.T) {
	f := start(t, Options{})
	c := dial(t, f, tlsconf.Off, nil)
	if _, err := c.Enable(imap.CapIMAP4rev2).Wait(); err != nil {
		t.Fatal(err)
	}
	clientAppend(t, c, "INBOX", testMessage(t, "plain.eml"))
	clientAppend(t, c, "INBOX", testMessage(t, "utf8-header.eml"))
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	checkRev2Names(t, c)
	found, err := c.Search(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: "KÖLN"}}}, &imap.SearchOptions{ReturnCount: true, ReturnAll: true}).Wait()
	if err != nil || found.Count != 1 || !slices.Equal(found.AllSeqNums(), []uint32{2}) {
		t.Errorf("search: %+v, %v", found, err)
	}
	ns, err := c.Namespace().Wait()
	if err != nil || len(ns.Personal) != 1 || ns.Personal[0].Delim != '/' {
		t.Errorf("namespace: %+v, %v", ns, err)
	}
}

func checkRev2Names(t *testing.T, c *imapclient.Client) {
	t.Helper()
	if err := c.Create("日本語 & Co", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	list, err := c.List("", "日*", nil).Collect()
	if err != nil || len(list) != 1 || list[0].Mailbox != "日本語 & Co" {
		t.Errorf("list: %+v, %v", list, err)
	}
}

// TestClientIdle waits for another session's message.
func TestClientIdle(t *testing.T) {
	f := start(t, Options{})
	exists := make(chan uint32, 10)
	c := dial(t, f, tlsconf.Off, &imapclient.Options{UnilateralDataHandler: &imapclient.UnilateralDataHandler{
		Mailbox: func(data *imapclient.UnilateralDataMailbox) {
			if data.NumMessages != nil {
				exists <- *data.NumMessages
			}
		},
	}})
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	idle, err := c.Idle()
	if err != nil {
		t.Fatal(err)
	}
	f.append(t, "ada", "INBOX", testMessage(t, "plain.eml"))
	select {
	case n := <-exists:
		if n != 1 {
			t.Errorf("got %d messages", n)
		}
	case <-time.After(5 * time.Second):
		t.Error("no word of the message")
	}
	if err := idle.Close(); err != nil {
		t.Fatal(err)
	}
	if err := idle.Wait(); err != nil {
		t.Error(err)
	}
}

// TestLimits puts refused messages through the client: the session goes on.
func TestLimits(t *testing.T) {
	f := start(t, Options{MaxAppend: 1000})
	c := dial(t, f, tlsconf.Off, nil)
	big := strings.Repeat("x", 1001)
	cmd := c.Append("INBOX", int64(len(big)), nil)
	io.WriteString(cmd, big)
	cmd.Close()
	if _, err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "TOOBIG") {
		t.Errorf("got %v", err)
	}
	if err := c.Noop().Wait(); err != nil {
		t.Error(err)
	}
}

// TestClientSearches lets another's client sort, thread and search.
func TestClientSearches(t *testing.T) {
	f := start(t, Options{})
	c := dial(t, f, tlsconf.Off, nil)
	for _, name := range []string{"plain.eml", "alternative.eml", "attachment.eml", "encoded-header.eml", "digest.eml"} {
		clientAppend(t, c, "INBOX", testMessage(t, name))
	}
	clientAppend(t, c, "INBOX", "Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nFrom: zed@example.test\r\nSubject: Re: The engine\r\nMessage-ID: <re@example.test>\r\nReferences: <plain-1@example.test>\r\n\r\nyes\r\n")
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	everything := &imap.SearchCriteria{}
	for key, want := range map[imapclient.SortKey][]uint32{
		imapclient.SortKeyDate: {6, 1, 2, 3, 4, 5}, imapclient.SortKeyArrival: {1, 2, 3, 4, 5, 6},
	} {
		got, err := c.Sort(&imapclient.SortOptions{SearchCriteria: everything, SortCriteria: []imapclient.SortCriterion{{Key: key}}}).Wait()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", key, got, err, want)
		}
	}
	got, err := c.UIDSort(&imapclient.SortOptions{SearchCriteria: everything, SortCriteria: []imapclient.SortCriterion{{Key: imapclient.SortKeySize, Reverse: true}}}).Wait()
	if err != nil || len(got) != 6 {
		t.Errorf("size: got %v, %v", got, err)
	}
	threads, err := c.UIDThread(&imapclient.ThreadOptions{Algorithm: imap.ThreadReferences, SearchCriteria: everything}).Wait()
	// The attachment refers to the first message, too.
	if want := "[{[1] [{[6] []} {[3] []}]} {[2] []} {[4] []} {[5] []}]"; err != nil || fmt.Sprint(threads) != want {
		t.Errorf("threads: got %v, %v, want %s", threads, err, want)
	}
	found, err := c.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: "engine"}}}, nil).Wait()
	if err != nil || !slices.Equal(found.AllUIDs(), []imap.UID{1, 6}) {
		t.Errorf("search: got %v, %v", found, err)
	}
}
