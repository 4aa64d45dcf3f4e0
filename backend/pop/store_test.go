package pop

import (
	"context"
	"strings"
	"testing"

	"switchyard/backend"
	"switchyard/backend/access"
	"switchyard/backend/store"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestRealStore: a maildrop of the store itself, with a copy in it.
func TestRealStore(t *testing.T) {
	s, err := store.Open("store", store.Options{FS: vfs.NewMem(), MemTable: 1 << 20, BlockCache: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	u, err := s.CreateUser(ctx, "anna@example.test", 0)
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{"Subject: a\r\n\r\none\r\n", "Subject: b\n\n.two"}
	var in []backend.Incoming
	for _, text := range texts {
		in = append(in, backend.Incoming{Body: strings.NewReader(text), Size: int64(len(text))})
	}
	put, err := u.Append(ctx, backend.Inbox, in)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := u.Copy(ctx, put[0].Mailbox, []backend.UID{put[0].UID}, backend.Inbox)
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, Options{AllowClear: true})
	f.srv = New(access.New("b1", f.dir, s, access.Options{DefaultDomain: "example.test"}), NewMaildrops(), Options{AllowClear: true})
	first, second := put[0].GUID.String(), put[1].GUID.String()
	c := f.open()
	c.run("S: +OK *\n" + login + `
		C: STAT
		S: +OK 3 58
		C: UIDL
		S: +OK *
		S: 1 ` + first + `
		S: 2 ` + second + `
		S: 3 ` + first + `.*
		S: .
		C: RETR 2
		S: +OK 20 octets
		S: Subject: b
		S: 
		S: ..two
		S: .
		C: DELE 1
		S: +OK *
		C: DELE 2
		S: +OK *
		C: QUIT
		S: +OK bye, 2 deleted
		EOF`)
	view, err := u.View(ctx, put[0].Mailbox)
	if err != nil {
		t.Fatal(err)
	}
	if view.Messages.Len() != 1 || view.Messages.At(0).UID != copied.Dest[0] {
		t.Errorf("%d messages left", view.Messages.Len())
	}
	f.open().run("S: +OK *\n" + login + `
		C: UIDL 1
		S: +OK 1 ` + first + `
		C: QUIT
		S: +OK *
		EOF`)
}
