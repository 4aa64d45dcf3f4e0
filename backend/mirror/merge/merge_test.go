package merge

import (
	"encoding/binary"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"switchyard/backend"
	"switchyard/backend/effect"
)

// life is what happens to the two halves of an account, and what is known of it.
type life struct {
	t       *rapid.T
	guids   uint64
	clock   [3]effect.Clock
	named   map[place]backend.GUID // every UID that was ever given
	lost    map[backend.GUID]bool  // expunged by somebody, or gone with a mailbox
	added   map[backend.GUID]bool
	deliver map[[32]byte][]backend.GUID
	deleted [3]map[backend.GUID]*Box // as their clients knew them last, by side
}

func (l *life) guid() (g backend.GUID) {
	l.guids++
	binary.BigEndian.PutUint64(g[:], l.guids*0x9E3779B97F4A7C15)
	return g
}

func (l *life) now(side int) effect.Clock {
	l.clock[side] += effect.Clock(1 + rapid.IntRange(0, 3).Draw(l.t, "tick"))
	return l.clock[side]
}

func (l *life) pick(a *Account) (backend.GUID, *Box) {
	ids := sortedIDs(a.Boxes)
	id := ids[rapid.IntRange(0, len(ids)-1).Draw(l.t, "box")]
	return id, a.Boxes[id]
}

var names = []string{"INBOX", "a", "b", "c"}

// step does one thing to one half; side is 0 before the split.
func (l *life) step(a *Account, side int) {
	id, b := l.pick(a)
	switch rapid.SampledFrom([]string{"add", "add", "add", "flag", "flag", "expunge", "expunge", "create", "rename", "delete", "subscribe", "look", "deliver"}).Draw(l.t, "op") {
	case "add":
		l.add(a, id, b, side)
	case "deliver":
		var did [32]byte
		did[0] = byte(rapid.IntRange(1, 6).Draw(l.t, "delivery"))
		if _, ok := a.Deliveries[did]; !ok {
			d := l.add(a, id, b, side)
			a.Deliveries[did] = d
			l.deliver[did] = append(l.deliver[did], d.GUID)
		}
	case "flag":
		if uids := b.UIDs(); len(uids) > 0 {
			uid := rapid.SampledFrom(uids).Draw(l.t, "uid")
			m := b.Messages[uid]
			m.Flags = maps.Clone(m.Flags)
			if m.Flags == nil {
				m.Flags = make(map[string]Switch)
			}
			m.Flags[rapid.SampledFrom([]string{`\Seen`, `\Flagged`, "work"}).Draw(l.t, "flag")] = Switch{rapid.Bool().Draw(l.t, "on"), l.now(side)}
			b.HighestModSeq++
			m.ModSeq = b.HighestModSeq
			b.Messages[uid] = m
		}
	case "expunge":
		if uids := b.UIDs(); len(uids) > 0 {
			uid := rapid.SampledFrom(uids).Draw(l.t, "uid")
			l.lost[b.Messages[uid].GUID] = true
			b.HighestModSeq++
			b.Expunged[uid] = Tombstone{b.Messages[uid].GUID, b.HighestModSeq}
			delete(b.Messages, uid)
		}
	case "create":
		name := rapid.SampledFrom(names).Draw(l.t, "name")
		if _, other := a.Named(name); other == nil {
			a.Boxes[l.guid()] = NewBox(name, l.now(side), uint32(l.guids*4)+uint32(side))
		}
	case "rename":
		name := rapid.SampledFrom(names[1:]).Draw(l.t, "name")
		if _, other := a.Named(name); other == nil && b.Name != "INBOX" {
			b.Name, b.NameTime = name, l.now(side)
		}
	case "delete":
		if b.Name != "INBOX" {
			for _, m := range b.Messages {
				l.lost[m.GUID] = true
			}
			l.deleted[side][id] = b.clone()
			a.Delete(id)
		}
	case "subscribe":
		a.Subscribed[rapid.SampledFrom(names).Draw(l.t, "name")] = Switch{rapid.Bool().Draw(l.t, "on"), l.now(side)}
	case "look":
		b.Exposed = side != 0
	}
}

func (l *life) add(a *Account, id backend.GUID, b *Box, side int) backend.Appended {
	if side != 0 && b.JumpedIn != 1 {
		b.UIDNext, b.JumpedIn = Jump(b.UIDNext, side, 8), 1
	}
	g := l.guid()
	b.HighestModSeq++
	b.Messages[b.UIDNext] = Message{GUID: g, ModSeq: b.HighestModSeq}
	l.name(place{id, b.UIDNext}, g)
	l.added[g] = true
	b.UIDNext++
	return backend.Appended{Mailbox: id, UIDValidity: b.UIDValidity, UID: b.UIDNext - 1, GUID: g}
}

func (l *life) name(p place, g backend.GUID) {
	if was, ok := l.named[p]; ok && was != g {
		l.t.Fatalf("uid %d names two messages", p.uid)
	}
	l.named[p] = g
}

func (l *life) steps(a *Account, side, most int) {
	for range rapid.IntRange(0, most).Draw(l.t, "steps") {
		l.step(a, side)
	}
}

// split draws an account that was changed apart.
func split(t *rapid.T) (l *life, base, a, b *Account) {
	l = &life{t: t, named: make(map[place]backend.GUID), lost: make(map[backend.GUID]bool), added: make(map[backend.GUID]bool), deliver: make(map[[32]byte][]backend.GUID)}
	for i := range l.deleted {
		l.deleted[i] = make(map[backend.GUID]*Box)
	}
	base = New()
	base.Boxes[l.guid()] = NewBox("INBOX", 1, 1)
	l.steps(base, 0, 12)
	// The clocks are an hour apart, one way or the other.
	hour := effect.Clock(3600 * 1000 << 16)
	l.clock[1], l.clock[2] = l.clock[0], l.clock[0]
	l.clock[rapid.IntRange(1, 2).Draw(t, "ahead")] += hour
	a, b = base.Clone(), base.Clone()
	// The last change of one node may not have reached the other.
	l.steps(a, 1, 12)
	l.steps(b, 2, 12)
	return l, base, a, b
}

// TestMergeKeepsItsPromises proves the merge rules on accounts drawn at random:
// none lost, none twice, no UID with two messages, not even with those that the
// other node had given and not told, names unique, the same from both sides, and
// nothing changes when it is done again.
func TestMergeKeepsItsPromises(t *testing.T) {
	var stats Stats
	rapid.Check(t, func(t *rapid.T) {
		l, _, a, b := split(t)
		keepA, keepB := a.Clone(), b.Clone()
		by := Blocks{Side: rapid.IntRange(1, 2).Draw(t, "side"), InFlight: 8}
		m, s := Accounts(a, b, by)
		if !reflect.DeepEqual(a, keepA) || !reflect.DeepEqual(b, keepB) {
			t.Fatal("the merge changed what it was given")
		}
		stats.Renumbered += s.Renumbered
		stats.Joined += s.Joined
		stats.Revived += s.Revived
		stats.Duplicates += s.Duplicates
		l.check(m, a, b)
		if other, _ := Accounts(b, a, by); !reflect.DeepEqual(m, other) {
			t.Fatalf("merged the other way round it differs:\n%v\n%v", dump(m), dump(other))
		}
		for _, half := range []*Account{a, b} {
			again, _ := Accounts(m, half, by)
			if !reflect.DeepEqual(bare(m), bare(again)) {
				t.Fatalf("merged again it differs:\n%v\n%v", dump(m), dump(again))
			}
		}
		// What the other node gave last was still on its way, and comes to light.
		late := b
		if by.Side == 2 {
			late = a
		}
		for range rapid.IntRange(0, int(by.InFlight)).Draw(t, "late") {
			id, box := l.pick(late)
			l.add(late, id, box, 3-by.Side)
		}
	})
	if stats.Renumbered == 0 || stats.Joined == 0 || stats.Revived == 0 || stats.Duplicates == 0 {
		t.Fatalf("something did not happen: %+v", stats)
	}
}

// bare leaves out what only steers the next split.
func bare(a *Account) *Account {
	a = a.Clone()
	for _, b := range a.Boxes {
		b.Exposed, b.JumpedIn = false, 0
	}
	return a
}

func dump(a *Account) (s string) {
	for _, id := range sortedIDs(a.Boxes) {
		b := a.Boxes[id]
		s += fmt.Sprintf("%s %q next %d seq %d\n", id, b.Name, b.UIDNext, b.HighestModSeq)
		for _, uid := range b.UIDs() {
			s += fmt.Sprintf("   %d %v\n", uid, b.Messages[uid])
		}
		s += fmt.Sprintf("   gone %v\n", b.Expunged)
	}
	return s + fmt.Sprintf("gone %v\nsubscribed %v\ndeliveries %v", a.Gone, a.Subscribed, a.Deliveries)
}

func (l *life) check(m, a, b *Account) {
	t := l.t
	count := make(map[backend.GUID]int)
	seen := make(map[string]bool)
	for id, box := range m.Boxes {
		if seen[box.Name] {
			t.Fatalf("two mailboxes named %q", box.Name)
		}
		seen[box.Name] = true
		for uid, msg := range box.Messages {
			count[msg.GUID]++
			l.name(place{id, uid}, msg.GUID)
			if uid >= box.UIDNext || msg.ModSeq > box.HighestModSeq {
				t.Fatalf("uid %d modseq %d beyond %d, %d", uid, msg.ModSeq, box.UIDNext, box.HighestModSeq)
			}
		}
		for _, half := range []*Account{a, b} {
			if was := half.Boxes[id]; was != nil {
				l.client(was, box)
			}
		}
		for _, deleted := range l.deleted {
			if was := deleted[id]; was != nil {
				l.client(was, box)
			}
		}
	}
	if !seen["INBOX"] {
		t.Fatal("no INBOX")
	}
	twice := make(map[backend.GUID]bool) // copies of a delivery, one of which may go
	for _, guids := range l.deliver {
		alive := 0
		for _, g := range guids {
			alive += count[g]
			twice[g] = len(guids) > 1
		}
		if alive > 1 {
			t.Fatalf("a delivery is there %d times", alive)
		}
		if alive == 0 && len(guids) > 0 && !slices.ContainsFunc(guids, func(g backend.GUID) bool { return l.lost[g] }) {
			t.Fatal("a delivery is lost")
		}
	}
	for g := range l.added {
		if n := count[g]; n > 1 || n == 0 && !l.lost[g] && !twice[g] {
			t.Fatalf("message %s is there %d times", g, n)
		}
	}
	for id, d := range m.Deliveries {
		if box := m.Boxes[d.Mailbox]; box != nil && count[d.GUID] == 1 && box.Messages[d.UID].GUID != d.GUID && !l.lost[d.GUID] {
			t.Fatalf("delivery %x says uid %d", id[0], d.UID)
		}
	}
}

// client is one that looked at a half just before the merge and syncs by UIDNEXT
// and HIGHESTMODSEQ afterwards.
func (l *life) client(was, box *Box) {
	if box.UIDNext < was.UIDNext || box.HighestModSeq < was.HighestModSeq {
		l.t.Fatal("UIDNEXT or HIGHESTMODSEQ fell")
	}
	for uid, msg := range box.Messages {
		old, had := was.Messages[uid]
		if !had && was.Exposed && uid < was.UIDNext {
			l.t.Fatalf("uid %d is new below %d", uid, was.UIDNext)
		}
		if (!had || !old.equal(msg)) && msg.ModSeq <= was.HighestModSeq {
			l.t.Fatalf("uid %d changed with modseq %d, %d was seen", uid, msg.ModSeq, was.HighestModSeq)
		}
	}
	for uid := range was.Messages {
		if _, ok := box.Messages[uid]; !ok {
			if g, ok := box.Expunged[uid]; !ok || g.ModSeq <= was.HighestModSeq {
				l.t.Fatalf("uid %d vanished and its client is not told", uid)
			}
		}
	}
}

// TestOneUIDForTwo proves that messages which got one UID on both sides are both
// kept, under UIDs that neither node has given, and once, however often it is
// done.
func TestOneUIDForTwo(t *testing.T) {
	id, x, y, z := backend.GUID{1}, backend.GUID{2}, backend.GUID{3}, backend.GUID{4}
	base := New()
	base.Boxes[id] = NewBox("INBOX", 1, 1)
	a, b := base.Clone(), base.Clone()
	for half, guids := range map[*Account][]backend.GUID{a: {x, x}, b: {y, z}} {
		for i, g := range guids {
			uid := backend.UID(5 + i)
			half.Boxes[id].Messages[uid] = Message{GUID: g, ModSeq: 2}
		}
		half.Boxes[id].UIDNext, half.Boxes[id].HighestModSeq = 7, 2
	}
	delete(a.Boxes[id].Messages, 6)
	a.Boxes[id].Expunged[6] = Tombstone{GUID: x, ModSeq: 3}
	a.Boxes[id].HighestModSeq = 3
	by := Blocks{}
	m, stats := Accounts(a, b, by)
	got := make(map[backend.GUID]backend.UID)
	for uid, msg := range m.Boxes[id].Messages {
		got[msg.GUID] = uid
	}
	if want := map[backend.GUID]backend.UID{x: 7, y: 8, z: 9}; !maps.Equal(got, want) || stats.Renumbered != 3 {
		t.Fatalf("got %v, want %v; %+v", got, want, stats)
	}
	for _, half := range []*Account{a, b} {
		if again, _ := Accounts(m, half, by); !reflect.DeepEqual(m, again) {
			t.Fatalf("merged again it differs:\n%v\n%v", dump(m), dump(again))
		}
	}
}

// TestADeletionTakesWhatItSaw proves that the deletion of a mailbox takes messages,
// not numbers: one that the deleter knew nothing of lives on, though it was given
// a UID that the deleter had given, too. Seed 2903 of the simulation lost it.
func TestADeletionTakesWhatItSaw(t *testing.T) {
	id, old, mine, theirs := backend.GUID{1}, backend.GUID{2}, backend.GUID{3}, backend.GUID{4}
	base := New()
	base.Boxes[id] = NewBox("a", 1, 1)
	a, b := base.Clone(), base.Clone()
	for half, second := range map[*Account]backend.GUID{a: mine, b: theirs} {
		box := half.Boxes[id]
		box.Messages[1], box.Messages[2] = Message{GUID: old, ModSeq: 2}, Message{GUID: second, ModSeq: 2}
		box.UIDNext, box.HighestModSeq = 3, 2
	}
	b.Delete(id)
	by := Blocks{Side: 1}
	m, _ := Accounts(a, b, by)
	box := m.Boxes[id]
	if box == nil || len(box.Messages) != 1 {
		t.Fatalf("left is\n%v", dump(m))
	}
	for uid, msg := range box.Messages {
		if msg.GUID != mine || uid < 3 {
			t.Errorf("%s lives on as %d", msg.GUID, uid)
		}
	}
	for _, half := range []*Account{a, b} {
		if again, _ := Accounts(m, half, by); !reflect.DeepEqual(bare(m), bare(again)) {
			t.Fatalf("merged again it differs:\n%v\n%v", dump(m), dump(again))
		}
	}
}
