package store

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"switchyard/backend"
)

const mail1 = "From: ann@example.test\r\nTo: bob@example.test\r\nSubject: hello\r\nMessage-ID: <1@example.test>\r\n\r\nHello, Bob.\r\n"

func openStore(t testing.TB, fs vfs.FS, opts Options) *Store {
	t.Helper()
	opts.FS = fs
	if opts.Fatal == nil {
		opts.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	s, err := Open("store", opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func createUser(t testing.TB, s *Store, account string) backend.User {
	t.Helper()
	u, err := s.CreateUser(t.Context(), account, 1)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func in(text string, flags ...string) backend.Incoming {
	return backend.Incoming{Body: bytes.NewReader([]byte(text)), Size: int64(len(text)), Flags: flags}
}

func deliver(t testing.TB, u backend.User, id byte, text string) backend.Delivered {
	t.Helper()
	d, err := u.Deliver(t.Context(), backend.Delivery{Incoming: in(text), ID: [32]byte{id}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func bodyOf(t testing.TB, u backend.User, mailbox backend.GUID, uid backend.UID) string {
	t.Helper()
	b, err := u.Body(t.Context(), mailbox, uid)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	text, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestCloseWaits: Close waits for a call under way; one made within it is
// refused then, not stuck.
func TestCloseWaits(t *testing.T) {
	s := openStore(t, vfs.NewMem(), Options{})
	for n := range byte(2) {
		if _, err := s.QueueAdd(t.Context(), []byte{n}, bytes.NewReader(nil), 0); err != nil {
			t.Fatal(err)
		}
	}
	closed := make(chan error, 1)
	err := s.QueueScan(t.Context(), func(id uint64, _ []byte) bool {
		if id == 1 {
			go func() { closed <- s.Close() }()
			waitUntil(t, "closing begins", func() bool { _, err := s.QueueBody(t.Context(), 1); return err != nil })
			return true
		}
		if _, err := s.QueueBody(t.Context(), id); !errors.Is(err, backend.ErrBusy) {
			t.Errorf("a call while closing: %v", err)
		}
		select {
		case <-closed:
			t.Error("Close did not wait")
		default:
		}
		return true
	})
	if err != nil || <-closed != nil || s.Close() != nil {
		t.Errorf("scan: %v", err)
	}
}

// TestComesBack delivers, closes, opens, and reads.
func TestComesBack(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, Options{})
	u := createUser(t, s, "bob@example.test")
	d := deliver(t, u, 1, mail1)
	again := deliver(t, u, 1, mail1)
	if !again.Duplicate || again.Appended != d.Appended {
		t.Errorf("a second delivery with the same id: %+v", again)
	}
	closeStore(t, s)
	if _, err := s.User(t.Context(), "bob@example.test"); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("a closed store: %v", err)
	}

	s = openStore(t, fs, Options{})
	defer closeStore(t, s)
	u, err := s.User(t.Context(), "bob@example.test")
	if err != nil {
		t.Fatal(err)
	}
	if got := bodyOf(t, u, d.Mailbox, d.UID); got != mail1 {
		t.Errorf("body %q", got)
	}
	p, err := u.Structure(t.Context(), d.Mailbox, d.UID)
	if err != nil || p.Envelope == nil || p.Envelope.Subject != "hello" {
		t.Errorf("structure %+v, %v", p, err)
	}
	if again := deliver(t, u, 1, mail1); !again.Duplicate || again.Appended != d.Appended {
		t.Errorf("a second delivery with the same id: %+v", again)
	}
	if _, err := s.User(t.Context(), "nobody"); err != backend.ErrNoUser {
		t.Errorf("nobody: %v", err)
	}
}
