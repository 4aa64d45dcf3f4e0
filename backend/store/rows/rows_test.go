package rows

import (
	"bytes"
	"encoding/binary"
	"slices"
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
			"log":       {KeyLog(7, a), KeyLog(7, b)},
			"queue":     {KeyQueue(a), KeyQueue(b)},
			"tombstone": {KeyTombstone(user, box, backend.ModSeq(a), 9), KeyTombstone(user, box, backend.ModSeq(b), 1)},
		} {
			if (bytes.Compare(keys[0], keys[1]) < 0) != less && a != b {
				t.Fatalf("%s: %x and %x", name, keys[0], keys[1])
			}
		}
		u, v := backend.UID(a), backend.UID(b)
		if (bytes.Compare(KeyMessage(user, box, u), KeyMessage(user, box, v)) < 0) != (u < v) {
			t.Fatal("messages")
		}
		prefix := rapid.SliceOfN(rapid.Byte(), 1, 5).Draw(t, "prefix")
		if end := After(prefix); end != nil {
			longer := append(slices.Clone(prefix), rapid.SliceOf(rapid.Byte()).Draw(t, "more")...)
			if bytes.Compare(longer, end) >= 0 || bytes.Compare(prefix, end) >= 0 {
				t.Fatalf("after %x comes %x", prefix, end)
			}
		}
	})
	if end := After([]byte{0xff, 0xff}); end != nil {
		t.Errorf("after the last key: %x", end)
	}
}

// FuzzKeys parses whatever there is; what is accepted makes the same key.
func FuzzKeys(f *testing.F) {
	user, box := backend.GUID{1}, backend.GUID{2}
	f.Add(KeyMessage(user, box, 3))
	f.Add(KeyTombstone(user, box, 4, 5))
	f.Add(KeyExpiry(6, user, [32]byte{7}))
	f.Add(KeyMailbox(user, box))
	f.Add(KeyFlags(user, box, 9, 10))
	f.Add(KeyQueue(8))
	f.Add(KeyArrived(200, box))
	f.Fuzz(func(t *testing.T, key []byte) {
		same := func(again []byte) {
			t.Helper()
			if !bytes.Equal(again[17:], key[17:]) || again[0] != key[0] {
				t.Fatalf("%x became %x", key, again)
			}
		}
		if box, uid, err := ParseMessage(key); err == nil {
			same(KeyMessage(user, box, uid))
		}
		if box, seq, uid, err := ParseTombstone(key); err == nil {
			same(KeyTombstone(user, box, seq, uid))
		}
		if seq, err := ParseFlags(key); err == nil {
			same(KeyFlags(user, backend.GUID(key[18:34]), seq, binary.BigEndian.Uint32(key[42:])))
		}
		if unix, user, id, err := ParseExpiry(key); err == nil {
			same(KeyExpiry(unix, user, id))
		}
		if guid, err := ParseGUID(key); err == nil {
			same(KeyUser(user, key[17], guid[:]...))
		}
		if guid, err := ParseArrived(key); err == nil && !bytes.Equal(KeyArrived(key[1], guid), key) {
			t.Fatalf("%x became %x", key, KeyArrived(key[1], guid))
		}
		if n, err := ParseQueue(key); err == nil {
			same(KeyQueue(n))
		}
	})
}

// FuzzRows reads whatever there is as every kind of row; what is accepted
// comes back the same.
func FuzzRows(f *testing.F) {
	box := Box{Mailbox: backend.Mailbox{Name: "a", UIDValidity: 1, UIDNext: 2, HighestModSeq: 3, Size: 4, Use: "u"}, Sum: effect.Digest{Hi: 1}, Overlaid: 7, Tombstones: 5, Floor: 6}
	f.Add(box.Append(nil))
	f.Add(Body{segment.Place{Segment: 1, Offset: 2, Length: 3, Size: 4}, 5}.Append(nil))
	f.Add(Flags{Flags: []string{"a"}, UIDs: []backend.UID{1, 7}}.Append(nil))
	f.Add(Tombstone{backend.GUID{1}, 2}.Append(nil))
	f.Add(Delivery{1, backend.Appended{UID: 2}}.Append(nil))
	f.Add(Entry{backend.GUID{1}, 2, []byte("x")}.Append(nil))
	f.Add(Account{Generation: 1, LastUIDValidity: 2, LastQueued: 3}.Append(nil))
	f.Add(Quarantine{Seq: 1, Reason: "x"}.Append(nil))
	f.Add(Applied{1, 2, 3}.Append(nil))
	f.Add(Epochs{{Epoch: 1, Last: 2}, {Epoch: 3, Last: 4}}.Append(nil))
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
		var box Box
		fresh(func(b []byte) error { return box.Read(backend.GUID{}, b) }, func(b []byte) []byte { return box.Append(b) })
		var body Body
		fresh(func(b []byte) error { return body.Read(b) }, func(b []byte) []byte { return body.Append(b) })
		var flags Flags
		fresh(func(b []byte) error { return flags.Read(b) }, func(b []byte) []byte { return flags.Append(b) })
		var tomb Tombstone
		fresh(func(b []byte) error { return tomb.Read(b) }, func(b []byte) []byte { return tomb.Append(b) })
		var del Delivery
		fresh(func(b []byte) error { return del.Read(b) }, func(b []byte) []byte { return del.Append(b) })
		var quarantine Quarantine
		fresh(func(b []byte) error { return quarantine.Read(b) }, func(b []byte) []byte { return quarantine.Append(b) })
		var q Entry
		fresh(func(b []byte) error { return q.Read(b) }, func(b []byte) []byte { return q.Append(b) })
		var a Account
		fresh(func(b []byte) error { return a.Read(b) }, func(b []byte) []byte { return a.Append(b) })
		var epochs Epochs
		fresh(func(b []byte) error { return epochs.Read(b) }, func(b []byte) []byte { return epochs.Append(b) })
		var ap Applied
		fresh(func(b []byte) error { return ap.Read(b) }, func(b []byte) []byte { return ap.Append(b) })
		_, _ = ReadMessage(KeyMessage(backend.GUID{}, backend.GUID{}, 1), b)
	})
}
