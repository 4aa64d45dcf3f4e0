// Package backendtest is the contract of backend.Store as tests. Every store
// passes Run.
package backendtest

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"switchyard/backend"
)

// Run checks the contract. open returns an empty store each time, and has its
// clean-up done by t.
func Run(t *testing.T, open func(t *testing.T) backend.Store) {
	for _, part := range []struct {
		name string
		test func(*testing.T, backend.Store)
	}{
		{"Accounts", testAccounts},
		{"Mailboxes", testMailboxes},
		{"Names", testNames},
		{"Delete", testDelete},
		{"Rename", testRename},
		{"RenameInbox", testRenameInbox},
		{"Subscriptions", testSubscriptions},
		{"Properties", testProperties},
		{"Append", testAppend},
		{"Deliver", testDeliver},
		{"Flags", testFlags},
		{"FlagsConditional", testFlagsConditional},
		{"Copy", testCopy},
		{"Move", testMove},
		{"Expunge", testExpunge},
		{"Vanished", testVanished},
		{"Bodies", testBodies},
		{"Structure", testStructure},
		{"Watch", testWatch},
		{"Views", testViews},
		{"Together", testTogether},
		{"Model", testModel},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, open(t)) })
	}
}

// message is a small message whose body tells it from others.
func message(n int) string {
	return fmt.Sprintf("From: a@example.test\r\nSubject: %d\r\nMessage-ID: <%d@example.test>\r\n\r\nNumber %d.\r\n", n, n, n)
}

func incoming(text string, flags ...string) backend.Incoming {
	return backend.Incoming{Body: strings.NewReader(text), Size: int64(len(text)), Flags: flags}
}

// account makes an account.
func account(t *testing.T, s backend.Store, name string) backend.User {
	t.Helper()
	u, err := s.CreateUser(t.Context(), name, 1)
	must(t, err)
	return u
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mailbox(t *testing.T, u backend.User, name string) backend.Mailbox {
	t.Helper()
	m, err := u.Mailbox(t.Context(), name)
	if err != nil {
		t.Fatalf("mailbox %s: %v", name, err)
	}
	return m
}

// fill appends n messages and returns the mailbox.
func fill(t *testing.T, u backend.User, name string, n int, flags ...string) backend.Mailbox {
	t.Helper()
	var list []backend.Incoming
	for i := range n {
		list = append(list, incoming(message(i+1), flags...))
	}
	out, err := u.Append(t.Context(), name, list)
	must(t, err)
	if len(out) != n {
		t.Fatalf("appended %d of %d", len(out), n)
	}
	return mailbox(t, u, name)
}

func view(t *testing.T, u backend.User, id backend.GUID) backend.View {
	t.Helper()
	v, err := u.View(t.Context(), id)
	must(t, err)
	return v
}

// uids returns the UIDs of a mailbox.
func uids(t *testing.T, u backend.User, id backend.GUID) []backend.UID {
	t.Helper()
	var list []backend.UID
	for _, m := range view(t, u, id).Messages.All() {
		list = append(list, m.UID)
	}
	return list
}

func sameUIDs(t *testing.T, what string, got []backend.UID, want ...backend.UID) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got uids %v, want %v", what, got, want)
	}
}

func body(t *testing.T, u backend.User, id backend.GUID, uid backend.UID) string {
	t.Helper()
	b, err := u.Body(t.Context(), id, uid)
	must(t, err)
	defer b.Close()
	var buf bytes.Buffer
	_, err = io.Copy(&buf, io.NewSectionReader(b, 0, b.Size()))
	must(t, err)
	return buf.String()
}

func names(t *testing.T, u backend.User) []string {
	t.Helper()
	list, err := u.Mailboxes(t.Context())
	must(t, err)
	var out []string
	for _, m := range list {
		out = append(out, m.Name)
	}
	return out
}
