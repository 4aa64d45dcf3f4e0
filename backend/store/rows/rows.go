package rows

import (
	"slices"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/effect/pack"
	"switchyard/backend/store/segment"
)

// Account is what is known of an account beside its mailboxes.
type Account struct {
	ID              backend.GUID // zero: the node's queue
	Generation      uint64
	LastUIDValidity uint32
	LastQueued      uint64 // the queue's newest number
}

func (r Account) Append(b []byte) []byte {
	b = pack.Uint(b, r.Generation)
	b = pack.Uint(b, uint64(r.LastUIDValidity))
	return pack.Uint(b, r.LastQueued)
}

func (r *Account) Read(b []byte) error {
	in := pack.NewReader(b)
	r.Generation, r.LastUIDValidity, r.LastQueued = in.Uint(), in.Uint32(), in.Uint()
	return in.End()
}

// Box is a mailbox with what the store itself keeps about it.
type Box struct {
	backend.Mailbox
	Sum        effect.Digest  // over the messages
	Overlaid   uint64         // how many UIDs its rows of flags name
	Tombstones uint64         // how many there are
	Floor      backend.ModSeq // expunges up to here may be forgotten
}

func (r *Box) Append(b []byte) []byte {
	b = pack.String(b, r.Name)
	b = pack.String(b, r.Use)
	for _, v := range []uint64{
		uint64(r.UIDValidity), uint64(r.UIDNext), uint64(r.HighestModSeq),
		uint64(r.Messages), uint64(r.Unseen), uint64(r.Deleted), uint64(r.Size),
		r.Overlaid, r.Tombstones, uint64(r.Floor),
	} {
		b = pack.Uint(b, v)
	}
	return r.Sum.Append(b)
}

func (r *Box) Read(id backend.GUID, b []byte) error {
	in := pack.NewReader(b)
	r.ID = id
	r.Name, r.Use = in.String(), in.String()
	r.UIDValidity, r.UIDNext, r.HighestModSeq = in.Uint32(), backend.UID(in.Uint32()), backend.ModSeq(in.Uint())
	r.Messages, r.Unseen, r.Deleted, r.Size = in.Uint32(), in.Uint32(), in.Uint32(), in.Size()
	r.Overlaid = in.Uint()
	r.Tombstones, r.Floor = in.Uint(), backend.ModSeq(in.Uint())
	r.Sum = effect.ReadDigest(in)
	return in.End()
}

// Flags says that messages have other flags than their rows say, unless their
// rows have a higher ModSeq. So that new flags for a whole mailbox are one row.
type Flags struct {
	Flags []string
	UIDs  []backend.UID // ascending
}

func (r Flags) Append(b []byte) []byte { return effect.AppendFlags(b, r.Flags, r.UIDs) }

func (r *Flags) Read(b []byte) error {
	in := pack.NewReader(b)
	r.Flags, r.UIDs = effect.ReadFlags(in)
	return in.End()
}

// Body says where a body is.
type Body struct {
	segment.Place
	Refs uint64 // messages, or queue entries, that have it
}

func (r Body) Append(b []byte) []byte {
	for _, v := range []uint64{uint64(r.Segment), uint64(r.Offset), uint64(r.Length), uint64(r.Size), r.Refs} {
		b = pack.Uint(b, v)
	}
	return b
}

func (r *Body) Read(b []byte) error {
	in := pack.NewReader(b)
	r.Segment, r.Offset, r.Length, r.Size, r.Refs = in.Uint32(), in.Size(), in.Size(), in.Size(), in.Uint()
	return in.End()
}

// Tombstone is an expunged message.
type Tombstone struct {
	GUID backend.GUID
	Time effect.Clock
}

func (r Tombstone) Append(b []byte) []byte { return pack.Uint(append(b, r.GUID[:]...), uint64(r.Time)) }

func (r *Tombstone) Read(b []byte) error {
	in := pack.NewReader(b)
	in.Fill(r.GUID[:])
	r.Time = effect.Clock(in.Uint())
	return in.End()
}

// Delivery remembers the answer to a delivery.
type Delivery struct {
	Time effect.Clock
	backend.Appended
}

func (r Delivery) Append(b []byte) []byte {
	b = append(pack.Uint(b, uint64(r.Time)), r.Mailbox[:]...)
	b = pack.Uint(pack.Uint(b, uint64(r.UIDValidity)), uint64(r.UID))
	return append(b, r.GUID[:]...)
}

func (r *Delivery) Read(b []byte) error {
	in := pack.NewReader(b)
	r.Time = effect.Clock(in.Uint())
	in.Fill(r.Mailbox[:])
	r.UIDValidity, r.UID = in.Uint32(), backend.UID(in.Uint32())
	in.Fill(r.GUID[:])
	return in.End()
}

// Entry is an entry of the node's queue.
type Entry struct {
	Body  backend.GUID
	Size  int64
	Entry []byte
}

func (r Entry) Append(b []byte) []byte {
	b = pack.Uint(append(b, r.Body[:]...), uint64(r.Size))
	return append(b, r.Entry...)
}

// Read keeps a part of b.
func (r *Entry) Read(b []byte) error {
	in := pack.NewReader(b)
	in.Fill(r.Body[:])
	r.Size = in.Size()
	r.Entry = in.Raw(in.Len())
	return in.End()
}

// Applied says how far a shard's log is applied.
type Applied struct {
	Epoch, Seq uint64
	Time       effect.Clock
}

func (r Applied) Append(b []byte) []byte {
	return pack.Uint(pack.Uint(pack.Uint(b, r.Epoch), r.Seq), uint64(r.Time))
}

func (r *Applied) Read(b []byte) error {
	in := pack.NewReader(b)
	r.Epoch, r.Seq, r.Time = in.Uint(), in.Uint(), effect.Clock(in.Uint())
	return in.End()
}

// Epochs are the epochs of a shard's log but for the newest, which its last
// record tells.
type Epochs []effect.Span

func (r Epochs) Append(b []byte) []byte {
	b = pack.Uint(b, uint64(len(r)))
	for _, span := range r {
		b = pack.Uint(pack.Uint(b, span.Epoch), span.Last)
	}
	return b
}

func (r *Epochs) Read(b []byte) error {
	in := pack.NewReader(b)
	*r = nil
	for range in.Count(2) {
		*r = append(*r, effect.Span{Epoch: in.Uint(), Last: in.Uint()})
	}
	return in.End()
}

// Quarantine says that an account is shut off: the record Seq of its log, and
// what follows for the account, is not in its state.
type Quarantine struct {
	Seq    uint64
	Reason string
}

func (r Quarantine) Append(b []byte) []byte { return pack.String(pack.Uint(b, r.Seq), r.Reason) }

func (r *Quarantine) Read(b []byte) error {
	in := pack.NewReader(b)
	r.Seq, r.Reason = in.Uint(), in.String()
	return in.End()
}

// Count takes a message into the mailbox's counters, or out of them.
func (r *Box) Count(m *backend.Message, sign int) {
	one := uint32(sign)
	r.Messages += one
	r.Size += int64(sign) * m.Size
	if !slices.Contains(m.Flags, backend.FlagSeen) {
		r.Unseen += one
	}
	if slices.Contains(m.Flags, backend.FlagDeleted) {
		r.Deleted += one
	}
	if sign > 0 {
		r.Sum = r.Sum.Add(effect.OfMessage(m))
	} else {
		r.Sum = r.Sum.Sub(effect.OfMessage(m))
	}
}
