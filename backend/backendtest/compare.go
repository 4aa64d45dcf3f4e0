package backendtest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"switchyard/backend"
)

// transfer copies or moves.
func (m *model) transfer(do func(context.Context, backend.GUID, []backend.UID, string) (backend.Copied, error), move bool) {
	b, ok := m.boxes[m.name("from")]
	if !ok {
		return
	}
	to, uids := m.name("to"), m.some(b)
	out, err := do(m.t.Context(), b.id, uids, to)
	dest, ok := m.boxes[to]
	if !ok {
		m.want(err, backend.ErrNoMailbox)
		return
	}
	m.must(err)
	var source, added []backend.UID
	for _, msg := range slices.Clone(b.messages) {
		if !slices.Contains(uids, msg.uid) {
			continue
		}
		source = append(source, msg.uid)
		added = append(added, dest.next)
		msg.uid = dest.next
		dest.next++
		dest.messages = append(dest.messages, msg)
	}
	if !slices.Equal(out.Source, source) || !slices.Equal(out.Dest, added) {
		m.rt.Fatalf("got %+v, want %v to %v", out, source, added)
	}
	if move {
		b.messages = slices.DeleteFunc(b.messages, func(msg modelMessage) bool { return slices.Contains(source, msg.uid) })
	}
}

func (m *model) delete(rt *rapid.T) {
	m.rt = rt
	name := m.name("mailbox")
	err := m.u.Delete(m.t.Context(), name)
	_, ok := m.boxes[name]
	switch {
	case name == "INBOX":
		m.want(err, backend.ErrInbox)
	case !ok:
		m.want(err, backend.ErrNoMailbox)
	case m.hasChildren(name):
		m.want(err, backend.ErrHasChildren)
	default:
		m.must(err)
		delete(m.boxes, name)
	}
}

func (m *model) hasChildren(name string) bool {
	for other := range m.boxes {
		if strings.HasPrefix(other, name+"/") {
			return true
		}
	}
	return false
}

func (m *model) rename(rt *rapid.T) {
	m.rt = rt
	from, to := m.name("from"), m.name("to")
	err := m.u.Rename(m.t.Context(), from, to)
	b, ok := m.boxes[from]
	if !ok {
		m.want(err, backend.ErrNoMailbox)
		return
	}
	if _, ok := m.boxes[to]; ok {
		m.want(err, backend.ErrMailboxExists)
		return
	}
	if from == "INBOX" {
		m.must(err)
		m.made(to)
		for i, msg := range b.messages {
			msg.uid = backend.UID(i + 1)
			m.boxes[to].messages = append(m.boxes[to].messages, msg)
		}
		m.boxes[to].next = backend.UID(len(b.messages) + 1)
		b.messages = nil
		return
	}
	if strings.HasPrefix(to, from+"/") {
		m.want(err, backend.ErrMailboxName)
		return
	}
	for name := range m.boxes {
		if _, clash := m.boxes[to+strings.TrimPrefix(name, from)]; clash && strings.HasPrefix(name, from+"/") {
			m.want(err, backend.ErrMailboxExists)
			return
		}
	}
	m.must(err)
	moved := map[string]*modelBox{}
	for name, box := range m.boxes {
		if name == from || strings.HasPrefix(name, from+"/") {
			moved[to+name[len(from):]] = box
			delete(m.boxes, name)
		}
	}
	for name, box := range moved {
		m.boxes[name] = box
	}
	m.made(to)
}

// compare compares the account with the model.
func (m *model) compare(rt *rapid.T) {
	m.rt = rt
	list, err := m.u.Mailboxes(m.t.Context())
	m.must(err)
	if len(list) != len(m.boxes) {
		rt.Fatalf("%d mailboxes, want %d", len(list), len(m.boxes))
	}
	for _, got := range list {
		b, ok := m.boxes[got.Name]
		if !ok || got.ID != b.id || got.UIDValidity != b.validity || got.UIDNext != b.next || got.HighestModSeq < b.high {
			rt.Fatalf("mailbox %+v, the model has %+v", got, b)
		}
		m.compareBox(got, b)
	}
}

func (m *model) compareBox(got backend.Mailbox, b *modelBox) {
	v, err := m.u.View(m.t.Context(), b.id)
	m.must(err)
	if v.Mailbox != got || v.Messages.Len() != len(b.messages) || int(got.Messages) != len(b.messages) {
		m.rt.Fatalf("%s: %d messages, want %d", got.Name, v.Messages.Len(), len(b.messages))
	}
	var unseen, deleted uint32
	fresh := map[backend.UID]string{}
	for i, msg := range v.Messages.All() {
		want := &b.messages[i]
		if msg.UID != want.uid || !slices.Equal(msg.Flags, want.flags) || msg.Size != int64(len(want.text)) || msg.ModSeq > got.HighestModSeq {
			m.rt.Fatalf("%s: message %+v, want %+v", got.Name, *msg, *want)
		}
		want.seq = msg.ModSeq
		if !slices.Contains(msg.Flags, `\Seen`) {
			unseen++
		}
		if slices.Contains(msg.Flags, `\Deleted`) {
			deleted++
		}
		fresh[msg.UID] = fmt.Sprint(msg.Flags)
		if b.client.seen[msg.UID] == "" { // new to the client: read it once
			if text := body(m.t, m.u, b.id, msg.UID); text != want.text {
				m.rt.Fatalf("%s: message %d reads %q, want %q", got.Name, msg.UID, text, want.text)
			}
		}
	}
	if got.Unseen != unseen || got.Deleted != deleted {
		m.rt.Fatalf("%s: counters %+v", got.Name, got)
	}
	b.high = got.HighestModSeq
	m.resync(v, b, fresh)
}

// resync brings the client's cache up to date by differences alone, and
// compares it with what is there.
func (m *model) resync(v backend.View, b *modelBox, fresh map[backend.UID]string) {
	c := &b.client
	if c.seen == nil {
		c.seen = map[backend.UID]string{}
	}
	gone, ok, err := m.u.Vanished(m.t.Context(), b.id, c.high)
	m.must(err)
	if !ok {
		m.rt.Fatal("the store forgot recent expunges")
	}
	for _, uid := range gone {
		delete(c.seen, uid)
	}
	for _, msg := range v.Messages.All() {
		if msg.ModSeq > c.high {
			c.seen[msg.UID] = fmt.Sprint(msg.Flags)
		}
	}
	c.high = v.Mailbox.HighestModSeq
	if len(c.seen) != len(fresh) {
		m.rt.Fatalf("the client's cache has %d messages, a fresh look %d", len(c.seen), len(fresh))
	}
	for uid, flags := range fresh {
		if c.seen[uid] != flags {
			m.rt.Fatalf("the client's cache has %d as %s, it is %s", uid, c.seen[uid], flags)
		}
	}
}
