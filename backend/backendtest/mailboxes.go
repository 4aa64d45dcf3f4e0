package backendtest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"switchyard/backend"
)

func testAccounts(t *testing.T, s backend.Store) {
	ctx := t.Context()
	if _, err := s.User(ctx, "ann@example.test"); !errors.Is(err, backend.ErrNoUser) {
		t.Errorf("an account that does not exist: %v", err)
	}
	if _, err := s.Generation(ctx, "ann@example.test"); !errors.Is(err, backend.ErrNoUser) {
		t.Errorf("its generation: %v", err)
	}
	u, err := s.CreateUser(ctx, "ann@example.test", 7)
	must(t, err)
	if u.Account() != "ann@example.test" {
		t.Errorf("account %q", u.Account())
	}
	want := []string{"INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"}
	if got := names(t, u); !slices.Equal(got, want) {
		t.Errorf("a new account has %q", got)
	}
	subs, err := u.Subscriptions(ctx)
	must(t, err)
	slices.Sort(want)
	if !slices.Equal(subs, want) {
		t.Errorf("a new account is subscribed to %q", subs)
	}
	for name, use := range map[string]string{
		"INBOX": "", "Drafts": `\Drafts`, "Sent": `\Sent`, "Junk": `\Junk`, "Trash": `\Trash`, "Archive": `\Archive`,
	} {
		if m := mailbox(t, u, name); m.Use != use {
			t.Errorf("use of %s is %q", name, m.Use)
		}
	}
	fill(t, u, "INBOX", 1)

	for _, step := range []struct{ give, want uint64 }{{3, 7}, {7, 7}, {9, 9}} {
		again, err := s.CreateUser(ctx, "ann@example.test", step.give)
		must(t, err)
		if m := mailbox(t, again, "INBOX"); m.Messages != 1 {
			t.Errorf("creating it again left %d messages", m.Messages)
		}
		if g, err := s.Generation(ctx, "ann@example.test"); err != nil || g != step.want {
			t.Errorf("generation %d after %d: %v", g, step.give, err)
		}
	}
	account(t, s, "bob@example.test")
	account(t, s, "zoe")
	var all []string
	must(t, s.Users(ctx, func(a string) bool { all = append(all, a); return true }))
	slices.Sort(all)
	if !slices.Equal(all, []string{"ann@example.test", "bob@example.test", "zoe"}) {
		t.Errorf("accounts %q", all)
	}
	n := 0
	must(t, s.Users(ctx, func(string) bool { n++; return false }))
	if n != 1 {
		t.Errorf("stopped after %d accounts", n)
	}
}

func testMailboxes(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	seen := map[uint32]bool{}
	ids := map[backend.GUID]bool{}
	m, err := u.Create(ctx, "work/a/b", `\Flagged`)
	must(t, err)
	if m.Name != "work/a/b" || m.Use != `\Flagged` || m.Messages != 0 || m.UIDNext != 1 || m.UIDValidity == 0 || m.HighestModSeq == 0 {
		t.Errorf("a new mailbox: %+v", m)
	}
	want := []string{"INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash", "work", "work/a", "work/a/b"}
	if got := names(t, u); !slices.Equal(got, want) {
		t.Errorf("mailboxes %q, want %q", got, want)
	}
	list, err := u.Mailboxes(ctx)
	must(t, err)
	for _, m := range list {
		if seen[m.UIDValidity] || ids[m.ID] {
			t.Errorf("%s shares uidvalidity or id", m.Name)
		}
		seen[m.UIDValidity], ids[m.ID] = true, true
		if got := mailbox(t, u, m.Name); got != m {
			t.Errorf("%s: %+v and %+v", m.Name, got, m)
		}
	}
	for _, name := range []string{"work/a/b", "work", "inbox", "INBOX"} {
		if _, err := u.Create(ctx, name, ""); !errors.Is(err, backend.ErrMailboxExists) {
			t.Errorf("create %s again: %v", name, err)
		}
	}
	if m := mailbox(t, u, "iNBoX"); m.Name != "INBOX" {
		t.Errorf("INBOX is called %q", m.Name)
	}
	_, err = u.Create(ctx, "inbox/sub", "")
	must(t, err)
	if m := mailbox(t, u, "InBox/sub"); m.Name != "INBOX/sub" {
		t.Errorf("below INBOX: %q", m.Name)
	}
	if _, err := u.Mailbox(ctx, "nothing"); !errors.Is(err, backend.ErrNoMailbox) {
		t.Errorf("no mailbox: %v", err)
	}

	// A name that is used again is another mailbox with a greater
	// UIDVALIDITY (RFC 9051 §2.3.1.1).
	old := mailbox(t, u, "work/a/b")
	must(t, u.Delete(ctx, "work/a/b"))
	again, err := u.Create(ctx, "work/a/b", "")
	must(t, err)
	if again.ID == old.ID || again.UIDValidity <= old.UIDValidity {
		t.Errorf("made again: %+v after %+v", again, old)
	}
}

func testNames(t *testing.T, s backend.Store) {
	u := account(t, s, "ann")
	for _, name := range []string{
		"", "/", "a/", "/a", "a//b", "a*", "a%b", "a\x00b", "a\nb", "a\x7f", "\xff", "a\u0085",
		strings.Repeat("x", 1001), strings.Repeat("a/", 32) + "a",
	} {
		if _, err := u.Create(t.Context(), name, ""); !errors.Is(err, backend.ErrMailboxName) {
			t.Errorf("create %.20q: %v", name, err)
		}
		if err := u.Rename(t.Context(), "Junk", name); !errors.Is(err, backend.ErrMailboxName) {
			t.Errorf("rename to %.20q: %v", name, err)
		}
		if _, err := u.Mailbox(t.Context(), name); !errors.Is(err, backend.ErrNoMailbox) {
			t.Errorf("look up %.20q: %v", name, err)
		}
	}
	for _, name := range []string{
		"Entwürfe", "台北/日本語", "a b", "R&D", `quoted"`, `back\slash`, strings.Repeat("x", 1000),
		strings.Repeat("a/", 31) + "a", ".", "..", "~", "#news", "a.b", "(x)", "{3}",
	} {
		if _, err := u.Create(t.Context(), name, ""); err != nil {
			t.Errorf("create %.20q: %v", name, err)
		} else if m := mailbox(t, u, name); m.Name != name {
			t.Errorf("%q came back as %q", name, m.Name)
		}
	}
}

func testDelete(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	_, err := u.Create(ctx, "a/b", "")
	must(t, err)
	m := fill(t, u, "a/b", 3)
	w := u.Watch(m.ID)
	defer w.Close()
	if err := u.Delete(ctx, "a"); !errors.Is(err, backend.ErrHasChildren) {
		t.Errorf("with children: %v", err)
	}
	if err := u.Delete(ctx, "nothing"); !errors.Is(err, backend.ErrNoMailbox) {
		t.Errorf("missing: %v", err)
	}
	if err := u.Delete(ctx, "inbox"); !errors.Is(err, backend.ErrInbox) {
		t.Errorf("INBOX: %v", err)
	}
	must(t, u.Delete(ctx, "a/b"))
	select {
	case <-w.C:
	default:
		t.Error("the watcher was not told of the deletion")
	}
	if _, err := u.View(ctx, m.ID); !errors.Is(err, backend.ErrNoMailbox) {
		t.Errorf("view: %v", err)
	}
	if _, err := u.Body(ctx, m.ID, 1); !errors.Is(err, backend.ErrNoMessage) {
		t.Errorf("body: %v", err)
	}
	if _, _, err := u.SetFlags(ctx, m.ID, []backend.UID{1}, backend.FlagChange{}); !errors.Is(err, backend.ErrNoMailbox) {
		t.Errorf("flags: %v", err)
	}
	if _, err := u.Expunge(ctx, m.ID, nil, false); !errors.Is(err, backend.ErrNoMailbox) {
		t.Errorf("expunge: %v", err)
	}
	if _, err := u.Copy(ctx, m.ID, []backend.UID{1}, "a"); !errors.Is(err, backend.ErrNoMailbox) {
		t.Errorf("copy: %v", err)
	}
	if _, _, err := u.Vanished(ctx, m.ID, 0); !errors.Is(err, backend.ErrNoMailbox) {
		t.Errorf("vanished: %v", err)
	}
	must(t, u.Delete(ctx, "a"))
}

func testRename(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	for _, name := range []string{"a/b/c", "ab", "x"} {
		_, err := u.Create(ctx, name, "")
		must(t, err)
	}
	b := fill(t, u, "a/b", 2)
	c := fill(t, u, "a/b/c", 1)
	if err := u.Rename(ctx, "nothing", "y"); !errors.Is(err, backend.ErrNoMailbox) {
		t.Errorf("missing: %v", err)
	}
	for _, to := range []string{"x", "ab", "INBOX", "inbox", "a"} {
		if err := u.Rename(ctx, "a", to); !errors.Is(err, backend.ErrMailboxExists) {
			t.Errorf("a to %s: %v", to, err)
		}
	}
	if err := u.Rename(ctx, "a", "a/b/d"); !errors.Is(err, backend.ErrMailboxName) {
		t.Errorf("below itself: %v", err)
	}
	if err := u.Rename(ctx, "a", "n/"+strings.Repeat("x", 996)); !errors.Is(err, backend.ErrMailboxName) {
		t.Errorf("children would be too long: %v", err)
	}
	must(t, u.Rename(ctx, "a", "new/top"))
	for name, old := range map[string]backend.Mailbox{"new/top/b": b, "new/top/b/c": c} {
		got := mailbox(t, u, name)
		old.Name = name
		if got != old {
			t.Errorf("%s: %+v, want %+v", name, got, old)
		}
	}
	want := []string{"INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash", "ab", "new", "new/top", "new/top/b", "new/top/b/c", "x"}
	if got := names(t, u); !slices.Equal(got, want) {
		t.Errorf("mailboxes %q, want %q", got, want)
	}
	sameUIDs(t, "after renaming", uids(t, u, b.ID), 1, 2)
}

func testRenameInbox(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	inbox := fill(t, u, "INBOX", 3)
	_, err := u.Create(ctx, "INBOX/sub", "")
	must(t, err)
	w := u.Watch(inbox.ID)
	defer w.Close()
	must(t, u.Rename(ctx, "inbox", "old/mail"))
	select {
	case <-w.C:
	default:
		t.Error("the watcher of INBOX was not told")
	}
	moved := mailbox(t, u, "old/mail")
	if moved.Messages != 3 || moved.ID == inbox.ID {
		t.Errorf("the new mailbox: %+v", moved)
	}
	for i, uid := range uids(t, u, moved.ID) {
		if got := body(t, u, moved.ID, uid); got != message(i+1) {
			t.Errorf("message %d: %q", uid, got)
		}
	}
	now := mailbox(t, u, "INBOX")
	if now.ID != inbox.ID || now.Messages != 0 || now.UIDNext != inbox.UIDNext || now.UIDValidity != inbox.UIDValidity {
		t.Errorf("INBOX afterwards: %+v", now)
	}
	mailbox(t, u, "INBOX/sub")
	if err := u.Rename(ctx, "INBOX", "old"); !errors.Is(err, backend.ErrMailboxExists) {
		t.Errorf("to what exists: %v", err)
	}
}

func testSubscriptions(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	must(t, u.Subscribe(ctx, "not/there", true))
	must(t, u.Subscribe(ctx, "not/there", true))
	must(t, u.Subscribe(ctx, "Junk", false))
	must(t, u.Subscribe(ctx, "Junk", false))
	must(t, u.Delete(ctx, "Sent"))
	got, err := u.Subscriptions(ctx)
	must(t, err)
	if want := []string{"Archive", "Drafts", "INBOX", "Sent", "Trash", "not/there"}; !slices.Equal(got, want) {
		t.Errorf("subscriptions %q, want %q", got, want)
	}
	if err := u.Subscribe(ctx, "bad\x00", true); !errors.Is(err, backend.ErrMailboxName) {
		t.Errorf("a bad name: %v", err)
	}
}
