package imap

import (
	"strings"
	"testing"

	"switchyard/backend"
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
