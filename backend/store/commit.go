package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
)

// epoch is the only one while a store has no peer.
const epoch = 1

// maxTogether bounds the changes made as one.
const maxTogether = 128

// shard is one log: its records are numbered, written and applied in one
// order.
type shard struct {
	mu     sync.Mutex
	epoch  uint64
	last   uint64        // newest number given
	spans  []effect.Span // the epochs of the log
	closed bool          // to changes made here
	broken error         // nothing more is written

	rest    atomic.Uint64 // newest record that is left for Apply; 0: none
	trimmed atomic.Uint64 // the log begins behind this record
	keep    atomic.Uint64 // records from here on are not trimmed; 0: as LogKeep says

	turn    sync.Mutex
	changed sync.Cond // on turn
	applied uint64    // newest number applied; guarded by turn, as is what follows
	lost    error     // why the record lostAt is not applied
	lostAt  uint64
	live    map[uint64]struct{} // records that the changes which made them apply; in a mirror only

	applying sync.Mutex // held by the one Apply, or AppendLog, at a time
}

// change makes one change: plan looks at the state under the user's lock and
// applies effects, or refuses with an error and has applied none.
func (u *user) change(ctx context.Context, plan func(*tx) error) error {
	if err := u.acquire(ctx); err != nil {
		return err
	}
	defer u.unlock()
	t := u.begin(u.s.clock.next())
	defer t.batch.Close()
	if err := plan(t); err != nil {
		return err
	}
	return t.commit()
}

// waiting is a queue of changes that can be made together.
type waiting struct {
	mu    sync.Mutex
	plans []*waitingPlan
}

type waitingPlan struct {
	plan func(*tx) error
	err  error
	done chan struct{}
}

// add makes a change that only adds things. Those that wait for the user's lock
// are made together, as one record, so that they share its sync. A plan that
// refuses must do so before it applies anything. ctx ends only the waiting: a
// change under way ends as it ends.
func (u *user) add(ctx context.Context, plan func(*tx) error) error {
	w := &waitingPlan{plan: plan, done: make(chan struct{})}
	u.waiting.mu.Lock()
	u.waiting.plans = append(u.waiting.plans, w)
	u.waiting.mu.Unlock()
	select {
	case u.lock <- struct{}{}:
		defer u.unlock()
		for !w.isDone() {
			u.addTogether()
		}
	case <-w.done:
	case <-ctx.Done():
		if u.waiting.remove(w) {
			return ctx.Err()
		}
		<-w.done
	}
	return w.err
}

func (w *waitingPlan) isDone() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// remove takes a plan back, unless somebody makes it already.
func (q *waiting) remove(w *waitingPlan) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, other := range q.plans {
		if other == w {
			q.plans = append(q.plans[:i], q.plans[i+1:]...)
			return true
		}
	}
	return false
}

// addTogether makes the changes that wait. The caller holds the user's lock.
func (u *user) addTogether() {
	u.waiting.mu.Lock()
	n := min(len(u.waiting.plans), maxTogether)
	plans := u.waiting.plans[:n:n]
	u.waiting.plans = append([]*waitingPlan(nil), u.waiting.plans[n:]...)
	u.waiting.mu.Unlock()

	t := u.begin(u.s.clock.next())
	defer t.batch.Close()
	done := func(err error) {
		for _, w := range plans {
			if w.err == nil {
				w.err = err
			}
			close(w.done)
		}
		plans = nil
	}
	defer done(backend.ErrOutcomeUnknown) // only a panic, or an end of the process, gets here with plans
	for _, w := range plans {
		before := len(t.effects)
		if w.err = w.plan(t); w.err != nil && len(t.effects) > before {
			// The effects do not fit the state: the whole is worth nothing.
			u.s.log.Error("a change broke off half-way", zap.String("user", u.account), zap.Error(w.err))
			done(errors.Join(backend.ErrBusy, w.err))
			return
		}
	}
	done(t.commit())
}

// commit makes the change durable, applies it and shows it. The caller holds
// the user's lock.
func (t *tx) commit() error {
	if len(t.effects) == 0 {
		return nil
	}
	u, s := t.u, t.u.s
	digests, err := t.finish()
	if err != nil {
		return err
	}
	record := &effect.Record{Shard: u.shard, Time: t.now, User: u.account, Effects: t.effects, Digests: digests}
	sh := &s.shards[u.shard]

	if err := t.write(sh, record); err != nil {
		return err
	}
	shown := false
	defer func() {
		if !shown { // a panic, too, must not leave others waiting
			sh.fail(record.Seq, errNotShown)
		}
	}()
	// In the log's order, since what is applied is remembered as one number.
	if err := sh.await(record.Seq); err != nil {
		return err
	}
	t.note(record)
	if err := u.db.Apply(t.batch, pebble.NoSync); err != nil {
		s.opts.Fatal(err)
		return sh.fail(record.Seq, err)
	}
	t.publish()
	sh.done(record.Seq)
	shown = true
	return nil
}

// errNotShown says that a change is in the log, and in the state only after
// the next start.
var errNotShown = errors.New("a change broke off behind the log")

// write makes the record durable, here and with the Replicator.
func (t *tx) write(sh *shard, record *effect.Record) error {
	u, s := t.u, t.u.s
	batch := u.db.NewBatch()
	for guid, p := range t.places {
		_ = batch.Set(rows.KeyBody(t.row.ID, guid), rows.Body{Place: p}.Append(nil), nil)
	}
	sh.mu.Lock()
	if err := sh.refuses(s, u.account); err != nil {
		sh.mu.Unlock()
		batch.Close()
		return errors.Join(backend.ErrBusy, err)
	}
	record.Epoch, record.Seq = sh.epoch, sh.last+1
	if row := sh.begin(record.Epoch, record.Seq); row != nil {
		_ = batch.Set(rows.KeyEpochs(record.Shard), row, nil)
	}
	if s.mirrored() {
		sh.enliven(record.Seq)
	}
	encoded := effect.AppendRecord(nil, record)
	_ = batch.Set(rows.KeyLog(record.Shard, record.Seq), encoded, nil)
	var ack Ack
	if s.opts.Replicator != nil {
		ack = s.opts.Replicator.ShipRecord(record, encoded)
	}
	err := u.db.ApplyNoSyncWait(batch, pebble.Sync)
	sh.last = record.Seq
	sh.mu.Unlock()
	if err == nil {
		err = batch.SyncWait()
	}
	if err != nil {
		s.opts.Fatal(err)
		return sh.fail(record.Seq, err)
	}
	batch.Close()
	if ack != nil {
		if err := ack.Wait(); err != nil {
			s.log.Error("a change is not acknowledged by the peer", zap.Uint8("shard", record.Shard),
				zap.Uint64("seq", record.Seq), zap.Error(err))
			if s.mirrored() {
				return t.leave(sh, record.Seq, err)
			}
			return sh.fail(record.Seq, err)
		}
	}
	return nil
}

// note adds to the state that it includes the record, and trims the log
// behind it.
func (t *tx) note(record *effect.Record) {
	row := rows.Applied{Epoch: record.Epoch, Seq: record.Seq, Time: record.Time}
	t.put(rows.KeyApplied(record.Shard), row.Append(nil))
	if keep := uint64(t.u.s.opts.LogKeep); record.Seq > keep && record.Seq%64 == 0 {
		first := record.Seq - keep + 1 // that stays
		if hold := t.u.s.quarantine.hold(record.Shard); hold > 0 {
			first = min(first, hold)
		}
		sh := &t.u.s.shards[record.Shard]
		if keep := sh.keep.Load(); keep > 0 {
			first = min(first, keep)
		}
		_ = t.batch.DeleteRange(rows.KeyLog(record.Shard, 0), rows.KeyLog(record.Shard, first), nil)
		sh.trimmed.Store(first - 1)
	}
}

// await waits until all records before seq are applied. It is an error when
// one of them never will be.
func (sh *shard) await(seq uint64) error {
	sh.turn.Lock()
	defer sh.turn.Unlock()
	for sh.applied != seq-1 {
		if sh.lost != nil && sh.lostAt < seq {
			return errors.Join(backend.ErrOutcomeUnknown, sh.lost)
		}
		sh.changed.Wait()
	}
	return nil
}

func (sh *shard) done(seq uint64) {
	sh.turn.Lock()
	sh.applied = seq
	delete(sh.live, seq)
	sh.changed.Broadcast()
	sh.turn.Unlock()
}

// fail stops the shard at a record: those behind it must not be applied.
func (sh *shard) fail(seq uint64, err error) error {
	sh.mu.Lock()
	if sh.broken == nil {
		sh.broken = err
	}
	sh.mu.Unlock()
	sh.turn.Lock()
	if sh.lost == nil || seq < sh.lostAt {
		sh.lost, sh.lostAt = err, seq
	}
	sh.changed.Broadcast()
	sh.turn.Unlock()
	return errors.Join(backend.ErrOutcomeUnknown, err)
}
