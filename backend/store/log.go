package store

import (
	"errors"
	"fmt"
	"iter"

	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
)

// ErrForgotten says that the log no longer has the records that were asked
// for: Options.LogKeep of them stay.
var ErrForgotten = errors.New("the log no longer goes back that far")

// Applied returns the epoch of a shard and the number of its newest record that
// is durable and applied; zero when it has none.
func (s *Store) Applied(shard uint8) (epoch, seq uint64) {
	sh := &s.shards[shard]
	sh.mu.Lock()
	epoch = sh.epoch
	sh.mu.Unlock()
	sh.turn.Lock()
	defer sh.turn.Unlock()
	return epoch, sh.applied
}

// Log yields a shard's records in their order, from a number on (they count
// from 1) to the newest that is applied when the loop begins. A record is the
// caller's. An error is yielded last, with a nil record: ErrForgotten when the
// log begins behind from, backend.ErrBusy when the store is closed, else the
// disk's. Close waits for loops under way.
func (s *Store) Log(shard uint8, from uint64) iter.Seq2[*effect.Record, error] {
	return func(yield func(*effect.Record, error) bool) {
		leave, err := s.enter()
		if err != nil {
			yield(nil, err)
			return
		}
		defer leave()
		next := max(from, 1)
		_, last := s.Applied(shard)
		stopped := false
		err = rows.ScanRange(s.dbOf(shard), rows.KeyLog(shard, next), rows.KeyLog(shard, last+1), func(_, value []byte) error {
			record, err := effect.DecodeRecord(value)
			if err != nil {
				return err
			}
			if record.Seq != next {
				return fmt.Errorf("shard %d has record %d, not %d: %w", shard, record.Seq, next, ErrForgotten)
			}
			next++
			if stopped = !yield(record, nil); stopped {
				return rows.ErrStop
			}
			return nil
		})
		if err == nil && !stopped && next <= last {
			err = fmt.Errorf("shard %d has no record %d: %w", shard, next, ErrForgotten)
		}
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}
