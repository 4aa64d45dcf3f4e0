package core

import "fmt"

// Node is one of the two nodes of a pair.
type Node uint8

// The nodes. Nobody is who writes alone while both do, Neither while none does.
const (
	Nobody  Node = 0
	NodeA   Node = 1
	NodeB   Node = 2
	Neither Node = 3
)

// Peer returns the other node.
func (n Node) Peer() Node { return 3 - n }

func (n Node) String() string { return [...]string{"nobody", "A", "B", "neither"}[n&3] }

// Epoch is a number that grows with each change of who may write, above two
// bits that say who writes alone in it. It is all that an arbiter keeps. The
// bits make an epoch unlike any that the other node could make at the same
// time, so that a shard's record is named for ever by its epoch and its number:
// in one epoch a shard has one writer.
//
// An epoch of neither says that one of both has ended, and no more: nobody has
// acknowledged anything since. It stands between one of both and one alone, so
// that an epoch alone in an arbiter was asked for by a node that knew of the
// end. Without it a question that was asked in the other node's silence, and
// reached the arbiter when the disk of the one who asked was gone, would name a
// writer that remembers nothing; and the other node, which has all, could not
// know that nothing had been acknowledged without it.
type Epoch uint64

// MakeEpoch returns the epoch of a number in which a node writes alone, or in
// which both nodes write when alone is Nobody.
func MakeEpoch(number uint64, alone Node) Epoch { return Epoch(number<<2 | uint64(alone)) }

// Number returns what grows.
func (e Epoch) Number() uint64 { return uint64(e) >> 2 }

// Alone returns who writes alone, or Nobody when both write, or Neither.
func (e Epoch) Alone() Node { return Node(e & 3) }

func (e Epoch) String() string {
	if e.Alone() == Nobody {
		return fmt.Sprintf("%d", e.Number())
	}
	return fmt.Sprintf("%d/%v", e.Number(), e.Alone())
}

// next returns the epoch after e in which a node writes alone.
func (e Epoch) next(alone Node) Epoch { return MakeEpoch(e.Number()+1, alone) }

// Pos names a record of a shard.
type Pos struct {
	Epoch Epoch
	Seq   uint64
}

// Span is a run of a shard's records of one epoch.
type Span struct {
	Epoch Epoch
	Last  uint64 // number of its newest record
}

// spans are the epochs of a shard's log, ascending. The whole past is kept: one
// span for each failover in which the shard was written.
type spans []Span

// at returns the epoch of a record; ok is false when there is none. Before the
// first record there is epoch 0.
func (s spans) at(seq uint64) (e Epoch, ok bool) {
	if seq == 0 {
		return 0, true
	}
	for _, span := range s {
		if seq <= span.Last {
			return span.Epoch, true
		}
	}
	return 0, false
}

// cut returns what is left when no record after seq is.
func (s spans) cut(seq uint64) spans {
	var out spans
	var before uint64
	for _, span := range s {
		if before >= seq {
			break
		}
		out = append(out, Span{span.Epoch, min(span.Last, seq)})
		before = span.Last
	}
	return out
}

// last returns the number of the newest record.
func (s spans) last() uint64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].Last
}

// pos names a record that the log has.
func (s spans) pos(seq uint64) Pos {
	e, _ := s.at(seq)
	return Pos{e, seq}
}

// add counts one more record. It changes s, as append does.
func (s spans) add(e Epoch, seq uint64) spans {
	if n := len(s); n > 0 && s[n-1].Epoch == e {
		s[n-1].Last = seq
		return s
	}
	return append(s, Span{e, seq})
}

// common returns the newest record up to which two logs are the same. Since an
// epoch has one writer, they are the same within an epoch as far as both have
// it, and nowhere after a place where they are not.
func common(a, b spans) uint64 {
	var seq uint64
	for i := range min(len(a), len(b)) {
		if a[i].Epoch != b[i].Epoch {
			break
		}
		seq = min(a[i].Last, b[i].Last)
		if a[i].Last != b[i].Last {
			break
		}
	}
	return seq
}
