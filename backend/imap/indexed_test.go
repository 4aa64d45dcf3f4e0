package imap

import (
	"fmt"
	"slices"
	"testing"

	"github.com/emersion/go-imap/v2"

	"switchyard/backend"
	"switchyard/internal/tlsconf"
)

// TestSearchThroughIndex: what a search for a text finds is the same with the
// index as without it, while messages come and go.
func TestSearchThroughIndex(t *testing.T) {
	f := start(t, Options{})
	c := dial(t, f, tlsconf.Off, nil)
	for n := range 60 {
		f.append(t, "ada", "INBOX", fmt.Sprintf("Subject: number %d\r\nX-Group: g%d\r\n\r\nword%d is not in %d.\r\n", n, n%4, n, n%7))
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	keys := []imap.SearchCriteria{
		{Body: []string{"word5"}}, {Text: []string{"G3"}}, {Body: []string{"g3"}}, {Text: []string{"is not in 6."}},
		{Body: []string{"ord1"}, Text: []string{"x-group: g1"}}, {Text: []string{"nowhere"}}, {Text: []string{". "}},
		{Not: []imap.SearchCriteria{{Body: []string{"word"}}}}, {Or: [][2]imap.SearchCriteria{{{Body: []string{"word7"}}, {Text: []string{"number 8"}}}}},
	}
	search := func() (all [][]imap.UID) {
		t.Helper()
		for i := range keys {
			data, err := c.UIDSearch(&keys[i], nil).Wait()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, data.AllUIDs())
		}
		return all
	}
	index := f.srv.o.Index
	for round := range 3 {
		f.srv.o.Index = index
		got := search()
		f.srv.o.Index = nil
		for i, want := range search() {
			if !slices.Equal(got[i], want) {
				t.Errorf("round %d, %+v: the index finds %v, reading %v", round, keys[i], got[i], want)
			}
		}
		f.append(t, "ada", "INBOX", "Subject: late\r\nX-Group: g3\r\n\r\nword5 again\r\n")
		u := f.user(t, "ada")
		inbox, err := u.Mailbox(t.Context(), "INBOX")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Expunge(t.Context(), inbox.ID, []backend.UID{backend.UID(6 + round)}, false); err != nil {
			t.Fatal(err)
		}
		if err := c.Noop().Wait(); err != nil {
			t.Fatal(err)
		}
	}
}
