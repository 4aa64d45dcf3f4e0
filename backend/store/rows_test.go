package store

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/segment"
)

// TestKeysSort: keys sort as what they are made of, and after ends a prefix.
func TestKeysSort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint64().Draw(t, "a"), rapid.Uint64().Draw(t, "b")
		user, box := backend.GUID{1}, backend.GUID{2}
		less := a < b
		for name, keys := range map[string][2][]byte{
			"log":       {keyLog(7, a), keyLog(7, b)},
			"queue":     {keyQueue(a), keyQueue(b)},
			"tombstone": {keyTombstone(user, box, backend.ModSeq(a), 9), keyTombstone(user, box, backend.ModSeq(b), 1)},
		} {
			if (bytes.Compare(keys[0], keys[1]) < 0) != less && a != b {
				t.Fatalf("%s: %x and %x", name, keys[0], keys[1])
			}
		}
		u, v := backend.UID(a), backend.UID(b)
		if (bytes.Compare(keyMessage(user, box, u), keyMessage(user, box, v)) < 0) != (u < v) {
			t.Fatal("messages")
		}
		prefix := rapid.SliceOfN(rapid.Byte(), 1, 5).Draw(t, "prefix")
		if end := after(prefix); end != nil {
			longer := append(slices.Clone(prefix), rapid.SliceOf(rapid.Byte()).Draw(t, "more")...)
			if bytes.Compare(longer, end) >= 0 || bytes.Compare(prefix, end) >= 0 {
				t.Fatalf("after %x comes %x", prefix, end)
			}
		}
	})
	if end := after([]byte{0xff, 0xff}); end != nil {
		t.Errorf("after the last key: %x", end)
	}
}

// FuzzKeys parses whatever there is; what is accepted makes the same key.
func FuzzKeys(f *testing.F) {
	user, box := backend.GUID{1}, backend.GUID{2}
	f.Add(keyMessage(user, box, 3))
	f.Add(keyTombstone(user, box, 4, 5))
	f.Add(keyExpiry(6, user, [32]byte{7}))
	f.Add(keyMailbox(user, box))
	f.Add(keyQueue(8))
	f.Fuzz(func(t *testing.T, key []byte) {
		same := func(again []byte) {
			t.Helper()
			if !bytes.Equal(again[17:], key[17:]) || again[0] != key[0] {
				t.Fatalf("%x became %x", key, again)
			}
		}
		if box, uid, err := parseMessage(key); err == nil {
			same(keyMessage(user, box, uid))
		}
		if box, seq, uid, err := parseTombstone(key); err == nil {
			same(keyTombstone(user, box, seq, uid))
		}
		if unix, user, id, err := parseExpiry(key); err == nil {
			same(keyExpiry(unix, user, id))
		}
		if guid, err := parseGUID(key); err == nil {
			same(keyUser(user, key[17], guid[:]...))
		}
		if n, err := parseQueue(key); err == nil {
			same(keyQueue(n))
		}
	})
}

// FuzzRows reads whatever there is as every kind of row; what is accepted
// comes back the same.
func FuzzRows(f *testing.F) {
	box := boxRow{Mailbox: backend.Mailbox{Name: "a", UIDValidity: 1, UIDNext: 2, HighestModSeq: 3, Size: 4, Use: "u"}, sum: effect.Digest{Hi: 1}, tombstones: 5, floor: 6}
	f.Add(box.append(nil))
	f.Add(bodyRow{segment.Place{Segment: 1, Offset: 2, Length: 3, Size: 4}, 5}.append(nil))
	f.Add(tombRow{backend.GUID{1}, 2}.append(nil))
	f.Add(deliveryRow{1, backend.Appended{UID: 2}}.append(nil))
	f.Add(queueRow{backend.GUID{1}, 2, []byte("x")}.append(nil))
	f.Add(accountRow{generation: 1, lastUIDValidity: 2, lastQueued: 3}.append(nil))
	f.Add(appliedRow{1, 2, 3}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		fresh := func(read func([]byte) error, append func([]byte) []byte) {
			if read(b) != nil {
				return
			}
			once := append(nil)
			if err := read(once); err != nil || !bytes.Equal(append(nil), once) {
				t.Fatalf("%x: %v", once, err)
			}
		}
		var box boxRow
		fresh(func(b []byte) error { return box.read(backend.GUID{}, b) }, func(b []byte) []byte { return box.append(b) })
		var body bodyRow
		fresh(func(b []byte) error { return body.read(b) }, func(b []byte) []byte { return body.append(b) })
		var tomb tombRow
		fresh(func(b []byte) error { return tomb.read(b) }, func(b []byte) []byte { return tomb.append(b) })
		var del deliveryRow
		fresh(func(b []byte) error { return del.read(b) }, func(b []byte) []byte { return del.append(b) })
		var q queueRow
		fresh(func(b []byte) error { return q.read(b) }, func(b []byte) []byte { return q.append(b) })
		var a accountRow
		fresh(func(b []byte) error { return a.read(b) }, func(b []byte) []byte { return a.append(b) })
		var ap appliedRow
		fresh(func(b []byte) error { return ap.read(b) }, func(b []byte) []byte { return ap.append(b) })
		_, _ = readMessage(keyMessage(backend.GUID{}, backend.GUID{}, 1), b)
	})
}

func TestCanonicalFlags(t *testing.T) {
	got, err := canonicalFlags([]string{"b", `\dRAFT`, "a", "B", `\Draft`})
	if err != nil || strings.Join(got, " ") != `\Draft a b` {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzNames: a name that is accepted is accepted as it comes out, unchanged.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"INBOX", "inbox/a", "a/b", "ü", "a//b", "\xff", "iNBOX "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := canonicalName(s)
		if err != nil {
			return
		}
		if again, err := canonicalName(name); err != nil || again != name || len(name) != len(s) {
			t.Fatalf("%q became %q, then %q, %v", s, name, again, err)
		}
		for _, p := range parents(name) {
			if _, err := canonicalName(p); err != nil || !below(name, p) {
				t.Fatalf("%q has the parent %q: %v", name, p, err)
			}
		}
	})
}
