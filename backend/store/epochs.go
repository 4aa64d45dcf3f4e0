package store

import (
	"encoding/binary"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
)

// begin counts a record. When it is the first of its epoch it returns the row
// that tells of those before, to be written with the record. The caller holds
// the shard's mu.
func (sh *shard) begin(epoch, seq uint64) (row []byte) {
	if n := len(sh.spans); n > 0 && sh.spans[n-1].Epoch == epoch {
		sh.spans[n-1].Last = seq
		return nil
	} else if n > 0 {
		row = rows.Epochs(sh.spans).Append(nil)
	}
	sh.spans = append(sh.spans, effect.Span{Epoch: epoch, Last: seq})
	return row
}

// cutSpans returns the epochs of a log without the records behind seq.
func cutSpans(spans []effect.Span, seq uint64) (out []effect.Span) {
	before := uint64(0)
	for _, span := range spans {
		if before >= seq {
			break
		}
		out = append(out, effect.Span{Epoch: span.Epoch, Last: min(span.Last, seq)})
		before = span.Last
	}
	return out
}

// findLog finds where a shard's log begins and ends, and its epochs. Without
// records it is as the state says.
func (sh *shard) findLog(db *pebble.DB, shard uint8, done rows.Applied) error {
	sh.epoch, sh.last = done.Epoch, done.Seq
	sh.trimmed.Store(done.Seq)
	var before rows.Epochs
	if _, err := rows.Get(db, rows.KeyEpochs(shard), before.Read); err != nil {
		return err
	}
	prefix := []byte{rows.SpaceLog, shard}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: rows.After(prefix)})
	if err != nil {
		return err
	}
	defer it.Close()
	if it.First() {
		sh.trimmed.Store(binary.BigEndian.Uint64(it.Key()[2:]) - 1)
	}
	if it.Last() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		newest, err := effect.DecodeRecord(value)
		if err != nil {
			return err
		}
		sh.epoch, sh.last = max(sh.epoch, newest.Epoch), max(sh.last, newest.Seq)
	}
	sh.spans = before
	if sh.last > 0 {
		sh.begin(sh.epoch, sh.last)
	}
	return it.Error()
}

// ShardLog tells what the store has of a shard's log. What is still being
// written is not in it.
func (s *Store) ShardLog(shard uint8) effect.Log {
	sh := &s.shards[shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.turn.Lock()
	defer sh.turn.Unlock()
	return effect.Log{Spans: slices.Clone(sh.spans), Trimmed: sh.trimmed.Load(), Last: sh.last, Applied: sh.applied}
}

// KeepLog says that a shard's records from a number on are needed, since the
// other node does not have them: they are not trimmed. Zero: as Options.LogKeep
// says, which holds in any case.
func (s *Store) KeepLog(shard uint8, from uint64) { s.shards[shard].keep.Store(from) }
