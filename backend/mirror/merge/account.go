// Package merge makes one account of two that were changed apart: the rules of
// the mirror for what both nodes acknowledged while neither heard the other.
//
// It is a pure function over values in memory. What it promises, and its tests
// check: the result does not depend on whose account is called the first; doing
// it again changes nothing; a UID names one message for ever; no message is lost
// that nobody expunged; and a client that remembers UIDNEXT and HIGHESTMODSEQ of
// either node finds everything that is new to it above them.
package merge

import (
	"maps"
	"slices"
	"strings"

	"switchyard/backend"
	"switchyard/backend/effect"
)

// Account is one account's state as a merge needs it.
type Account struct {
	Boxes      map[backend.GUID]*Box
	Gone       map[backend.GUID]Gone
	Subscribed map[string]Switch
	Deliveries map[[32]byte]backend.Appended
}

// Box is a mailbox.
type Box struct {
	Name          string
	NameTime      effect.Clock
	UIDValidity   uint32
	UIDNext       backend.UID
	HighestModSeq backend.ModSeq
	Messages      map[backend.UID]Message
	Expunged      map[backend.UID]Tombstone

	// Exposed says that a client has seen the mailbox's UIDs on this node since
	// the nodes lost each other, or may have.
	Exposed bool

	// Outlived are the UIDs that a deletion of the mailbox had seen which it
	// survived: that deletion is dealt with.
	Outlived map[backend.UID]bool

	// JumpedIn is the epoch in which UIDs were last given from a block of this
	// node's own.
	JumpedIn uint64
}

// Message is one message. Flags that were never touched are not in Flags.
type Message struct {
	GUID   backend.GUID
	ModSeq backend.ModSeq
	Flags  map[string]Switch
}

// Switch is on or off since a moment. The later one counts, of two at one
// moment the one that is on.
type Switch struct {
	On   bool
	Time effect.Clock
}

// Tombstone is what is left of an expunged message.
type Tombstone struct {
	GUID   backend.GUID
	ModSeq backend.ModSeq
}

// Gone is what is left of a mailbox: the messages that were seen in it, which are
// dealt with, and where it went when it became part of another. The zero GUID
// stands for whatever message had the UID.
type Gone struct {
	Seen map[backend.UID]backend.GUID
	To   backend.GUID

	// What a client may have seen last, should the mailbox live on.
	UIDNext       backend.UID
	HighestModSeq backend.ModSeq
}

// New returns an account with nothing in it.
func New() *Account {
	return &Account{
		Boxes: make(map[backend.GUID]*Box), Gone: make(map[backend.GUID]Gone),
		Subscribed: make(map[string]Switch), Deliveries: make(map[[32]byte]backend.Appended),
	}
}

// NewBox returns an empty mailbox.
func NewBox(name string, at effect.Clock, validity uint32) *Box {
	return &Box{
		Name: name, NameTime: at, UIDValidity: validity, UIDNext: 1, HighestModSeq: 1,
		Messages: make(map[backend.UID]Message), Expunged: make(map[backend.UID]Tombstone),
	}
}

// Clone returns a copy that shares nothing.
func (a *Account) Clone() *Account {
	c := &Account{Boxes: make(map[backend.GUID]*Box), Gone: make(map[backend.GUID]Gone),
		Subscribed: maps.Clone(a.Subscribed), Deliveries: maps.Clone(a.Deliveries)}
	for id, g := range a.Gone {
		g.Seen = maps.Clone(g.Seen)
		c.Gone[id] = g
	}
	for id, b := range a.Boxes {
		c.Boxes[id] = b.clone()
	}
	return c
}

func (b *Box) clone() *Box {
	n := *b
	n.Messages, n.Expunged = make(map[backend.UID]Message, len(b.Messages)), maps.Clone(b.Expunged)
	for uid, m := range b.Messages {
		m.Flags = maps.Clone(m.Flags)
		n.Messages[uid] = m
	}
	n.Outlived = maps.Clone(b.Outlived)
	return &n
}

// saw reports whether a deletion had seen a message.
func (g *Gone) saw(uid backend.UID, m Message) bool {
	guid, ok := g.Seen[uid]
	return ok && (guid == m.GUID || guid.IsZero())
}

// add counts more messages as dealt with.
func (g *Gone) add(seen map[backend.UID]backend.GUID) {
	for uid, guid := range seen {
		if was, ok := g.Seen[uid]; ok && was != guid {
			guid = backend.GUID{}
		}
		g.Seen[uid] = guid
	}
}

// outlived reports whether a deletion that saw these UIDs is dealt with.
func (b *Box) outlived(seen map[backend.UID]backend.GUID) bool {
	for uid := range seen {
		if !b.Outlived[uid] {
			return false
		}
	}
	return b.Outlived != nil
}

// outlive remembers a deletion that is dealt with.
func (b *Box) outlive(seen map[backend.UID]backend.GUID) {
	if b.Outlived == nil {
		b.Outlived = make(map[backend.UID]bool, len(seen))
	}
	for uid := range seen {
		b.Outlived[uid] = true
	}
}

// seen returns the messages that were ever in the mailbox.
func (b *Box) seen() map[backend.UID]backend.GUID {
	s := make(map[backend.UID]backend.GUID, len(b.Messages)+len(b.Expunged))
	for uid, m := range b.Messages {
		s[uid] = m.GUID
	}
	for uid, t := range b.Expunged {
		s[uid] = t.GUID
	}
	return s
}

// UIDs returns the mailbox's messages, ascending.
func (b *Box) UIDs() []backend.UID { return slices.Sorted(maps.Keys(b.Messages)) }

// Delete removes a mailbox.
func (a *Account) Delete(id backend.GUID) {
	b := a.Boxes[id]
	a.Gone[id] = Gone{Seen: b.seen(), UIDNext: b.UIDNext, HighestModSeq: b.HighestModSeq}
	delete(a.Boxes, id)
}

// Find returns a mailbox by its identity, also one that became part of another.
func (a *Account) Find(id backend.GUID) (backend.GUID, *Box) {
	for range len(a.Gone) + 1 {
		if b, ok := a.Boxes[id]; ok {
			return id, b
		}
		id = a.Gone[id].To
	}
	return backend.GUID{}, nil
}

// Named returns a mailbox by its name.
func (a *Account) Named(name string) (backend.GUID, *Box) {
	for id, b := range a.Boxes {
		if b.Name == name {
			return id, b
		}
	}
	return backend.GUID{}, nil
}

// block is how many UIDs belong together: without an arbiter each node gives
// UIDs from blocks of its own, so that none can name two messages.
const block = 1 << 16

// Jump returns the first UID to give in a mailbox after a split, from a fresh
// block of a side, 1 or 2. The other node may have given some of what follows
// next before it fell silent, up to inFlight of them: those are left out, too.
func Jump(next backend.UID, side int, inFlight uint64) backend.UID {
	b := (uint64(next)+inFlight)/block + 1
	if b%2 != uint64(side)%2 {
		b++
	}
	return backend.UID(b * block)
}

// equal reports whether two messages look the same to a client.
func (m Message) equal(o Message) bool {
	return m.GUID == o.GUID && slices.Equal(m.On(), o.On())
}

// On returns the flags that are set, sorted.
func (m Message) On() (list []string) {
	for f, s := range m.Flags {
		if s.On {
			list = append(list, f)
		}
	}
	slices.Sort(list)
	return list
}

// later returns which of two switches counts.
func (s Switch) later(o Switch) Switch {
	if o.Time > s.Time || o.Time == s.Time && o.On {
		return o
	}
	return s
}

// switches takes the later of each.
func switches(a, b map[string]Switch) map[string]Switch {
	out := make(map[string]Switch, max(len(a), len(b)))
	maps.Copy(out, a)
	for k, s := range b {
		if was, ok := out[k]; ok {
			s = was.later(s)
		}
		out[k] = s
	}
	return out
}

// laterName returns the name that counts.
func laterName(a, b *Box) (string, effect.Clock) {
	if b.NameTime > a.NameTime || b.NameTime == a.NameTime && strings.Compare(b.Name, a.Name) > 0 {
		return b.Name, b.NameTime
	}
	return a.Name, a.NameTime
}
