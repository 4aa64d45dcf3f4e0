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
	if err := s.quarantine.load(s.dbs); err != nil {
		return err
	}
	n := 0
	for i := range s.shards {
		shard := uint8(i)
		records, err := s.replayShard(shard)
		if err != nil {
			return fmt.Errorf("replay shard %d: %w", shard, err)
		}
		n += records
	}
	if n > 0 {
		s.log.Info("replayed the log of effects", zap.Int("records", n))
	}
	return nil
}

// replayShard returns how many records it applied.
func (s *Store) replayShard(shard uint8) (n int, err error) {
	sh, db := &s.shards[shard], s.dbOf(shard)
	sh.changed.L = &sh.turn
	done := rows.Applied{Epoch: epoch}
	if _, err := rows.Get(db, rows.KeyApplied(shard), done.Read); err != nil {
		return 0, err
	}
	s.clock.seen(done.Time)
	if err := sh.findLog(db, shard, done); err != nil {
		return 0, err
	}
	commit, last := s.commitAtStart(shard, done.Seq), sh.last
	sh.last = done.Seq
	if err := s.retry(shard); err != nil {
		return 0, err
	}
	err = rows.ScanRange(db, rows.KeyLog(shard, done.Seq+1), rows.KeyLog(shard, commit+1), func(_, value []byte) error {
		record, err := effect.DecodeRecord(value)
		if err != nil {
			return err
		}
		if record.Seq != sh.last+1 {
			return fmt.Errorf("the log goes from %d to %d", sh.last, record.Seq)
		}
		s.clock.seen(record.Time)
		sh.last = record.Seq
		n++
		return s.applyNext(record)
	})
	sh.applied = sh.last
	if err == nil && sh.last != commit {
		err = fmt.Errorf("the log ends at %d before %d", sh.last, commit)
	}
	if err == nil && last > commit {
		err = s.keepRest(shard, last)
	}
	return n, err
}

// applyNext applies the next record of a shard. An account that it does not fit
// is shut off; the log goes on for the others.
func (s *Store) applyNext(record *effect.Record) error {
	shut := s.quarantine.of(record.User) != nil
	var misfit *misfitError
	if !shut {
		if err := s.applyAgain(record, (*tx).note); !errors.As(err, &misfit) {
			return err
		}
	}
	db := s.dbOf(record.Shard)
	batch := db.NewBatch()
	defer batch.Close()
	applied := rows.Applied{Epoch: record.Epoch, Seq: record.Seq, Time: record.Time}
	_ = batch.Set(rows.KeyApplied(record.Shard), applied.Append(nil), nil)
	if !shut {
		row := s.shut(record, misfit)
		_ = batch.Set(rows.KeyQuarantine(record.User), row.Append(nil), nil)
	}
	return db.Apply(batch, pebble.NoSync)
}

// misfitError says that a record does not fit the state of its account:
// something other than a crash has changed one of them.
type misfitError struct{ err error }

func (e *misfitError) Error() string { return "the log does not fit the state: " + e.err.Error() }
func (e *misfitError) Unwrap() error { return e.err }

// applyAgain applies one record from the log; note adds to the change that it
// is done. One that does not fit, or leaves other digests than it should, is a
// *misfitError, and has changed nothing.
func (s *Store) applyAgain(record *effect.Record, note func(*tx, *effect.Record)) error {
	u := s.queue
	if record.User != "" {
		var err error
		if u, err = s.loadUser(record.User); err != nil {
			return err
		}
	}
	t := u.begin(record.Time)
	defer t.batch.Close()
	for _, e := range record.Effects {
		if err := t.apply(e); err != nil {
			return &misfitError{fmt.Errorf("record %d of %q: %w", record.Seq, record.User, err)}
		}
	}
	if err := t.fits(); err != nil {
		return &misfitError{fmt.Errorf("record %d of %q: %w", record.Seq, record.User, err)}
	}
	got, err := t.finish()
	if err != nil {
		return err
	}
	if !slices.Equal(got, record.Digests) {
		return &misfitError{fmt.Errorf("record %d of %q: %w", record.Seq, record.User, errDrift)}
	}
	note(t, record)
	if err := u.db.Apply(t.batch, pebble.NoSync); err != nil {
		return err
	}
	t.publish()
	return nil
}

var errDrift = errors.New("digests differ from the log's")
