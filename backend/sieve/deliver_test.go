package sieve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"switchyard/backend"
	"switchyard/backend/store"
)

// outbox is an Outbound.
type outbox struct {
	sent []string // from, to and the first lines
	fail error
}

func (o *outbox) Send(_ context.Context, from, to string, body io.ReaderAt, size int64) error {
	if o.fail != nil {
		return o.fail
	}
	b, err := io.ReadAll(io.NewSectionReader(body, 0, size))
	if err != nil {
		return err
	}
	o.sent = append(o.sent, fmt.Sprintf("<%s> <%s>\n%s", from, to, strings.ReplaceAll(string(b), "\r\n", "\n")))
	return nil
}

// node is an account's mail with a filter before it.
type node struct {
	t      *testing.T
	user   backend.User
	out    *outbox
	now    time.Time
	filter *Filter
	count  byte
}

func newNode(t *testing.T, script string) *node {
	t.Helper()
	s, err := store.Open("store", store.Options{FS: vfs.NewMem(), MemTable: 1 << 20, Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	n := &node{t: t, out: &outbox{}, now: noon}
	if n.user, err = s.CreateUser(t.Context(), "ann@example.test", 1); err != nil {
		t.Fatal(err)
	}
	n.filter = NewFilter(n.out, FilterOptions{Name: "Switchyard", Host: "b1.example.test", Now: func() time.Time { return n.now }})
	if script != "" {
		n.script(script)
	}
	return n
}

func (n *node) script(text string) {
	n.t.Helper()
	s := ScriptsOf(n.user)
	if err := errors.Join(s.Put(n.t.Context(), "main", text), s.SetActive(n.t.Context(), "main")); err != nil {
		n.t.Fatal(err)
	}
}

const letter = "From: Bob <bob@b.example>\r\nTo: ann@example.test\r\nSubject: hello\r\nMessage-ID: <7@b.example>\r\nReferences: <5@b.example>\r\n\r\nHi.\r\n"

func (n *node) incoming(text string) Incoming {
	n.count++
	return Incoming{
		Delivery: backend.Delivery{
			Incoming: backend.Incoming{Body: strings.NewReader(text), Size: int64(len(text))}, ID: [32]byte{n.count},
		},
		Envelope: Envelope{From: "bob@b.example", To: "ann@example.test"},
	}
}

func (n *node) deliver(in Incoming) error {
	n.t.Helper()
	_, err := n.filter.Deliver(n.t.Context(), n.user, in)
	return err
}

// holds compares the mailboxes that have messages.
func (n *node) holds(what, want string) {
	n.t.Helper()
	list, err := n.user.Mailboxes(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	var got []string
	for _, m := range list {
		if m.Messages > 0 {
			got = append(got, fmt.Sprintf("%s:%d", m.Name, m.Messages))
		}
	}
	if s := strings.Join(got, " "); s != want {
		n.t.Errorf("%s: mailboxes have %q, want %q", what, s, want)
	}
}

// TestDeliver: what scripts decide is done, and a delivery that is repeated
// does nothing twice.
func TestDeliver(t *testing.T) {
	n := newNode(t, "")
	if err := n.deliver(n.incoming(letter)); err != nil {
		t.Fatal(err)
	}
	n.holds("no script", "INBOX:1")

	n.script(`require ["fileinto","mailbox","imap4flags","copy","vacation"];
		fileinto :create :flags ["\\Seen","work"] "New/Box"; fileinto "Archive"; fileinto "Nowhere"; keep; redirect :copy "carl@c.example"; vacation "away";`)
	in := n.incoming(letter)
	for range 2 {
		if err := n.deliver(in); err != nil {
			t.Fatal(err)
		}
	}
	n.holds("everything", "INBOX:3 Archive:1 New/Box:1")
	if len(n.out.sent) != 2 {
		t.Fatalf("%d messages went out: %q", len(n.out.sent), n.out.sent)
	}
	if want := "<bob@b.example> <carl@c.example>\nX-Sieve-Redirected-From: ann@example.test\nFrom: Bob"; !strings.HasPrefix(n.out.sent[0], want) {
		t.Errorf("sent on: %q", n.out.sent[0])
	}
	for _, want := range []string{
		"<> <bob@b.example>\nFrom: <ann@example.test>\nTo: <bob@b.example>\nSubject: Auto: hello\n", "\nIn-Reply-To: <7@b.example>\nReferences: <5@b.example> <7@b.example>\n",
		"\nAuto-Submitted: auto-replied (vacation)\n", "\n\naway\n",
	} {
		if !strings.Contains(n.out.sent[1], want) {
			t.Errorf("the answer lacks %q:\n%s", want, n.out.sent[1])
		}
	}
	box, err := n.user.Mailbox(t.Context(), "New/Box")
	if err != nil {
		t.Fatal(err)
	}
	v, err := n.user.View(t.Context(), box.ID)
	if err != nil || fmt.Sprint(v.Messages.At(0).Flags) != `[\Seen work]` {
		t.Errorf("flags %v, %v", v.Messages.At(0).Flags, err)
	}
}

// TestVacationMemory: a sender is answered once in the time that the script
// says, and again when what is said differs.
func TestVacationMemory(t *testing.T) {
	n := newNode(t, `require "vacation"; vacation :days 2 "away";`)
	for step, c := range []struct {
		wait time.Duration
		from string
		want int
	}{{0, "bob@b.example", 1}, {0, "BOB@b.example", 1}, {0, "eve@b.example", 2}, {47 * time.Hour, "bob@b.example", 2}, {2 * time.Hour, "bob@b.example", 3}} {
		n.now = n.now.Add(c.wait)
		in := n.incoming(letter)
		in.From = c.from
		if err := n.deliver(in); err != nil {
			t.Fatal(err)
		}
		if len(n.out.sent) != c.want {
			t.Fatalf("step %d: %d answers, want %d", step, len(n.out.sent), c.want)
		}
	}
	n.script(`require "vacation"; vacation :days 2 "still away";`)
	if err := n.deliver(n.incoming(letter)); err != nil || len(n.out.sent) != 4 {
		t.Errorf("another text: %d answers, %v", len(n.out.sent), err)
	}
	n.holds("all kept", "INBOX:6")
}

// TestDuplicate remembers over deliveries, and forgets.
func TestDuplicate(t *testing.T) {
	n := newNode(t, `require ["duplicate","fileinto"]; if duplicate :seconds 60 { fileinto "Trash"; }`)
	for _, wait := range []time.Duration{0, time.Second, time.Minute} {
		n.now = n.now.Add(wait)
		if err := n.deliver(n.incoming(letter)); err != nil {
			t.Fatal(err)
		}
	}
	n.holds("duplicates", "INBOX:2 Trash:1")
}

// TestDeliverFails: a queue that is full fails the delivery; the attempt that
// follows stores nothing twice and sends what was missing.
func TestDeliverFails(t *testing.T) {
	n := newNode(t, `require "copy"; keep; redirect "carl@c.example";`)
	in := n.incoming(letter)
	n.out.fail = backend.ErrBusy
	if err := n.deliver(in); !errors.Is(err, backend.ErrBusy) {
		t.Fatalf("got %v", err)
	}
	n.out.fail = nil
	for range 2 {
		if err := n.deliver(in); err != nil {
			t.Fatal(err)
		}
	}
	n.holds("after all", "INBOX:1")
	if len(n.out.sent) != 1 {
		t.Errorf("%d sent", len(n.out.sent))
	}
}

// TestRedirectLoop: what comes back is kept.
func TestRedirectLoop(t *testing.T) {
	n := newNode(t, `redirect "carl@c.example";`)
	if err := n.deliver(n.incoming("X-Sieve-Redirected-From: Ann@example.test\r\n" + letter)); err != nil {
		t.Fatal(err)
	}
	n.holds("a loop", "INBOX:1")
	if len(n.out.sent) != 0 {
		t.Error("sent on again")
	}
}

// TestRejected: the reason goes to whoever sends.
func TestRejected(t *testing.T) {
	n := newNode(t, `require "ereject"; ereject "not here";`)
	var reject *RejectError
	if err := n.deliver(n.incoming(letter)); !errors.As(err, &reject) || reject.Reason != "not here" {
		t.Errorf("got %v", err)
	}
	n.holds("rejected", "")
}

// TestEdited: mailboxes get the header that the script left.
func TestEdited(t *testing.T) {
	n := newNode(t, `require ["editheader","fileinto","copy"]; fileinto :copy "Archive"; addheader "X-Seen" "yes"; deleteheader "Subject";`)
	if err := n.deliver(n.incoming(letter)); err != nil {
		t.Fatal(err)
	}
	text := func(name string) string {
		m, err := n.user.Mailbox(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := n.user.Body(t.Context(), m.ID, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		all, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
		if err != nil {
			t.Fatal(err)
		}
		return string(all)
	}
	if got := text("Archive"); got != letter {
		t.Errorf("before the edit: %q", got)
	}
	if want := "X-Seen: yes\r\n" + strings.Replace(letter, "Subject: hello\r\n", "", 1); text("INBOX") != want {
		t.Errorf("edited: %q", text("INBOX"))
	}
}

// TestScriptsOf: put, list, rename, delete, and what is refused.
func TestScriptsOf(t *testing.T) {
	n := newNode(t, "")
	s, ctx := ScriptsOf(n.user), t.Context()
	list := func(want string) {
		t.Helper()
		got, err := s.List(ctx)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("list %v, %v; want %s", got, err, want)
		}
	}
	is := func(what string, got, want error) {
		t.Helper()
		if !errors.Is(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	is("put", s.Put(ctx, "a", "keep;"), nil)
	is("put", s.Put(ctx, "b ü", "stop;"), nil)
	list("[{a false} {b ü false}]")
	is("activate", s.SetActive(ctx, "a"), nil)
	list("[{a true} {b ü false}]")
	is("delete the active one", s.Delete(ctx, "a"), ErrActive)
	is("rename to one that is there", s.Rename(ctx, "a", "b ü"), ErrScriptExists)
	is("rename", s.Rename(ctx, "a", "c"), nil)
	list("[{b ü false} {c true}]")
	if text, ok, err := s.Active(ctx); text != "keep;" || !ok || err != nil {
		t.Errorf("active: %q %v %v", text, ok, err)
	}
	is("none active", s.SetActive(ctx, ""), nil)
	is("delete", s.Delete(ctx, "c"), nil)
	list("[{b ü false}]")
	is("get what is gone", func() error { _, err := s.Get(ctx, "c"); return err }(), ErrNoScript)
	is("activate what is gone", s.SetActive(ctx, "c"), ErrNoScript)
	is("rename what is gone", s.Rename(ctx, "c", "d"), ErrNoScript)
	is("delete what is gone", s.Delete(ctx, "c"), ErrNoScript)
	is("no name", s.Put(ctx, "", "keep;"), ErrScriptName)
	is("a line in a name", s.Put(ctx, "a\nb", "keep;"), ErrScriptName)
	is("too big", s.Put(ctx, "big", strings.Repeat("#", MaxScriptSize+1)), ErrScriptTooBig)
	var wrong *Error
	if err := s.Put(ctx, "b ü", "keep"); !errors.As(err, &wrong) {
		t.Errorf("a wrong script: %v", err)
	}
	if text, err := s.Get(ctx, "b ü"); text != "stop;" || err != nil {
		t.Errorf("a wrong script replaced the old one: %q, %v", text, err)
	}
	for i := range MaxScripts - 1 {
		is("fill", s.Put(ctx, fmt.Sprint(i), "keep;"), nil)
	}
	is("one too many", s.Put(ctx, "more", "keep;"), ErrTooManyScript)
	is("but one that is there", s.Put(ctx, "0", "stop;"), nil)
}
