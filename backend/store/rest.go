package store

import (
	"context"
	"errors"
	"fmt"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
)

// In a mirror a shard's log may have a rest that is not in the state: records
// that are durable here and not known to be committed. Nobody sees them. They
// are applied when Apply says so, or go away (AppendLog). While there is one the
// shard takes no changes, since those would be made without it.

// mirrored says that somebody else decides what of the log counts.
func (s *Store) mirrored() bool { return s.opts.Commit != nil }

var (
	errClosedShard = errors.New("changes of this shard are not made here")
	errRest        = errors.New("the shard has records that nobody has decided on")
)

// refuses says why the shard takes no change. The caller holds its mu.
func (sh *shard) refuses(s *Store, account string) error {
	if s.mirrored() {
		if err := s.quarantine.of(account); err != nil { // since this session began
			return err
		}
	}
	switch {
	case sh.broken != nil:
		return sh.broken
	case sh.closed:
		return errClosedShard
	case sh.rest.Load() > 0:
		return errRest
	}
	return nil
}

// SetWriter opens a shard for changes made here, which are records of an epoch
// from now on, or closes it; epoch means nothing then. Changes under way end as
// their Acks say. An epoch older than the log's newest record is an error, and the
// shard is closed: a record's epoch and number must name it for ever.
func (s *Store) SetWriter(shard uint8, open bool, epoch uint64) error {
	sh := &s.shards[shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.closed = true
	if !open {
		return nil
	}
	if n := len(sh.spans); n > 0 && epoch < sh.spans[n-1].Epoch {
		return fmt.Errorf("epoch %d of shard %d: %w", epoch, shard, errNotNext)
	}
	sh.closed, sh.epoch = false, epoch
	return nil
}

// enliven notes that the change which makes a record will apply it.
func (sh *shard) enliven(seq uint64) {
	sh.turn.Lock()
	defer sh.turn.Unlock()
	if sh.live == nil {
		sh.live = make(map[uint64]struct{})
	}
	sh.live[seq] = struct{}{}
}

// leave gives up a change whose record is in the log: it becomes part of the
// rest.
func (t *tx) leave(sh *shard, seq uint64, err error) error {
	for guid, p := range t.places {
		t.u.s.held.put(t.u.shard, guid, p, false)
	}
	sh.mu.Lock()
	sh.rest.Store(max(sh.rest.Load(), seq))
	sh.mu.Unlock()
	sh.turn.Lock()
	delete(sh.live, seq)
	sh.changed.Broadcast()
	sh.turn.Unlock()
	return errors.Join(backend.ErrOutcomeUnknown, err)
}

// commitAtStart asks how far a shard's log counts.
func (s *Store) commitAtStart(shard uint8, applied uint64) uint64 {
	sh := &s.shards[shard]
	if !s.mirrored() {
		return sh.last
	}
	sh.closed = true
	log := effect.Log{Spans: sh.spans, Trimmed: sh.trimmed.Load(), Last: sh.last, Applied: applied}
	return min(max(s.opts.Commit(shard, log), applied), sh.last)
}

// keepRest looks through the records behind the state, up to the last one of the
// log, and holds their bodies.
func (s *Store) keepRest(shard uint8, last uint64) error {
	sh := &s.shards[shard]
	created := make(map[string]backend.GUID) // accounts that begin in the rest
	err := s.eachRecord(shard, sh.applied+1, last, func(r *effect.Record) error {
		s.clock.seen(r.Time)
		for _, e := range r.Effects {
			if e, ok := e.(effect.UserCreated); ok {
				created[r.User] = e.ID
			}
		}
		id := created[r.User]
		if id.IsZero() && r.User != "" {
			u, err := s.loadUser(r.User)
			if err != nil {
				return err
			}
			id = u.row.ID
		}
		return s.holdBodies(r, id)
	})
	sh.last = last
	sh.rest.Store(last)
	return err
}

// holdBodies pins the bodies of a record that is not applied.
func (s *Store) holdBodies(r *effect.Record, id backend.GUID) error {
	db := s.dbOf(r.Shard)
	for _, guid := range bodiesOf(r) {
		var row rows.Body
		ok, err := rows.Get(db, rows.KeyArrived(r.Shard, guid), row.Read)
		if err == nil && !ok {
			ok, err = rows.Get(db, rows.KeyBody(id, guid), row.Read)
		}
		if err != nil {
			return err
		}
		if !ok {
			continue // a message of the rest has it, and so it is held
		}
		if s.segments.Pin(row.Place); s.held.put(r.Shard, guid, row.Place, false) {
			s.segments.Unpin(row.Place)
		}
	}
	return nil
}

// eachRecord reads records of a shard's log, all of which must be there.
func (s *Store) eachRecord(shard uint8, first, last uint64, each func(*effect.Record) error) error {
	next := first
	err := rows.ScanRange(s.dbOf(shard), rows.KeyLog(shard, first), rows.KeyLog(shard, last+1), func(_, value []byte) error {
		r, err := effect.DecodeRecord(value)
		if err != nil {
			return err
		}
		if r.Seq != next {
			return fmt.Errorf("the log of shard %d has record %d, not %d: %w", shard, r.Seq, next, ErrForgotten)
		}
		next++
		return each(r)
	})
	if err == nil && next <= last {
		err = fmt.Errorf("the log of shard %d has no record %d: %w", shard, next, ErrForgotten)
	}
	return err
}

// Apply brings a shard's state to a record and shows it. Records whose changes
// wait for their Acks here are applied by these: Apply waits for them. It returns
// the accounts that a record did not fit, which are shut off. What was applied
// before stays applied when there is an error.
func (s *Store) Apply(ctx context.Context, shard uint8, seq uint64) (misfits []string, err error) {
	leave, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	sh := &s.shards[shard]
	sh.applying.Lock()
	defer sh.applying.Unlock()
	for {
		first, last, err := sh.nextLeft(seq)
		if err != nil || first == 0 {
			return misfits, err
		}
		err = s.eachRecord(shard, first, last, func(r *effect.Record) error {
			shut := s.quarantine.of(r.User) != nil
			if err := s.applyLeft(ctx, r); err != nil {
				return err
			}
			if !shut && s.quarantine.of(r.User) != nil {
				misfits = append(misfits, r.User)
			}
			return nil
		})
		if err != nil {
			return misfits, err
		}
	}
}

// nextLeft returns the next records to apply, up to seq; 0 when there are none.
func (sh *shard) nextLeft(seq uint64) (first, last uint64, err error) {
	sh.turn.Lock()
	defer sh.turn.Unlock()
	for sh.applied < seq {
		if sh.lost != nil {
			return 0, 0, sh.lost
		}
		for last = sh.applied; last < seq; last++ {
			if _, ok := sh.live[last+1]; ok {
				break
			}
		}
		if last > sh.applied {
			return sh.applied + 1, last, nil
		}
		sh.changed.Wait()
	}
	return 0, 0, nil
}

// applyLeft applies one record of the rest.
func (s *Store) applyLeft(ctx context.Context, r *effect.Record) error {
	u := s.queue
	if r.User != "" {
		var err error
		if u, err = s.loadUser(r.User); err != nil {
			return err
		}
	}
	if err := u.acquire(ctx); err != nil {
		return err
	}
	defer u.unlock()
	if err := s.applyNext(r); err != nil {
		return err
	}
	s.letGo([]*effect.Record{r}, nil)
	sh := &s.shards[r.Shard]
	sh.done(r.Seq)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.rest.Load() == r.Seq {
		sh.rest.Store(0)
	}
	return nil
}
