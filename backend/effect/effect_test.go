package effect

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"switchyard/backend"
	"switchyard/backend/effect/pack"
)

func day(n int64) time.Time { return time.Unix(n*86400, 0).UTC() }

// every is a record with every kind of effect.
func every() *Record {
	m := backend.Message{
		UID: 7, ModSeq: 9, GUID: backend.GUID{1, 2}, Size: 1 << 40, InternalDate: day(-3), SaveDate: day(20000), Flags: []string{`\Seen`, "k"},
	}
	box, other := backend.GUID{3}, m
	other.UID, other.Flags = 1<<31, nil
	return &Record{
		Shard: 200, Epoch: 2, Seq: 1 << 50, Time: Clock(5 << 16), User: "ann@example.test",
		Digests: []MailboxDigest{{box, Digest{1, 2}}, {backend.GUID{4}, Digest{1 << 63, 1<<64 - 1}}},
		Effects: []Effect{
			UserCreated{ID: backend.GUID{5}, Generation: 6},
			GenerationSeen{Generation: 1 << 60},
			MailboxCreated{Mailbox: box, Name: "Entwürfe", UIDValidity: 1<<32 - 1, Use: `\Drafts`},
			MailboxRenamed{Mailbox: box, Name: "x"},
			MailboxUse{Mailbox: box, Use: ""},
			MailboxDeleted{Mailbox: box},
			Subscribed{Name: "a", On: true},
			MessageAdded{Mailbox: box, Message: m},
			FlagsSet{Mailbox: box, ModSeq: 4, Flags: []string{"a"}, UIDs: []backend.UID{1, 2, 1<<32 - 1}},
			FlagsSet{Mailbox: box, ModSeq: 4, UIDs: []backend.UID{3}},
			Expunged{Mailbox: box, ModSeq: 1, UIDs: []backend.UID{5}},
			Delivered{ID: [32]byte{9}, Appended: backend.Appended{Mailbox: box, UIDValidity: 1, UID: 2, GUID: backend.GUID{8}}},
			QueueSet{ID: 3, Entry: []byte("entry"), Body: backend.GUID{1}, Size: 4},
			QueueSet{ID: 3, Entry: []byte{}},
			QueueDeleted{ID: 3},
			PropertySet{Mailbox: box, Name: "n", Value: []byte("v")},
			PropertySet{Name: "n", Value: []byte{}, Gone: true},
			Conformed{
				Mailbox: backend.Mailbox{ID: box, Name: "b", Use: `\Junk`, UIDValidity: 1<<32 - 1, UIDNext: 1<<32 - 1, HighestModSeq: 1 << 62},
				Floor:   3, Put: []backend.Message{m, other},
				Gone: []Gone{{UID: 1, GUID: backend.GUID{7}, ModSeq: 8, Was: 2}, {UID: 1<<32 - 2, ModSeq: 9}},
			},
			Conformed{Mailbox: backend.Mailbox{ID: box, Name: "c", UIDValidity: 1, UIDNext: 1, HighestModSeq: 1}},
		},
	}
}

func TestRecordComesBack(t *testing.T) {
	want := every()
	kinds := map[kind]bool{}
	for _, e := range want.Effects {
		kinds[e.kind()] = true
	}
	if len(kinds) != int(kindConformed) {
		t.Errorf("%d kinds tested of %d", len(kinds), kindConformed)
	}
	b := AppendRecord(nil, want)
	got, err := DecodeRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	for n := range b {
		if _, err := DecodeRecord(b[:n]); err == nil {
			t.Errorf("cut at %d: no error", n)
		}
	}
	if _, err := DecodeRecord(append(bytes.Clone(b), 0)); err == nil {
		t.Error("bytes behind the end: no error")
	}
	b[0] = 2
	if _, err := DecodeRecord(b); err == nil {
		t.Error("another version: no error")
	}
}

// TestDigest: whatever the order and the detours, equal mailboxes have equal
// digests, and a difference in any field shows.
func TestDigest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list []backend.Message
		for i := range rapid.IntRange(1, 20).Draw(t, "n") {
			list = append(list, backend.Message{UID: backend.UID(i + 1), ModSeq: 5, Size: int64(i % 3), GUID: backend.GUID{byte(i % 2)}})
		}
		var a, b Digest
		for i := range list {
			a = a.Add(OfMessage(&list[i]))
		}
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 1)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		for i := range list {
			old := list[i]
			old.Flags = []string{"old"}
			b = b.Add(OfMessage(&old)).Add(OfMessage(&list[i])).Sub(OfMessage(&old))
		}
		if a != b {
			t.Fatalf("%v and %v", a, b)
		}
	})
	base := backend.Message{UID: 1, ModSeq: 2, GUID: backend.GUID{3}, Size: 4, InternalDate: day(5), SaveDate: day(6), Flags: []string{"a", "b"}}
	for name, change := range map[string]func(*backend.Message){
		"uid": func(m *backend.Message) { m.UID++ }, "modseq": func(m *backend.Message) { m.ModSeq++ },
		"guid": func(m *backend.Message) { m.GUID[15]++ }, "size": func(m *backend.Message) { m.Size++ },
		"date": func(m *backend.Message) { m.InternalDate = day(7) }, "saved": func(m *backend.Message) { m.SaveDate = day(7) },
		"flags": func(m *backend.Message) { m.Flags = []string{"ab"} }, "fewer flags": func(m *backend.Message) { m.Flags = nil },
	} {
		m := base
		change(&m)
		if OfMessage(&m) == OfMessage(&base) {
			t.Errorf("another %s, the same digest", name)
		}
	}
	box := backend.Mailbox{ID: backend.GUID{1}, Name: "a", UIDValidity: 2, UIDNext: 3, HighestModSeq: 4, Use: "u"}
	for name, change := range map[string]func(*backend.Mailbox){
		"id": func(m *backend.Mailbox) { m.ID[0]++ }, "name": func(m *backend.Mailbox) { m.Name = "b" },
		"validity": func(m *backend.Mailbox) { m.UIDValidity++ }, "next": func(m *backend.Mailbox) { m.UIDNext++ },
		"modseq": func(m *backend.Mailbox) { m.HighestModSeq++ }, "use": func(m *backend.Mailbox) { m.Use = "" },
	} {
		m := box
		change(&m)
		if OfMailbox(&m, Digest{}) == OfMailbox(&box, Digest{}) {
			t.Errorf("another %s, the same digest", name)
		}
	}
}

func TestDigestArithmetic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(s string) Digest { return Digest{rapid.Uint64().Draw(t, s), rapid.Uint64().Draw(t, s)} }
		a, b := draw("a"), draw("b")
		if a.Add(b) != b.Add(a) || a.Add(b).Sub(b) != a || a.Sub(b).Add(b) != a || a.Sub(a) != (Digest{}) {
			t.Fatal("not a group")
		}
		if got := ReadDigest(pack.NewReader(a.Append(nil))); got != a {
			t.Fatalf("%v came back as %v", a, got)
		}
	})
	one := Digest{0, 1}
	if got := (Digest{0, 1<<64 - 1}).Add(one); got != (Digest{1, 0}) {
		t.Errorf("carry: %v", got)
	}
	if got := (Digest{1, 0}).Sub(one); got != (Digest{0, 1<<64 - 1}) {
		t.Errorf("borrow: %v", got)
	}
}

func TestClock(t *testing.T) {
	var c Clock
	now := time.UnixMilli(1000)
	var seen []Clock
	for _, at := range []time.Time{now, now, now.Add(-time.Hour), now.Add(time.Millisecond), time.Unix(-5, 0)} {
		c = c.Next(at)
		seen = append(seen, c)
	}
	if !slices.IsSorted(seen) || len(slices.Compact(slices.Clone(seen))) != len(seen) {
		t.Errorf("the clock went %v", seen)
	}
	if got := c.Time(); !got.Equal(now.Add(time.Millisecond)) {
		t.Errorf("time %v", got)
	}
}

// FuzzRecord decodes whatever there is. What is accepted must come back the
// same from its own encoding.
func FuzzRecord(f *testing.F) {
	f.Add(AppendRecord(nil, every()))
	for _, e := range every().Effects {
		f.Add(AppendRecord(nil, &Record{User: "u", Effects: []Effect{e}}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRecord(b)
		if err != nil {
			return
		}
		again, err := DecodeRecord(AppendRecord(nil, r))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(r, again) {
			t.Fatalf("%+v\n%+v", r, again)
		}
	})
}
