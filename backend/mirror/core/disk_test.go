package core

import (
	"math/rand/v2"
	"slices"

	"switchyard/backend/mirror/merge"
)

// disk is what a crash leaves of a node, and what it does not.
type disk struct {
	saved Saved
	logs  []diskLog
}

// diskLog is one shard's log. What is written is in the journal until a sync; a
// crash keeps some of it, in order.
type diskLog struct {
	recs    []rec // from trimmed+1
	trimmed uint64
	base    spans // up to trimmed

	durable  []rec
	durTrim  uint64
	journal  []write
	check    map[string]*merge.Account // state at checkSeq, durable
	checkSeq uint64
}

type write struct {
	cut   bool
	after uint64
	recs  []rec
}

func newDisk(shards int) *disk {
	d := &disk{logs: make([]diskLog, shards)}
	for i := range d.logs {
		d.logs[i].check = make(map[string]*merge.Account)
	}
	return d
}

func (l *diskLog) last() uint64 { return l.trimmed + uint64(len(l.recs)) }

func (l *diskLog) at(seq uint64) *rec { return &l.recs[seq-l.trimmed-1] }

func (l *diskLog) write(w write) {
	if w.cut {
		l.recs = slices.Clone(l.recs[:w.after-l.trimmed])
	}
	l.recs = append(l.recs, w.recs...)
	l.journal = append(l.journal, w)
}

// spans returns the epochs of the whole past.
func (l *diskLog) spans() spans {
	s := slices.Clone(l.base)
	for _, r := range l.recs {
		s = s.add(r.pos.Epoch, r.pos.Seq)
	}
	return s
}

// sync makes the first n writes durable.
func (l *diskLog) sync(n int) {
	for _, w := range l.journal[:n] {
		if w.cut {
			l.durable = slices.Clone(l.durable[:w.after-l.durTrim])
		}
		l.durable = append(l.durable, w.recs...)
	}
	l.journal = slices.Clone(l.journal[n:])
}

func (l *diskLog) crash(rng *rand.Rand) {
	l.sync(rng.IntN(len(l.journal) + 1))
	l.journal = nil
	l.recs, l.trimmed = slices.Clone(l.durable), l.durTrim
}

// trim forgets records that the checkpoint includes.
func (l *diskLog) trim(seq uint64) {
	l.sync(len(l.journal))
	l.base = l.spans().cut(seq)
	l.recs = slices.Clone(l.recs[seq-l.trimmed:])
	l.trimmed = seq
	l.durable, l.durTrim = slices.Clone(l.recs), seq
}

// replace is the log behind a snapshot.
func (l *diskLog) replace(seq uint64, base spans, state map[string]*merge.Account) {
	*l = diskLog{base: base, trimmed: seq, durTrim: seq, check: cloneAll(state), checkSeq: seq}
}
