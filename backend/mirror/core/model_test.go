package core

import (
	"maps"
	"math/rand/v2"
	"slices"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/mirror/merge"
)

// rec is a record of the simulated store's log.
type rec struct {
	pos    Pos
	user   string
	kind   string
	box    backend.GUID
	uid    backend.UID
	guid   backend.GUID
	did    [32]byte
	name   string
	on     bool
	time   effect.Clock
	jumped uint64
	whole  *merge.Account // of kind "whole": what the account is from now on

	// What the record's box is afterwards, as the digest of the real store.
	after digest
}

type digest struct {
	next     backend.UID
	seq      backend.ModSeq
	messages int
}

func digestOf(a *merge.Account, box backend.GUID) digest {
	b := a.Boxes[box]
	if b == nil {
		return digest{}
	}
	return digest{b.UIDNext, b.HighestModSeq, len(b.Messages)}
}

// applyTo makes the record's change. It reports whether it fits.
func (r *rec) applyTo(accounts map[string]*merge.Account) bool {
	if r.kind == "whole" {
		accounts[r.user] = r.whole.Clone()
		return true
	}
	a := accounts[r.user]
	if a == nil {
		a = merge.New()
		accounts[r.user] = a
	}
	b := a.Boxes[r.box]
	if b == nil && r.kind != "create" {
		return false
	}
	switch r.kind {
	case "create":
		a.Boxes[r.box] = merge.NewBox(r.name, r.time, uint32(r.time>>16))
	case "delete":
		a.Delete(r.box)
	case "rename":
		b.Name, b.NameTime = r.name, r.time
	case "add":
		if r.uid < b.UIDNext {
			return false
		}
		b.HighestModSeq++
		b.UIDNext = r.uid + 1
		b.Messages[r.uid] = merge.Message{GUID: r.guid, ModSeq: b.HighestModSeq}
		a.Deliveries[r.did] = backend.Appended{Mailbox: r.box, UID: r.uid, GUID: r.guid, UIDValidity: b.UIDValidity}
		b.JumpedIn = r.jumped
	case "flag":
		m, ok := b.Messages[r.uid]
		if !ok {
			return false
		}
		m.Flags = maps.Clone(m.Flags)
		if m.Flags == nil {
			m.Flags = make(map[string]merge.Switch)
		}
		b.HighestModSeq++
		m.Flags[r.name], m.ModSeq = merge.Switch{On: r.on, Time: r.time}, b.HighestModSeq
		b.Messages[r.uid] = m
	case "expunge":
		m, ok := b.Messages[r.uid]
		if !ok {
			return false
		}
		b.HighestModSeq++
		b.Expunged[r.uid] = merge.Tombstone{GUID: m.GUID, ModSeq: b.HighestModSeq}
		delete(b.Messages, r.uid)
	}
	return true
}

// op is what a client wants.
type op struct {
	user string
	kind string
	did  [32]byte
	dice uint64
}

// inFlight is how many UIDs of a mailbox one node can have given without the
// other's hearing of it.
const inFlight = 64

// plan makes a record of an op; ok is false when there is nothing to do.
func (o *op) plan(a *merge.Account, side Node, epoch Epoch, now effect.Clock, guid backend.GUID) (r rec, ok bool) {
	rng := rand.New(rand.NewPCG(o.dice, 7))
	r = rec{user: o.user, kind: o.kind, time: now, did: o.did, guid: guid}
	if a == nil || len(a.Boxes) == 0 {
		r.kind, r.box, r.name = "create", guid, "INBOX"
		return r, o.kind != "add"
	}
	ids := slices.SortedFunc(maps.Keys(a.Boxes), func(x, y backend.GUID) int { return slices.Compare(x[:], y[:]) })
	r.box = ids[rng.IntN(len(ids))]
	b := a.Boxes[r.box]
	uids := b.UIDs()
	switch o.kind {
	case "add":
		if _, twice := a.Deliveries[o.did]; twice {
			return r, false
		}
		r.uid, r.jumped = b.UIDNext, b.JumpedIn
		if side != Nobody && b.JumpedIn != uint64(epoch) {
			r.uid, r.jumped = merge.Jump(b.UIDNext, int(side), inFlight), uint64(epoch)
		}
	case "flag", "expunge":
		if len(uids) == 0 {
			return r, false
		}
		r.uid = uids[rng.IntN(len(uids))]
		r.guid = b.Messages[r.uid].GUID
		r.name, r.on = []string{"seen", "work"}[rng.IntN(2)], rng.IntN(2) == 0
	case "create", "rename":
		r.name = []string{"a", "b"}[rng.IntN(2)]
		if _, other := a.Named(r.name); other != nil || o.kind == "rename" && b.Name == "INBOX" {
			return r, false
		}
		if o.kind == "create" {
			r.box = guid
		}
	case "delete":
		if b.Name == "INBOX" {
			return r, false
		}
	}
	return r, true
}

func cloneAll(accounts map[string]*merge.Account) map[string]*merge.Account {
	c := make(map[string]*merge.Account, len(accounts))
	for u, a := range accounts {
		c[u] = a.Clone()
	}
	return c
}
