package store

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
	"switchyard/backend/store/segment"
)

// MissingBodies are bodies that records refer to and the store does not have.
type MissingBodies []backend.GUID

func (m MissingBodies) Error() string { return fmt.Sprintf("%d bodies are missing", len(m)) }

// Receive keeps a body of the other node's until AppendLog brings its record. It
// is durable when it returns, but after a crash, without the record, it is as if
// it had not come. One that a message of the account info.User has already is
// not kept.
func (s *Store) Receive(shard uint8, info segment.Info, body io.ReaderAt, size int64) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	if _, ok := s.held.get(shard, info.GUID); ok {
		return nil
	}
	if _, row, err := s.bodyRow(info.User, info.GUID); err != nil || row != nil && row.Refs > 0 {
		return err
	}
	if err := s.space.check(size); err != nil {
		return err
	}
	p, err := s.segments.Append(shard, info, body, size)
	var source *segment.SourceError
	switch {
	case errors.As(err, &source):
		return err
	case err != nil:
		s.space.failed(err)
		return s.broken("write a body", err)
	case s.held.put(shard, info.GUID, p, true):
		s.segments.Unpin(p)
	}
	return nil
}

var (
	errOpenShard = errors.New("changes of this shard are made here")
	errCutState  = errors.New("records that are applied do not go away")
	errNotNext   = errors.New("the record does not follow")
)

// AppendLog writes the other node's records, as AppendRecord encoded them, behind
// record after; what the log has behind that goes away first. It is durable when
// it returns, and in no state yet. The shard must be closed, and Acks that wait
// for records that go away must have ended. Nothing is written when a record does
// not follow the one before it, goes back in the epochs, belongs to another shard,
// or refers to a body that is nowhere (MissingBodies).
func (s *Store) AppendLog(shard uint8, after uint64, encoded [][]byte) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	records, err := decodeLog(shard, after, encoded)
	if err != nil {
		return err
	}
	sh := &s.shards[shard]
	sh.applying.Lock()
	defer sh.applying.Unlock()
	if err := s.mayFollow(shard, after, records); err != nil {
		return err
	}
	batch := s.dbOf(shard).NewBatch()
	defer batch.Close()
	gone, err := s.cut(batch, shard, after)
	if err != nil {
		return err
	}
	if err := s.fileBodies(batch, records); err != nil {
		return err
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	spans := cutSpans(sh.spans, after)
	old := len(spans)
	was := sh.spans
	sh.spans = spans
	for i, r := range records {
		sh.begin(r.Epoch, r.Seq)
		_ = batch.Set(rows.KeyLog(shard, r.Seq), encoded[i], nil)
	}
	if len(sh.spans) != old || len(gone) > 0 {
		_ = batch.Set(rows.KeyEpochs(shard), rows.Epochs(sh.spans[:max(len(sh.spans)-1, 0)]).Append(nil), nil)
	}
	err = s.dbOf(shard).ApplyNoSyncWait(batch, pebble.Sync)
	if err == nil {
		err = batch.SyncWait()
	}
	if err != nil {
		sh.spans, sh.broken = was, err
		s.opts.Fatal(err)
		return errors.Join(backend.ErrOutcomeUnknown, err)
	}
	s.letGo(gone, records)
	s.held.filed(records)
	for _, r := range records {
		s.clock.seen(r.Time)
	}
	sh.last = after + uint64(len(records))
	if n := len(sh.spans); n > 0 {
		sh.epoch = sh.spans[n-1].Epoch
	}
	sh.rest.Store(0)
	if sh.turn.Lock(); sh.last > sh.applied {
		sh.rest.Store(sh.last)
	}
	sh.turn.Unlock()
	return nil
}

// decodeLog reads records that are to follow one.
func decodeLog(shard uint8, after uint64, encoded [][]byte) ([]*effect.Record, error) {
	records := make([]*effect.Record, len(encoded))
	epoch := uint64(0)
	for i, b := range encoded {
		r, err := effect.DecodeRecord(b)
		if err != nil {
			return nil, err
		}
		if r.Shard != shard || shardOfUser(r.User) != shard || r.Seq != after+1+uint64(i) || r.Epoch < epoch {
			return nil, fmt.Errorf("record %d of epoch %d of shard %d: %w", r.Seq, r.Epoch, r.Shard, errNotNext)
		}
		records[i], epoch = r, r.Epoch
	}
	return records, nil
}

// mayFollow says whether records may be written behind one.
func (s *Store) mayFollow(shard uint8, after uint64, records []*effect.Record) error {
	sh, log := &s.shards[shard], s.ShardLog(shard)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.turn.Lock()
	defer sh.turn.Unlock()
	switch {
	case sh.broken != nil:
		return errors.Join(backend.ErrBusy, sh.broken)
	case !sh.closed:
		return errOpenShard
	case after < sh.applied:
		return errCutState
	case after > sh.last || len(records) > 0 && records[0].Epoch < log.EpochOf(after):
		return errNotNext
	}
	for seq := range sh.live {
		if seq > after {
			return fmt.Errorf("record %d: %w", seq, errOpenShard)
		}
	}
	return nil
}

// cut takes the records behind one out of the log, and their bodies' rows.
func (s *Store) cut(batch *pebble.Batch, shard uint8, after uint64) (gone []*effect.Record, err error) {
	last := s.ShardLog(shard).Last
	if last <= after {
		return nil, nil
	}
	err = s.eachRecord(shard, after+1, last, func(r *effect.Record) error {
		gone = append(gone, r)
		for _, guid := range bodiesOf(r) {
			_ = batch.Delete(rows.KeyArrived(shard, guid), nil)
			key, row, err := s.bodyRow(r.User, guid)
			if err != nil {
				return err
			}
			if row != nil && row.Refs == 0 {
				_ = batch.Delete(key, nil)
			}
		}
		return nil
	})
	_ = batch.DeleteRange(rows.KeyLog(shard, after+1), rows.KeyLog(shard, last+1), nil)
	return gone, err
}

// fileBodies writes where the records' bodies lie that came for them.
func (s *Store) fileBodies(batch *pebble.Batch, records []*effect.Record) error {
	var missing MissingBodies
	for _, r := range records {
		for _, guid := range bodiesOf(r) {
			_, row, err := s.bodyRow(r.User, guid)
			if err != nil {
				return err
			}
			if row != nil && row.Refs > 0 {
				continue
			}
			if p, ok := s.held.get(r.Shard, guid); ok {
				_ = batch.Set(rows.KeyArrived(r.Shard, guid), rows.Body{Place: p}.Append(nil), nil)
			} else {
				missing = append(missing, guid)
			}
		}
	}
	if missing != nil {
		return missing
	}
	return nil
}

// bodyRow returns the row of an account's body, nil when there is none. One
// without references belongs to a record that is not applied.
func (s *Store) bodyRow(account string, guid backend.GUID) (key []byte, row *rows.Body, err error) {
	u := s.queue
	if account != "" {
		if u, err = s.loadUser(account); err != nil {
			return nil, nil, err
		}
	}
	u.mu.RLock()
	key = rows.KeyBody(u.row.ID, guid)
	u.mu.RUnlock()
	row = new(rows.Body)
	if ok, err := rows.Get(u.db, key, row.Read); err != nil || !ok {
		return key, nil, err
	}
	return key, row, nil
}

// Records returns records of a shard's log as they are encoded, from first to
// last, applied or not. Errors: ErrForgotten.
func (s *Store) Records(shard uint8, first, last uint64) (encoded [][]byte, err error) {
	leave, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	err = s.eachRecord(shard, first, last, func(r *effect.Record) error {
		encoded = append(encoded, effect.AppendRecord(nil, r))
		return nil
	})
	return encoded, err
}
