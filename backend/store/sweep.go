package store

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"

	"switchyard/backend/store/rows"
)

// How often the store looks for what can go, and how much it takes at once.
const (
	sweepEvery = 10 * time.Minute
	sweepBatch = 10_000
)

// sweep forgets old delivery ids and deletes dead segments, until Close.
func (s *Store) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	err := errors.Join(s.forgetDeliveries(), s.removeDead())
	for {
		if err != nil {
			s.log.Error("sweeping did not get through", zap.Error(err))
		}
		select {
		case <-s.stop:
			return
		case <-s.wake:
			err = s.removeDead()
		case <-tick.C:
			err = errors.Join(s.forgetDeliveries(), s.removeDead(), s.space.recover())
		}
	}
}

// forgetDeliveries removes the delivery ids whose time is over. Nobody uses
// those any more, so that the removal need not be durable: it is made again.
func (s *Store) forgetDeliveries() error {
	now := s.opts.Clock().Unix()
	for _, db := range s.dbs {
		batch := db.NewBatch()
		n := 0
		err := rows.ScanRange(db, []byte{rows.SpaceExpiry}, binary.BigEndian.AppendUint64([]byte{rows.SpaceExpiry}, uint64(max(now, 0))),
			func(key, _ []byte) error {
				_, user, id, err := rows.ParseExpiry(key)
				if err != nil {
					return err
				}
				if n++; n > sweepBatch {
					return rows.ErrStop
				}
				return errors.Join(batch.Delete(rows.KeyDelivery(user, id), nil), batch.Delete(key, nil))
			})
		if err == nil && n > 0 {
			err = db.Apply(batch, pebble.NoSync)
		}
		if err = errors.Join(err, batch.Close()); err != nil {
			return err
		}
	}
	return nil
}

// removeDead deletes the sealed segments that no body needs. What took the
// last body away is durable in the log by then.
func (s *Store) removeDead() error {
	s.removing.Lock()
	defer s.removing.Unlock()
	for _, id := range s.segments.Sealed() {
		if !s.live.dead(id) {
			continue
		}
		if err := s.segments.Remove(id); err != nil {
			return err
		}
		s.live.forget(id)
		for _, db := range s.dbs {
			if err := db.Delete(rows.KeySegment(id), pebble.NoSync); err != nil {
				return err
			}
		}
		s.log.Debug("deleted a segment without live bodies", zap.Uint32("segment", id))
	}
	return nil
}

// live counts the live bodies of each segment, over all instances.
type live struct {
	mu   sync.Mutex
	rows map[uint32]rows.Live
}

func (l *live) init() { l.rows = make(map[uint32]rows.Live) }

func (l *live) load(db *pebble.DB) error {
	return rows.Scan(db, []byte{rows.SpaceSegment}, func(key, value []byte) error {
		if len(key) != 5 {
			return rows.ErrKey
		}
		id := binary.BigEndian.Uint32(key[1:])
		row := l.rows[id]
		err := row.Add(value)
		l.rows[id] = row
		return err
	})
}

// add notes differences, and tells whether a segment has no live body now.
func (l *live) add(diff map[uint32]rows.Live) (died bool) {
	if len(diff) == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, d := range diff {
		row := l.rows[id]
		row.Bodies += d.Bodies
		row.Bytes += d.Bytes
		l.rows[id] = row
		died = died || row.Bodies == 0
	}
	return died
}

func (l *live) dead(id uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rows[id].Bodies == 0
}

func (l *live) of(id uint32) rows.Live {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rows[id]
}

func (l *live) forget(id uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.rows, id)
}
