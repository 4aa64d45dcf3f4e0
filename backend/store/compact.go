package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"

	"switchyard/backend"
	"switchyard/backend/store/rows"
	"switchyard/backend/store/segment"
)

// Compaction takes the live bodies out of sealed segments that are mostly dead:
// copied into another segment and synced, then their new places committed
// durably, then the old segment removed. Sealed files never change; a crash at
// any moment leaves each body at one place at least. Bodies that are open stay
// readable.

// How often segments are looked at, and what is moved at once.
const (
	compactEvery  = 10 * time.Minute
	compactBodies = 64
	compactBytes  = 4 << 20
)

// Compacted tells what a Compact did.
type Compacted struct {
	Segments int   // removed
	Bodies   int   // moved
	Bytes    int64 // of their records
}

func (s *Store) compactNowAndThen() {
	ctx, cancel := context.WithCancel(context.Background())
	var ending sync.WaitGroup
	ending.Go(func() { <-s.stop; cancel() })
	defer ending.Wait()
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		done, err := s.compact(ctx, s.opts.CompactRate)
		if err != nil && ctx.Err() == nil {
			s.log.Error("compaction did not get through", zap.Error(err))
		}
		if done.Segments > 0 {
			s.log.Info("compacted segments", zap.Int("segments", done.Segments), zap.Int("bodies", done.Bodies), zap.Int64("bytes", done.Bytes))
		}
	}
}

// Compact compacts now, as fast as the disk goes, all segments of which less
// than half is live. A segment with damage is left alone, and an error; the
// others go on. ctx ends it between two moves, which loses nothing.
func (s *Store) Compact(ctx context.Context) (Compacted, error) {
	leave, err := s.enter()
	if err != nil {
		return Compacted{}, err
	}
	defer leave()
	return s.compact(ctx, 0)
}

func (s *Store) compact(ctx context.Context, rate int64) (Compacted, error) {
	s.compacting.Lock()
	defer s.compacting.Unlock()
	c := &compactor{s: s, ctx: ctx, rate: rate, start: time.Now()}
	var errs []error
	for _, id := range s.segments.Sealed() {
		l := s.live.of(id)
		if l.Bodies == 0 || 2*l.Bytes >= s.segments.Size(id) {
			continue
		}
		if err := c.segment(id); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) > 0 && c.done.Bodies == 0 {
		return c.done, errors.Join(errs...)
	}
	return c.done, errors.Join(append(errs, s.removeDead())...)
}

// compactor is one compaction.
type compactor struct {
	s     *Store
	ctx   context.Context
	rate  int64 // bytes a second; 0: without bound
	start time.Time
	read  int64
	done  Compacted

	moves []move
	bytes int64 // of moves
}

// move is a body that moves.
type move struct {
	u        *user
	guid     backend.GUID
	from, to segment.Place
}

// segment moves the live bodies of one segment.
func (c *compactor) segment(id uint32) error {
	c.moves, c.bytes = c.moves[:0], 0
	err := c.s.segments.Records(id, func(info segment.Info, p segment.Place) error {
		if err := c.pace(p.Length); err != nil {
			return err
		}
		u, live, err := c.s.owner(info, p)
		if err != nil || !live {
			return err
		}
		c.moves = append(c.moves, move{u: u, guid: info.GUID, from: p})
		if c.bytes += p.Length; len(c.moves) < compactBodies && c.bytes < compactBytes {
			return nil
		}
		return c.flush()
	})
	// What is live before some damage moves all the same: it is better off.
	if err = errors.Join(err, c.flush()); err != nil {
		return err
	}
	if c.s.live.dead(id) {
		c.done.Segments++
	}
	return nil
}

// pace waits so that no more is read than the rate allows.
func (c *compactor) pace(n int64) error {
	if c.read += n; c.rate <= 0 {
		return c.ctx.Err()
	}
	due := time.Duration(float64(c.read) / float64(c.rate) * float64(time.Second))
	wait := time.NewTimer(due - time.Since(c.start))
	defer wait.Stop()
	select {
	case <-wait.C:
		return c.ctx.Err()
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// owner returns the account that a record belongs to, and whether it is live
// there at this moment.
func (s *Store) owner(info segment.Info, p segment.Place) (*user, bool, error) {
	u := s.queue
	if s.quarantine.of(info.User) != nil {
		return nil, false, nil // nothing of it moves
	}
	if info.User != "" {
		var err error
		if u, err = s.existing(info.User); errors.Is(err, backend.ErrNoUser) {
			return nil, false, nil
		} else if err != nil {
			return nil, false, err
		}
	}
	u.mu.RLock()
	id := u.row.ID
	u.mu.RUnlock()
	var row rows.Body
	ok, err := rows.Get(u.db, rows.KeyBody(id, info.GUID), row.Read)
	return u, ok && row.Place == p && row.Refs > 0, err
}

// flush moves what was collected. It returns when the new places are durable.
func (c *compactor) flush() error {
	if len(c.moves) == 0 {
		return nil
	}
	moves := c.moves
	c.moves, c.bytes = nil, 0
	if err := c.s.space.check(2 * compactBytes); err != nil {
		return err
	}
	from := make([]segment.Place, len(moves))
	for i := range moves {
		from[i] = moves[i].from
	}
	to, err := c.s.segments.Copy(from)
	if err != nil {
		c.s.space.failed(err)
		return err
	}
	for i := range moves {
		moves[i].to = to[i]
	}
	slices.SortStableFunc(moves, func(a, b move) int { return strings.Compare(a.u.account, b.u.account) })
	var syncs []*relocation
	for len(moves) > 0 {
		n := slices.IndexFunc(moves, func(m move) bool { return m.u != moves[0].u })
		if n < 0 {
			n = len(moves)
		}
		r, moveErr := c.relocate(moves[0].u, moves[:n])
		if r != nil {
			syncs = append(syncs, r)
		}
		err = errors.Join(err, moveErr)
		moves = moves[n:]
	}
	for _, r := range syncs {
		err = errors.Join(err, c.finish(r))
	}
	for _, p := range to {
		c.s.segments.Unpin(p)
	}
	return err
}

// relocation is what a relocate wrote and has not waited for.
type relocation struct {
	batch *pebble.Batch
	live  map[uint32]rows.Live
	moved Compacted
}

// finish waits until a relocation is durable. Only then is it counted: nobody
// may find the old segment dead before.
func (c *compactor) finish(r *relocation) error {
	if err := r.batch.SyncWait(); err != nil {
		c.s.opts.Fatal(err)
		return err
	}
	c.s.live.add(r.live)
	c.done.Bodies += r.moved.Bodies
	c.done.Bytes += r.moved.Bytes
	return r.batch.Close()
}

// relocate writes new places of an account's bodies. Others read them before
// they are durable, which is no harm, as both places are good.
func (c *compactor) relocate(u *user, moves []move) (*relocation, error) {
	if err := u.acquire(c.ctx); err != nil {
		return nil, err
	}
	defer u.unlock()
	t, moved := u.begin(0), Compacted{}
	for _, m := range moves {
		key := rows.KeyBody(u.row.ID, m.guid)
		var row rows.Body
		ok, err := rows.Get(u.db, key, row.Read)
		if err != nil {
			t.batch.Close()
			return nil, err
		}
		if !ok || row.Place != m.from || row.Refs == 0 {
			continue // expunged meanwhile
		}
		t.alive(m.from, -1)
		t.alive(m.to, 1)
		row.Place = m.to
		t.put(key, row.Append(nil))
		moved.Bodies++
		moved.Bytes += m.to.Length
	}
	for id, l := range t.live {
		_ = t.batch.Merge(rows.KeySegment(id), l.Append(nil), nil)
	}
	if t.batch.Empty() {
		return nil, t.batch.Close()
	}
	if err := u.db.ApplyNoSyncWait(t.batch, pebble.Sync); err != nil {
		c.s.opts.Fatal(err)
		return nil, err
	}
	return &relocation{t.batch, t.live, moved}, nil
}
