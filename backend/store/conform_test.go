package store

import (
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"switchyard/backend"
	"switchyard/backend/effect"
)

// conformTo returns an effect that changes nothing of a mailbox.
func conformTo(t testing.TB, s *Store, u backend.User, name string) effect.Conformed {
	t.Helper()
	m, err := u.Mailbox(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := s.user(u.Account())
	if err != nil {
		t.Fatal(err)
	}
	return effect.Conformed{Mailbox: m, Floor: inner.boxes[m.ID].Floor}
}

// conformBob is a merge as a node may come to it: the messages of the INBOX go
// into a mailbox of the other node's, below its UIDNEXT, with other flags; both
// get tombstones of messages that were never here.
func conformBob(t testing.TB, s *Store) error {
	u := userOf(t, s, bob)
	from := conformTo(t, s, u, "INBOX")
	into := effect.Conformed{Mailbox: backend.Mailbox{ID: newGUID(), Name: "merged", Use: `\Archive`, UIDValidity: 4_000_000_000, UIDNext: 70_000, HighestModSeq: 50}}
	v, err := u.View(t.Context(), from.Mailbox.ID)
	if err != nil {
		return err
	}
	for _, m := range v.Messages.All() {
		from.Mailbox.HighestModSeq++
		from.Gone = append(from.Gone, effect.Gone{UID: m.UID, GUID: m.GUID, ModSeq: from.Mailbox.HighestModSeq})
		moved := *m
		moved.UID, moved.ModSeq, moved.Flags = 65_536+m.UID, 49, []string{`\Seen`, "m"}
		into.Put = append(into.Put, moved)
	}
	from.Mailbox.UIDNext += 100
	from.Mailbox.HighestModSeq++
	from.Gone = append(from.Gone, effect.Gone{UID: from.Mailbox.UIDNext - 1, GUID: backend.GUID{7}, ModSeq: from.Mailbox.HighestModSeq})
	into.Gone = []effect.Gone{{UID: 3, GUID: backend.GUID{8}, ModSeq: 7}}
	return s.Conform(t.Context(), bob, []effect.Effect{from, into, effect.Subscribed{Name: "merged", On: true}})
}

// TestConform brings mailboxes to what a merge came to, with messages in memory
// and without, with flags that lie over the rows, and again over tombstones: what
// is in memory, on disk and made again from the log is the same, and a client
// that asks what vanished hears of it.
func TestConform(t *testing.T) {
	for name, opts := range map[string]Options{"in memory": {}, "on disk": {CacheMessages: 1}} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			s := openStore(t, fs, opts)
			u := createUser(t, s, bob)
			ctx := t.Context()
			for range 3 {
				var list []backend.Incoming
				for n := range flagsTogether {
					list = append(list, in(text(byte(n))))
				}
				if _, err := u.Append(ctx, "Sent", list); err != nil {
					t.Fatal(err)
				}
			}
			sent, _ := u.Mailbox(ctx, "Sent")
			if _, _, err := u.SetFlags(ctx, sent.ID, uidRange(1, 100), backend.FlagChange{Op: backend.FlagsAdd, Flags: []string{"k"}}); err != nil {
				t.Fatal(err)
			}
			if _, err := u.Expunge(ctx, sent.ID, uidRange(50, 60), false); err != nil {
				t.Fatal(err)
			}
			v, _ := u.View(ctx, sent.ID)
			seen := v.Mailbox.HighestModSeq

			e := conformTo(t, s, u, "Sent")
			e.Mailbox.Name, e.Mailbox.HighestModSeq, e.Mailbox.UIDNext = "Sent again", seen+9, e.Mailbox.UIDNext+5
			flagged := *v.Messages.At(2)
			flagged.Flags, flagged.ModSeq = []string{`\Flagged`}, seen+1
			back := *v.Messages.At(0) // the same body once more, where none was
			back.UID, back.ModSeq = e.Mailbox.UIDNext-2, seen+2
			e.Put = []backend.Message{flagged, back}
			e.Gone = []effect.Gone{
				{UID: 2, GUID: v.Messages.At(1).GUID, ModSeq: seen + 3},
				{UID: 55, GUID: backend.GUID{1}, ModSeq: seen + 4, Was: seen},
				{UID: e.Mailbox.UIDNext - 1, ModSeq: seen + 5},
			}
			if err := s.Conform(ctx, bob, []effect.Effect{e}); err != nil {
				t.Fatal(err)
			}
			got, err := u.View(ctx, sent.ID)
			if err != nil || got.Mailbox.Name != "Sent again" || got.Mailbox.UIDNext != e.Mailbox.UIDNext || got.Messages.Len() != v.Messages.Len() {
				t.Fatalf("%+v, %v", got.Mailbox, err)
			}
			if i, ok := got.Messages.Find(3); !ok || !slices.Equal(got.Messages.At(i).Flags, flagged.Flags) {
				t.Error("message 3 has other flags")
			}
			if i, ok := got.Messages.Find(70); !ok || !slices.Equal(got.Messages.At(i).Flags, []string{"k"}) {
				t.Error("message 70 has other flags than before")
			}
			if bodyOf(t, u, sent.ID, back.UID) != bodyOf(t, u, sent.ID, 1) {
				t.Error("another body")
			}
			gone, ok, err := u.Vanished(ctx, sent.ID, seen)
			if want := []backend.UID{2, 55, e.Mailbox.UIDNext - 1}; !slices.Equal(gone, want) || !ok || err != nil {
				t.Errorf("vanished %v, %v, %v; want %v", gone, ok, err, want)
			}
			if err := conformBob(t, s); err != nil {
				t.Error(err)
			}
			if err := s.Check(ctx); err != nil {
				t.Error(err)
			}
			want := dump(t, s)
			crashed := openStore(t, fs.CrashClone(vfs.CrashCloneCfg{}), opts)
			if got := dump(t, crashed); got != want {
				t.Errorf("after a crash\n%s\nwant\n%s", got, want)
			}
			if err := crashed.Check(ctx); err != nil {
				t.Error(err)
			}
			closeStore(t, crashed)
			closeStore(t, s)
		})
	}
}

func uidRange(first, last backend.UID) (uids []backend.UID) {
	for uid := first; uid <= last; uid++ {
		uids = append(uids, uid)
	}
	return uids
}

// TestConformRefuses proves that effects which do not fit change nothing, one of
// them or all.
func TestConformRefuses(t *testing.T) {
	s := openStore(t, vfs.NewMem(), Options{})
	defer closeStore(t, s)
	u := createUser(t, s, bob)
	deliver(t, u, 1, text(1))
	deliver(t, u, 2, text(2))
	before := dump(t, s)
	inbox := conformTo(t, s, u, "INBOX")
	inbox.Mailbox.HighestModSeq += 5
	v, _ := u.View(t.Context(), inbox.Mailbox.ID)
	first, high := *v.Messages.At(0), inbox.Mailbox.HighestModSeq
	first.ModSeq = high
	with := func(change func(e *effect.Conformed)) []effect.Effect {
		e := inbox
		change(&e)
		return []effect.Effect{effect.Subscribed{Name: "x", On: true}, e}
	}
	put := func(change func(m *backend.Message)) []effect.Effect {
		m := first
		change(&m)
		return with(func(e *effect.Conformed) { e.Put = []backend.Message{m} })
	}
	gone := func(g effect.Gone) []effect.Effect {
		return with(func(e *effect.Conformed) { e.Gone = []effect.Gone{g} })
	}
	for name, effects := range map[string][]effect.Effect{
		"uidnext falls":     with(func(e *effect.Conformed) { e.Mailbox.UIDNext-- }),
		"modseq falls":      with(func(e *effect.Conformed) { e.Mailbox.HighestModSeq = 1 }),
		"uidvalidity falls": with(func(e *effect.Conformed) { e.Mailbox.UIDValidity-- }),
		"no name":           with(func(e *effect.Conformed) { e.Mailbox.Name = "" }),
		"another's name":    with(func(e *effect.Conformed) { e.Mailbox.Name = "Sent" }),
		"twice":             append(with(func(*effect.Conformed) {}), inbox),
		"and expunged":      append(with(func(*effect.Conformed) {}), effect.Expunged{Mailbox: inbox.Mailbox.ID, ModSeq: high, UIDs: []backend.UID{1}}),
		"another message":   put(func(m *backend.Message) { m.GUID[0]++ }),
		"another size":      put(func(m *backend.Message) { m.Size++ }),
		"an older state":    put(func(m *backend.Message) { m.ModSeq = 1 }),
		"beyond uidnext":    put(func(m *backend.Message) { m.UID = inbox.Mailbox.UIDNext }),
		"beyond modseq":     put(func(m *backend.Message) { m.ModSeq = high + 1 }),
		"a body that is nowhere": with(func(e *effect.Conformed) {
			e.Mailbox.UIDNext = 9
			e.Put = []backend.Message{{UID: 8, ModSeq: 2, GUID: backend.GUID{1}}}
		}),
		"another message expunged": gone(effect.Gone{UID: 1, GUID: backend.GUID{1}, ModSeq: high}),
		"expunged beyond uidnext":  gone(effect.Gone{UID: 99, ModSeq: high}),
		"no tombstone before":      gone(effect.Gone{UID: 1, GUID: first.GUID, ModSeq: high, Was: 1}),
		"put and expunged": with(func(e *effect.Conformed) {
			e.Put, e.Gone = []backend.Message{first}, []effect.Gone{{UID: 1, GUID: first.GUID, ModSeq: high}}
		}),
	} {
		if err := s.Conform(t.Context(), bob, effects); err == nil {
			t.Errorf("%s: no error", name)
		}
		if after := dump(t, s); after != before {
			t.Fatalf("%s: left\n%s", name, after)
		}
	}
	if err := s.Conform(t.Context(), "nobody@example.test", []effect.Effect{inbox}); err == nil || errors.Is(err, backend.ErrBusy) {
		t.Errorf("an account without mail: %v", err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
