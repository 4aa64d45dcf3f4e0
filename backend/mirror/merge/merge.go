package merge

import (
	"bytes"
	"maps"
	"slices"

	"switchyard/backend"
)

// Stats count what a merge did.
type Stats struct {
	Renumbered int // messages that got another UID
	Joined     int // mailboxes that became part of another
	Revived    int // deleted mailboxes that live on with what the deleter had not seen
	Duplicates int // deliveries that both nodes had taken
}

// Blocks say where the node that merges takes new UIDs from: a fresh block of its
// side, 1 or 2, in each mailbox. The other node may have given up to InFlight
// UIDs that its account does not show yet, and may show them after a crash.
// Side 0 is for two that give no more: UIDs go on from UIDNEXT.
type Blocks struct {
	Side     int
	InFlight uint64
}

// Accounts merges node A's account and node B's. Neither is changed, and the
// result shares nothing with them.
func Accounts(a, b *Account, by Blocks) (*Account, Stats) {
	m := &merger{a: a, b: b, by: by, out: New(), moved: make(map[place]place), clashed: make(map[backend.GUID]place), fresh: make(map[backend.GUID]bool)}
	m.gone()
	for _, id := range sortedIDs(a.Boxes, b.Boxes) {
		m.box(id)
	}
	m.aliases()
	m.names()
	m.out.Subscribed = switches(a.Subscribed, b.Subscribed)
	m.deliveries()
	return m.out, m.stats
}

// place is a message's whereabouts.
type place struct {
	box backend.GUID
	uid backend.UID
}

type merger struct {
	a, b, out *Account
	by        Blocks
	fresh     map[backend.GUID]bool // mailboxes that give UIDs from a fresh block
	moved     map[place]place
	clashed   map[backend.GUID]place // where messages went that shared a UID
	stats     Stats
}

func sortedIDs[V any](list ...map[backend.GUID]V) []backend.GUID {
	all := make(map[backend.GUID]bool)
	for _, l := range list {
		for id := range l {
			all[id] = true
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(x, y backend.GUID) int { return bytes.Compare(x[:], y[:]) })
}

// gone unites what is known of mailboxes that are no more.
func (m *merger) gone() {
	for _, id := range sortedIDs(m.a.Gone, m.b.Gone) {
		ga, gb := m.a.Gone[id], m.b.Gone[id]
		g := Gone{Seen: make(map[backend.UID]backend.GUID), To: ga.To,
			UIDNext: max(ga.UIDNext, gb.UIDNext), HighestModSeq: max(ga.HighestModSeq, gb.HighestModSeq)}
		if bytes.Compare(gb.To[:], ga.To[:]) > 0 {
			g.To = gb.To
		}
		g.add(ga.Seen)
		g.add(gb.Seen)
		m.out.Gone[id] = g
	}
}

// box merges one mailbox that at least one node has.
func (m *merger) box(id backend.GUID) {
	ba, bb := m.a.Boxes[id], m.b.Boxes[id]
	if ba != nil && bb != nil {
		m.out.Boxes[id] = m.both(id, ba, bb)
		return
	}
	one := ba
	if one == nil {
		one = bb
	}
	g, deleted := m.out.Gone[id]
	if deleted && one.outlived(g.Seen) {
		delete(m.out.Gone, id)
		deleted = false
	}
	if !deleted {
		m.out.Boxes[id] = one.clone()
		m.out.Boxes[id].Exposed, m.out.Boxes[id].JumpedIn = false, 0
		return
	}
	// The other node deleted it: what that had seen goes, what it had not stays.
	left := one.clone()
	left.Exposed, left.JumpedIn = false, 0
	for _, uid := range one.UIDs() {
		if g.saw(uid, left.Messages[uid]) {
			left.HighestModSeq++
			left.Expunged[uid] = Tombstone{left.Messages[uid].GUID, left.HighestModSeq}
			delete(left.Messages, uid)
		}
	}
	deleter := maps.Clone(g.Seen)
	g.add(one.seen())
	switch {
	case len(left.Messages) == 0:
	case g.To != backend.GUID{}:
		m.out.Boxes[id] = left // names and aliases are looked at later
	default:
		delete(m.out.Gone, id)
		left.outlive(deleter)
		for _, uid := range slices.Sorted(maps.Keys(g.Seen)) { // both nodes know them from now on
			if _, ok := left.Messages[uid]; !ok {
				if _, ok := left.Expunged[uid]; !ok {
					left.HighestModSeq++
					left.Expunged[uid] = Tombstone{g.Seen[uid], left.HighestModSeq}
					left.UIDNext = max(left.UIDNext, uid+1)
				}
			}
		}
		m.out.Boxes[id] = left
		m.revive(id, left, g)
	}
}

// revive lets a mailbox live on. Clients of the node that deleted it may come
// back with what they knew of it: everything is new to them.
func (m *merger) revive(id backend.GUID, b *Box, g Gone) {
	uids := b.UIDs()
	below := len(uids) > 0 && uids[0] < g.UIDNext
	b.UIDNext, b.HighestModSeq = max(b.UIDNext, g.UIDNext), max(b.HighestModSeq, g.HighestModSeq)
	if below {
		m.renumber(id, b, uids)
	}
	for _, uid := range b.UIDs() {
		if msg := b.Messages[uid]; msg.ModSeq <= g.HighestModSeq {
			b.HighestModSeq++
			msg.ModSeq = b.HighestModSeq
			b.Messages[uid] = msg
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(b.Expunged)) {
		if t := b.Expunged[uid]; t.ModSeq <= g.HighestModSeq {
			b.HighestModSeq++
			t.ModSeq = b.HighestModSeq
			b.Expunged[uid] = t
		}
	}
	m.stats.Revived++
}

// both merges a mailbox that both nodes have.
func (m *merger) both(id backend.GUID, a, b *Box) *Box {
	out := NewBox("", 0, max(a.UIDValidity, b.UIDValidity))
	out.Name, out.NameTime = laterName(a, b)
	out.UIDNext, out.HighestModSeq = max(a.UIDNext, b.UIDNext), max(a.HighestModSeq, b.HighestModSeq)
	if a.Outlived != nil || b.Outlived != nil {
		out.Outlived = make(map[backend.UID]bool, len(a.Outlived)+len(b.Outlived))
		maps.Copy(out.Outlived, a.Outlived)
		maps.Copy(out.Outlived, b.Outlived)
	}
	seq := func() backend.ModSeq { out.HighestModSeq++; return out.HighestModSeq }

	tailA, tailB := tail(a, b), tail(b, a)
	renumberA, renumberB := renumber(a, b, tailA, tailB)

	for _, uid := range union(a.Expunged, b.Expunged) {
		ta, inA := a.Expunged[uid]
		tb, inB := b.Expunged[uid]
		t := Tombstone{GUID: ta.GUID, ModSeq: max(ta.ModSeq, tb.ModSeq)}
		if !inA {
			t.GUID = tb.GUID
		}
		if !inA && t.ModSeq <= a.HighestModSeq || !inB && t.ModSeq <= b.HighestModSeq {
			t.ModSeq = seq()
		}
		out.Expunged[uid] = t
	}
	var clash []Message
	for _, uid := range union(a.Messages, b.Messages) {
		ma, inA := a.Messages[uid]
		mb, inB := b.Messages[uid]
		if found := clashing(out.Expunged, uid, ma, inA, mb, inB); len(found) > 0 {
			clash = append(clash, found...)
			out.Expunged[uid] = Tombstone{ModSeq: seq()}
			continue
		}
		if _, gone := out.Expunged[uid]; gone {
			continue
		}
		n := Message{GUID: ma.GUID, ModSeq: max(ma.ModSeq, mb.ModSeq), Flags: switches(ma.Flags, mb.Flags)}
		if len(n.Flags) == 0 {
			n.Flags = nil
		}
		if !inA {
			n.GUID = mb.GUID
		}
		changedA := !inA || !n.equal(ma) || n.ModSeq != ma.ModSeq
		changedB := !inB || !n.equal(mb) || n.ModSeq != mb.ModSeq
		if changedA && n.ModSeq <= a.HighestModSeq || changedB && n.ModSeq <= b.HighestModSeq {
			n.ModSeq = seq()
		}
		out.Messages[uid] = n
	}
	var uids []backend.UID
	if renumberA {
		uids = append(uids, tailA...)
	}
	if renumberB {
		uids = append(uids, tailB...)
	}
	slices.Sort(uids)
	m.renumber(id, out, uids)
	for _, msg := range clash {
		msg.ModSeq, msg.Flags = seq(), maps.Clone(msg.Flags)
		uid := m.give(id, out)
		out.Messages[uid] = msg
		m.clashed[msg.GUID] = place{id, uid}
		m.stats.Renumbered++
	}
	return out
}

// clashing returns the messages whose UID names another on the other node. It
// takes an operator's promotion of a node that had given UIDs nobody heard of:
// blocks come too late for those. All of them get new ones.
func clashing(expunged map[backend.UID]Tombstone, uid backend.UID, a Message, inA bool, b Message, inB bool) (list []Message) {
	if inA && inB {
		if a.GUID == b.GUID {
			return nil
		}
		if bytes.Compare(a.GUID[:], b.GUID[:]) > 0 {
			a, b = b, a
		}
		return []Message{a, b}
	}
	one := a
	if inB {
		one = b
	}
	if t, gone := expunged[uid]; gone && !t.GUID.IsZero() && t.GUID != one.GUID {
		return []Message{one}
	}
	return nil
}

// tail returns the messages that only one node has ever had, ascending.
func tail(b, other *Box) (uids []backend.UID) {
	for _, uid := range b.UIDs() {
		_, lives := other.Messages[uid]
		_, gone := other.Expunged[uid]
		if !lives && !gone {
			uids = append(uids, uid)
		}
	}
	return uids
}

// renumber decides whose new messages get other UIDs. Messages must not appear
// below a UIDNEXT that a client may have seen on the other node. When clients
// have looked at both, both get new ones: a client may have been at either last. When
// none has looked at either, none does: the blocks keep them apart.
func renumber(a, b *Box, tailA, tailB []backend.UID) (renumberA, renumberB bool) {
	below := func(tail []backend.UID, next backend.UID) bool { return len(tail) > 0 && tail[0] < next }
	switch {
	case len(tailA) == 0 || len(tailB) == 0:
		return below(tailA, b.UIDNext) && b.Exposed, below(tailB, a.UIDNext) && a.Exposed
	default:
		return b.Exposed, a.Exposed
	}
}

// renumber gives messages new UIDs above all that was ever given.
func (m *merger) renumber(id backend.GUID, out *Box, uids []backend.UID) {
	for _, uid := range uids {
		msg, ok := out.Messages[uid]
		if !ok {
			continue
		}
		m.move(place{id, uid}, id, out, out, msg)
		m.stats.Renumbered++
	}
}

// give takes a UID for a message that gets a new one.
func (m *merger) give(id backend.GUID, b *Box) backend.UID {
	if m.by.Side != 0 && !m.fresh[id] {
		m.fresh[id] = true
		b.UIDNext = Jump(b.UIDNext, m.by.Side, m.by.InFlight)
	}
	b.UIDNext++
	return b.UIDNext - 1
}

// move puts a message elsewhere and leaves a tombstone.
func (m *merger) move(from place, into backend.GUID, old, new *Box, msg Message) {
	to := place{into, m.give(into, new)}
	delete(old.Messages, from.uid)
	old.HighestModSeq++
	old.Expunged[from.uid] = Tombstone{msg.GUID, old.HighestModSeq}
	new.HighestModSeq++
	msg.ModSeq = new.HighestModSeq
	new.Messages[to.uid] = msg
	m.moved[from] = to
}

// aliases makes what one node calls gone into the mailbox that it became.
func (m *merger) aliases() {
	for _, id := range sortedIDs(m.out.Boxes) {
		g, ok := m.out.Gone[id]
		if !ok {
			continue
		}
		if to, b := m.out.Find(g.To); b != nil && to != id {
			m.join(id, to)
			continue
		}
		m.out.Boxes[id].outlive(g.Seen)
		delete(m.out.Gone, id) // what it became is gone itself: it lives on
		m.revive(id, m.out.Boxes[id], g)
	}
}

// names joins mailboxes that have come to have one name: the one with the
// higher UIDVALIDITY takes the other's messages.
func (m *merger) names() {
	byName := make(map[string]backend.GUID)
	for _, id := range sortedIDs(m.out.Boxes) {
		b := m.out.Boxes[id]
		other, taken := byName[b.Name]
		if !taken {
			byName[b.Name] = id
			continue
		}
		if b.UIDValidity >= m.out.Boxes[other].UIDValidity {
			id, other = other, id
		}
		m.join(id, other)
		byName[b.Name] = other
	}
}

// join moves the messages of one mailbox into another, whose name it shares or
// whose part it is.
func (m *merger) join(from, to backend.GUID) {
	old, into := m.out.Boxes[from], m.out.Boxes[to]
	for _, uid := range old.UIDs() {
		m.move(place{from, uid}, to, old, into, old.Messages[uid])
	}
	g := m.out.Gone[from]
	if g.Seen == nil {
		g.Seen = make(map[backend.UID]backend.GUID)
	}
	g.add(old.seen())
	g.To, g.UIDNext, g.HighestModSeq = to, max(g.UIDNext, old.UIDNext), max(g.HighestModSeq, old.HighestModSeq)
	m.out.Gone[from] = g
	delete(m.out.Boxes, from)
	m.stats.Joined++
}

// deliveries unites the delivery ids. A delivery that both nodes took, since the
// sender tried the one after the other, is one message afterwards: that with the
// lower GUID.
func (m *merger) deliveries() {
	follow := func(d backend.Appended) backend.Appended {
		at := place{d.Mailbox, d.UID}
		if to, ok := m.clashed[d.GUID]; ok {
			at = to
		}
		for range len(m.moved) {
			to, ok := m.moved[at]
			if !ok {
				break
			}
			at = to
		}
		d.Mailbox, d.UID = at.box, at.uid
		if b := m.out.Boxes[at.box]; b != nil {
			d.UIDValidity = b.UIDValidity
		}
		return d
	}
	ids := slices.Collect(maps.Keys(m.a.Deliveries))
	for id := range m.b.Deliveries {
		if _, ok := m.a.Deliveries[id]; !ok {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(x, y [32]byte) int { return bytes.Compare(x[:], y[:]) })
	for _, id := range ids {
		da, inA := m.a.Deliveries[id]
		db, inB := m.b.Deliveries[id]
		switch {
		case !inB:
			m.out.Deliveries[id] = follow(da)
		case !inA:
			m.out.Deliveries[id] = follow(db)
		case da.GUID == db.GUID:
			da, db = follow(da), follow(db)
			if m.lives(db) && !m.lives(da) || m.lives(db) == m.lives(da) && da.UID < db.UID {
				da = db
			}
			m.out.Deliveries[id] = da
		default:
			if bytes.Compare(db.GUID[:], da.GUID[:]) < 0 {
				da, db = db, da
			}
			m.out.Deliveries[id] = follow(da)
			m.once(follow(db))
		}
	}
}

func (m *merger) lives(d backend.Appended) bool {
	b := m.out.Boxes[d.Mailbox]
	return b != nil && b.Messages[d.UID].GUID == d.GUID
}

// once removes the second copy of a delivery.
func (m *merger) once(d backend.Appended) {
	if !m.lives(d) {
		return
	}
	b := m.out.Boxes[d.Mailbox]
	delete(b.Messages, d.UID)
	b.HighestModSeq++
	b.Expunged[d.UID] = Tombstone{d.GUID, b.HighestModSeq}
	m.stats.Duplicates++
}

// union returns the UIDs of both, ascending.
func union[V any](a, b map[backend.UID]V) []backend.UID {
	all := make(map[backend.UID]bool, len(a)+len(b))
	for uid := range a {
		all[uid] = true
	}
	for uid := range b {
		all[uid] = true
	}
	return slices.Sorted(maps.Keys(all))
}
