package store

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"

	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
)

// replay brings the state to the end of every shard's log, and starts the
// shards from there.
func (s *Store) replay() error {
	n := 0
	for i := range s.shards {
		sh, shard := &s.shards[i], uint8(i)
		sh.changed.L = &sh.turn
		done := rows.Applied{Epoch: epoch}
		if _, err := rows.Get(s.dbOf(shard), rows.KeyApplied(shard), done.Read); err != nil {
			return err
		}
		s.clock.seen(done.Time)
		sh.epoch, sh.last = done.Epoch, done.Seq
		err := rows.ScanRange(s.dbOf(shard), rows.KeyLog(shard, done.Seq+1), rows.After([]byte{rows.SpaceLog, shard}), func(_, value []byte) error {
			record, err := effect.DecodeRecord(value)
			if err != nil {
				return err
			}
			if record.Seq != sh.last+1 {
				return fmt.Errorf("log of shard %d goes from %d to %d", shard, sh.last, record.Seq)
			}
			s.clock.seen(record.Time)
			sh.last = record.Seq
			n++
			return s.applyAgain(record)
		})
		if err != nil {
			return fmt.Errorf("replay shard %d: %w", shard, err)
		}
		sh.applied = sh.last
	}
	if n > 0 {
		s.log.Info("replayed the log of effects", zap.Int("records", n))
	}
	return nil
}

// applyAgain applies one record from the log. One that does not fit, or leaves
// other digests than it should, is an error: something other than a crash has
// changed the store.
func (s *Store) applyAgain(record *effect.Record) error {
	u := s.queue
	if record.User != "" {
		var err error
		if u, err = s.user(record.User); err != nil {
			return err
		}
	}
	t := u.begin(record.Time)
	defer t.batch.Close()
	for _, e := range record.Effects {
		if err := t.apply(e); err != nil {
			return fmt.Errorf("record %d of %q: %w", record.Seq, record.User, err)
		}
	}
	got, err := t.finish()
	if err != nil {
		return err
	}
	if !slices.Equal(got, record.Digests) {
		return fmt.Errorf("record %d of %q: %w", record.Seq, record.User, errDrift)
	}
	t.note(record)
	if err := u.db.Apply(t.batch, pebble.NoSync); err != nil {
		return err
	}
	t.publish()
	return nil
}

var errDrift = errors.New("digests differ from the log's")
