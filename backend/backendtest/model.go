package backendtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"switchyard/backend"
)

// testModel makes random changes to an account and to a plain model of it, and
// compares them after every step. A client that only looks at differences must
// arrive at the same.
func testModel(t *testing.T, s backend.Store) {
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		u, err := s.CreateUser(t.Context(), fmt.Sprintf("model%d", n), 1)
		if err != nil {
			rt.Fatal(err)
		}
		m := &model{t: t, rt: rt, u: u, boxes: map[string]*modelBox{}}
		list, err := u.Mailboxes(t.Context())
		m.must(err)
		for _, b := range list {
			m.boxes[b.Name] = &modelBox{id: b.ID, validity: b.UIDValidity, next: 1, high: b.HighestModSeq, client: client{high: b.HighestModSeq}}
		}
		m.lastValidity = list[len(list)-1].UIDValidity
		rt.Repeat(map[string]func(*rapid.T){
			"append": m.append, "deliver": m.deliver, "flags": m.flags, "copy": m.copy,
			"move": m.move, "expunge": m.expunge, "create": m.create, "delete": m.delete,
			"rename": m.rename, "": m.compare,
		})
	})
}

type model struct {
	t            *testing.T
	rt           *rapid.T
	u            backend.User
	boxes        map[string]*modelBox
	lastValidity uint32
	texts        int
}

type modelBox struct {
	id       backend.GUID
	validity uint32
	next     backend.UID
	high     backend.ModSeq
	messages []modelMessage
	client   client
}

type modelMessage struct {
	uid   backend.UID
	text  string
	flags []string
	seq   backend.ModSeq
}

// client is a QRESYNC client's cache of a mailbox: it asks only for what
// changed and what vanished since the ModSeq it knows.
type client struct {
	high backend.ModSeq
	seen map[backend.UID]string
}

func (m *model) must(err error) {
	if err != nil {
		m.rt.Helper()
		m.rt.Fatal(err)
	}
}

var modelNames = []string{"INBOX", "Sent", "a", "a/b", "a/b/c", "x"}

func (m *model) name(label string) string { return rapid.SampledFrom(modelNames).Draw(m.rt, label) }

// some draws UIDs, also of messages that are not there.
func (m *model) some(b *modelBox) []backend.UID {
	return rapid.SliceOfN(rapid.Map(rapid.IntRange(1, int(b.next)+1), func(i int) backend.UID { return backend.UID(i) }), 1, 6).Draw(m.rt, "uids")
}

func (m *model) drawFlags() []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom([]string{`\Seen`, `\Deleted`, `\Flagged`, "k1", "k2"}), 0, 3, rapid.ID).Draw(m.rt, "flags")
}

func (m *model) text() string {
	m.texts++
	return message(m.texts)
}

func (m *model) append(rt *rapid.T) {
	m.rt = rt
	name := m.name("mailbox")
	var in []backend.Incoming
	var added []modelMessage
	for range rapid.IntRange(1, 3).Draw(rt, "n") {
		text, flags := m.text(), m.drawFlags()
		in = append(in, incoming(text, flags...))
		slices.Sort(flags)
		added = append(added, modelMessage{text: text, flags: flags})
	}
	out, err := m.u.Append(m.t.Context(), name, in)
	b, ok := m.boxes[name]
	if !ok {
		m.want(err, backend.ErrNoMailbox)
		return
	}
	m.must(err)
	for i, a := range added {
		if out[i].UID != b.next {
			rt.Fatalf("uid %d, want %d", out[i].UID, b.next)
		}
		a.uid = b.next
		b.next++
		b.messages = append(b.messages, a)
	}
}

func (m *model) want(err, want error) {
	if !errors.Is(err, want) {
		m.rt.Fatalf("got %v, want %v", err, want)
	}
}

func (m *model) deliver(rt *rapid.T) {
	m.rt = rt
	name, text := m.name("mailbox"), m.text()
	out, err := m.u.Deliver(m.t.Context(), backend.Delivery{Incoming: incoming(text), Mailbox: name, ID: [32]byte{1, byte(m.texts), byte(m.texts >> 8)}})
	m.must(err)
	b, ok := m.boxes[name]
	if !ok {
		b = m.boxes["INBOX"]
	}
	if out.UID != b.next || out.Mailbox != b.id {
		rt.Fatalf("delivered %+v, want uid %d of %s", out, b.next, b.id)
	}
	b.messages = append(b.messages, modelMessage{uid: b.next, text: text})
	b.next++
}

func (m *model) flags(rt *rapid.T) {
	m.rt = rt
	b, ok := m.boxes[m.name("mailbox")]
	if !ok {
		return
	}
	op := backend.FlagOp(rapid.IntRange(0, 2).Draw(rt, "op"))
	given, uids := m.drawFlags(), m.some(b)
	since := backend.ModSeq(rapid.IntRange(0, int(b.high)+1).Draw(rt, "since"))
	now, held, err := m.u.SetFlags(m.t.Context(), b.id, uids, backend.FlagChange{Op: op, Flags: given, UnchangedSince: since})
	m.must(err)
	var wantHeld []backend.UID
	n := 0
	for i := range b.messages {
		msg := &b.messages[i]
		if !slices.Contains(uids, msg.uid) {
			continue
		}
		if since > 0 && msg.seq > since {
			wantHeld = append(wantHeld, msg.uid)
		} else {
			msg.flags = modelFlags(msg.flags, op, given)
		}
		if n >= len(now) || now[n].UID != msg.uid || !slices.Equal(now[n].Flags, msg.flags) {
			rt.Fatalf("now %+v, want %d with %q at %d", now, msg.uid, msg.flags, n)
		}
		n++
	}
	if n != len(now) || !slices.Equal(held, wantHeld) {
		rt.Fatalf("now %+v, held %v, want %v", now, held, wantHeld)
	}
}

func modelFlags(old []string, op backend.FlagOp, given []string) []string {
	set := map[string]bool{}
	if op != backend.FlagsReplace {
		for _, f := range old {
			set[f] = true
		}
	}
	for _, f := range given {
		set[f] = op != backend.FlagsRemove
	}
	var out []string
	for f, on := range set {
		if on {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return out
}

func (m *model) copy(rt *rapid.T) { m.rt = rt; m.transfer(m.u.Copy, false) }
func (m *model) move(rt *rapid.T) { m.rt = rt; m.transfer(m.u.Move, true) }

func (m *model) expunge(rt *rapid.T) {
	m.rt = rt
	b, ok := m.boxes[m.name("mailbox")]
	if !ok {
		return
	}
	uids, only := m.some(b), rapid.Bool().Draw(rt, "only deleted")
	if rapid.Bool().Draw(rt, "all") {
		uids = nil
	}
	gone, err := m.u.Expunge(m.t.Context(), b.id, uids, only)
	m.must(err)
	var want []backend.UID
	b.messages = slices.DeleteFunc(b.messages, func(msg modelMessage) bool {
		goes := (uids == nil || slices.Contains(uids, msg.uid)) && (!only || slices.Contains(msg.flags, `\Deleted`))
		if goes {
			want = append(want, msg.uid)
		}
		return goes
	})
	if !slices.Equal(gone, want) {
		rt.Fatalf("expunged %v, want %v", gone, want)
	}
}

func (m *model) create(rt *rapid.T) {
	m.rt = rt
	name := m.name("mailbox")
	out, err := m.u.Create(m.t.Context(), name, "")
	if _, ok := m.boxes[name]; ok {
		m.want(err, backend.ErrMailboxExists)
		return
	}
	m.must(err)
	m.made(name)
	if out.ID != m.boxes[name].id {
		rt.Fatal("another mailbox was made")
	}
}

// made notes a new mailbox, and the missing ones above it.
func (m *model) made(name string) {
	for i := range len(name) + 1 {
		if i < len(name) && name[i] != '/' {
			continue
		}
		part := name[:i]
		if _, ok := m.boxes[part]; ok {
			continue
		}
		b, err := m.u.Mailbox(m.t.Context(), part)
		m.must(err)
		if b.UIDValidity <= m.lastValidity {
			m.rt.Fatalf("uidvalidity %d of %q is not above %d", b.UIDValidity, part, m.lastValidity)
		}
		m.lastValidity = b.UIDValidity
		m.boxes[part] = &modelBox{id: b.ID, validity: b.UIDValidity, next: 1, high: 1}
	}
}
