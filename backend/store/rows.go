package store

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/effect/pack"
	"switchyard/backend/store/segment"
)

// accountRow is what is known of an account beside its mailboxes.
type accountRow struct {
	id              backend.GUID // zero: the node's queue
	generation      uint64
	lastUIDValidity uint32
	lastQueued      uint64 // the queue's newest number
}

func (r accountRow) append(b []byte) []byte {
	b = pack.Uint(b, r.generation)
	b = pack.Uint(b, uint64(r.lastUIDValidity))
	return pack.Uint(b, r.lastQueued)
}

func (r *accountRow) read(b []byte) error {
	in := pack.NewReader(b)
	r.generation, r.lastUIDValidity, r.lastQueued = in.Uint(), in.Uint32(), in.Uint()
	return in.End()
}

// boxRow is a mailbox with what the store itself keeps about it.
type boxRow struct {
	backend.Mailbox
	sum        effect.Digest  // over the messages
	tombstones uint64         // how many there are
	floor      backend.ModSeq // expunges up to here may be forgotten
}

func (r *boxRow) append(b []byte) []byte {
	b = pack.String(b, r.Name)
	b = pack.String(b, r.Use)
	for _, v := range []uint64{
		uint64(r.UIDValidity), uint64(r.UIDNext), uint64(r.HighestModSeq),
		uint64(r.Messages), uint64(r.Unseen), uint64(r.Deleted), uint64(r.Size),
		r.tombstones, uint64(r.floor),
	} {
		b = pack.Uint(b, v)
	}
	return r.sum.Append(b)
}

func (r *boxRow) read(id backend.GUID, b []byte) error {
	in := pack.NewReader(b)
	r.ID = id
	r.Name, r.Use = in.String(), in.String()
	r.UIDValidity, r.UIDNext, r.HighestModSeq = in.Uint32(), backend.UID(in.Uint32()), backend.ModSeq(in.Uint())
	r.Messages, r.Unseen, r.Deleted, r.Size = in.Uint32(), in.Uint32(), in.Uint32(), in.Size()
	r.tombstones, r.floor = in.Uint(), backend.ModSeq(in.Uint())
	r.sum = effect.ReadDigest(in)
	return in.End()
}

// bodyRow says where a body is.
type bodyRow struct {
	segment.Place
	refs uint64 // messages, or queue entries, that have it
}

func (r bodyRow) append(b []byte) []byte {
	for _, v := range []uint64{uint64(r.Segment), uint64(r.Offset), uint64(r.Length), uint64(r.Size), r.refs} {
		b = pack.Uint(b, v)
	}
	return b
}

func (r *bodyRow) read(b []byte) error {
	in := pack.NewReader(b)
	r.Segment, r.Offset, r.Length, r.Size, r.refs = in.Uint32(), in.Size(), in.Size(), in.Size(), in.Uint()
	return in.End()
}

// tombRow is an expunged message.
type tombRow struct {
	guid backend.GUID
	time effect.Clock
}

func (r tombRow) append(b []byte) []byte { return pack.Uint(append(b, r.guid[:]...), uint64(r.time)) }

func (r *tombRow) read(b []byte) error {
	in := pack.NewReader(b)
	in.Fill(r.guid[:])
	r.time = effect.Clock(in.Uint())
	return in.End()
}

// deliveryRow remembers the answer to a delivery.
type deliveryRow struct {
	time effect.Clock
	backend.Appended
}

func (r deliveryRow) append(b []byte) []byte {
	b = append(pack.Uint(b, uint64(r.time)), r.Mailbox[:]...)
	b = pack.Uint(pack.Uint(b, uint64(r.UIDValidity)), uint64(r.UID))
	return append(b, r.GUID[:]...)
}

func (r *deliveryRow) read(b []byte) error {
	in := pack.NewReader(b)
	r.time = effect.Clock(in.Uint())
	in.Fill(r.Mailbox[:])
	r.UIDValidity, r.UID = in.Uint32(), backend.UID(in.Uint32())
	in.Fill(r.GUID[:])
	return in.End()
}

// queueRow is an entry of the node's queue.
type queueRow struct {
	body  backend.GUID
	size  int64
	entry []byte
}

func (r queueRow) append(b []byte) []byte {
	b = pack.Uint(append(b, r.body[:]...), uint64(r.size))
	return append(b, r.entry...)
}

// read keeps a part of b.
func (r *queueRow) read(b []byte) error {
	in := pack.NewReader(b)
	in.Fill(r.body[:])
	r.size = in.Size()
	r.entry = in.Raw(in.Len())
	return in.End()
}

// appliedRow says how far a shard's log is applied.
type appliedRow struct {
	epoch, seq uint64
	time       effect.Clock
}

func (r appliedRow) append(b []byte) []byte {
	return pack.Uint(pack.Uint(pack.Uint(b, r.epoch), r.seq), uint64(r.time))
}

func (r *appliedRow) read(b []byte) error {
	in := pack.NewReader(b)
	r.epoch, r.seq, r.time = in.Uint(), in.Uint(), effect.Clock(in.Uint())
	return in.End()
}

// liveRow counts the live bodies of a segment. It is written as differences
// that Pebble adds up.
type liveRow struct{ bodies, bytes int64 }

func (r liveRow) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(r.bodies)), uint64(r.bytes))
}

func (r *liveRow) add(b []byte) error {
	if len(b) != 16 {
		return errors.New("live row of wrong length")
	}
	r.bodies += int64(binary.BigEndian.Uint64(b))
	r.bytes += int64(binary.BigEndian.Uint64(b[8:]))
	return nil
}

// liveSum adds live rows for Pebble.
type liveSum struct{ liveRow }

func (s *liveSum) MergeNewer(value []byte) error { return s.add(value) }
func (s *liveSum) MergeOlder(value []byte) error { return s.add(value) }

func (s *liveSum) Finish(bool) ([]byte, io.Closer, error) { return s.append(nil), nil, nil }

func liveMerger() *pebble.Merger {
	return &pebble.Merger{
		Name: "switchyard.live.1",
		Merge: func(_, value []byte) (pebble.ValueMerger, error) {
			s := &liveSum{}
			return s, s.add(value)
		},
	}
}

// get reads one row; ok is false when there is none.
func get(db *pebble.DB, key []byte, read func([]byte) error) (ok bool, err error) {
	value, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer closer.Close()
	return true, read(value)
}

// scan reads the rows whose keys begin with prefix, in order. Key and value
// are valid until each returns; it may return errStop.
func scan(db *pebble.DB, prefix []byte, each func(key, value []byte) error) error {
	return scanRange(db, prefix, after(prefix), each)
}

var errStop = errors.New("enough")

func scanRange(db *pebble.DB, from, to []byte, each func(key, value []byte) error) (err error) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := each(it.Key(), value); err == errStop {
			return nil
		} else if err != nil {
			return err
		}
	}
	return it.Error()
}
