package imap

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"switchyard/backend"
	"switchyard/backend/imap/search"
)

// BenchmarkCommands times commands on a mailbox of 5,000 messages, client and
// loopback included.
func BenchmarkCommands(b *testing.B) {
	f := start(b, Options{})
	u := f.user(b, "ada")
	text := testMessage(b, "alternative.eml")
	var many []backend.Incoming
	for range 5000 {
		many = append(many, backend.Incoming{Body: strings.NewReader(text), Size: int64(len(text))})
	}
	if _, err := u.Append(b.Context(), "INBOX", many); err != nil {
		b.Fatal(err)
	}
	r := connect(b, f)
	r.do("LOGIN ada@example.test secret", "OK")
	r.do("SELECT INBOX", "OK")
	for _, command := range []string{"SELECT INBOX", "FETCH 1:* FLAGS", "FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE)",
		"FETCH 1:* BODY.PEEK[HEADER.FIELDS (Subject From)]", "SEARCH UNSEEN", "SEARCH SUBJECT nothing", "SEARCH TEXT nothing"} {
		b.Run(command, func(b *testing.B) {
			r := &raw{b, r.Conn, r.r}
			for b.Loop() {
				r.do(command, "OK")
			}
		})
	}
}

// BenchmarkSearches times SORT, THREAD and SEARCH over 10,000 messages in
// threads of 20, client and loopback included. "cold" is a server that has
// learnt nothing yet.
func BenchmarkSearches(b *testing.B) {
	f := start(b, Options{})
	u := f.user(b, "ada")
	var many []backend.Incoming
	for i := range 10000 {
		text := fmt.Sprintf("Date: Mon, %d Mar 2026 %02d:%02d:00 +0100\r\nFrom: Person %d <p%d@example.test>\r\nTo: ada@example.test\r\nSubject: Re: [list] number %d\r\n"+
			"Message-ID: <%d@example.test>\r\nReferences: <%d@example.test> <%d@example.test>\r\n\r\nA few words.\r\n", 1+i%28, i%24, i%60, i%100, i%100, i/20, i, i-i%20, max(i-1, i-i%20))
		many = append(many, backend.Incoming{Body: strings.NewReader(text), Size: int64(len(text))})
	}
	for part := range slices.Chunk(many, 2000) {
		if _, err := u.Append(b.Context(), "INBOX", part); err != nil {
			b.Fatal(err)
		}
	}
	r := connect(b, f)
	r.do("LOGIN ada@example.test secret", "OK")
	r.do("SELECT INBOX", "OK")
	r.SetDeadline(time.Now().Add(10 * time.Minute))
	run := func(name, command string, before func()) {
		b.Run(name, func(b *testing.B) {
			r := &raw{b, r.Conn, r.r}
			for b.Loop() {
				before()
				r.do(command, "OK")
			}
		})
	}
	forget := func() { f.srv.cache = search.NewCache(0) }
	for _, command := range []string{"SORT (DATE) UTF-8 ALL", "THREAD REFERENCES UTF-8 ALL"} {
		run(command+"/cold", command, forget)
	}
	for _, command := range []string{"SORT (DATE) UTF-8 ALL", "SORT (SUBJECT) UTF-8 ALL", "SORT (REVERSE FROM DATE) UTF-8 ALL", "THREAD REFERENCES UTF-8 ALL",
		"THREAD ORDEREDSUBJECT UTF-8 ALL", "SEARCH FROM nobody", "SEARCH SUBJECT nothing", "SEARCH HEADER Message-ID <77@x>", "SEARCH SENTSINCE 20-Mar-2026", "SEARCH HEADER X-Spam yes", "FETCH 1:* PREVIEW"} {
		run(command, command, func() {})
	}
}
