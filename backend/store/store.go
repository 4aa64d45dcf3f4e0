// Package store keeps the mail of many users on one node's disk: metadata in
// Pebble, bodies in append-only segments, and a log of effects that a mirror
// can ship.
//
// Every change goes one way (commit.go): validated under the user's lock, told
// as effects, its bodies synced into a segment, its record synced into the log,
// then applied to the state and shown. So what anybody has seen is durable, and
// the log alone is enough: at start what was not applied yet is applied again
// from it (replay.go), by the same code.
//
// The rows and their keys are in the package rows.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/zeebo/xxh3"
	"go.uber.org/zap"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
	"switchyard/backend/store/segment"
)

// shards is how many logs a store has. A user's shard never changes.
const shards = 256

// Store is a backend.Store on one node's disk.
type Store struct {
	dir        string
	opts       Options
	log        *zap.Logger
	lock       io.Closer
	dbs        []*pebble.DB
	segments   *segment.Set
	shards     [shards]shard
	clock      clock
	space      space
	users      users
	views      viewCache
	live       live
	quarantine quarantine
	queue      *user // owner of the node's queue
	held       held

	gate gate

	sweeping   sync.WaitGroup
	compacting sync.Mutex // held by the one compaction at a time
	removing   sync.Mutex // held while dead segments are removed
	stop       chan struct{}
	wake       chan struct{} // a segment may have died
}

var _ backend.Store = (*Store)(nil)

// Open opens the store in a directory, which it makes when it is missing, and
// applies what the log has and the state has not. Another process that has it
// open, another format and another number of instances are errors.
func Open(dir string, opts Options) (*Store, error) {
	opts.defaults()
	s := &Store{
		dir: dir, opts: opts, log: opts.Logger.Named("store"),
		stop: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	s.clock.now = opts.Clock
	s.users.init(opts.CacheUsers)
	s.views.init(opts.CacheMessages)
	s.live.init()
	s.held.init()
	if err := s.opts.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := s.opts.FS.Lock(s.path("LOCK"))
	if err != nil {
		return nil, fmt.Errorf("another process has the store in %s open: %w", dir, err)
	}
	s.lock = lock
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.release())
	}
	s.sweeping.Go(s.sweep)
	if s.opts.CompactRate > 0 {
		s.sweeping.Go(s.compactNowAndThen)
	}
	return s, nil
}

// start opens what is in the directory and brings the state up to date.
func (s *Store) start() error {
	if err := s.checkFormat(); err != nil {
		return err
	}
	s.space.init(s)
	if err := s.openParts(); err != nil {
		return err
	}
	s.queue = newUser(s, "")
	if err := s.queue.load(); err != nil {
		return err
	}
	return s.replay()
}

func (s *Store) path(elem ...string) string {
	return s.opts.FS.PathJoin(append([]string{s.dir}, elem...)...)
}

// openParts opens segments and databases.
func (s *Store) openParts() (err error) {
	s.segments, err = segment.Open(s.path("segments"), segment.Options{
		FS: s.space.fs, Logger: s.log, Writers: s.opts.Writers, Limit: s.opts.SegmentLimit, Fatal: s.opts.Fatal,
	})
	if err != nil {
		return err
	}
	cache := pebble.NewCache(s.opts.BlockCache)
	defer cache.Unref()
	for i := range s.opts.Instances {
		db, err := pebble.Open(s.path(fmt.Sprintf("meta-%02d", i)), s.pebbleOptions(cache))
		if err != nil {
			return err
		}
		s.dbs = append(s.dbs, db)
		if err := s.live.load(db); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) pebbleOptions(cache *pebble.Cache) *pebble.Options {
	o := &pebble.Options{
		Cache:                       cache,
		FS:                          s.space.fs,
		Merger:                      rows.LiveMerger(),
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                uint64(s.opts.MemTable),
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		MaxOpenFiles:                256,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      pebbleLog{s},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].FilterType = pebble.TableFilter
	}
	return o
}

// pebbleLog passes on what Pebble has to say.
type pebbleLog struct{ s *Store }

func (pebbleLog) Infof(string, ...any) {}

func (l pebbleLog) Errorf(format string, args ...any) {
	l.s.log.Error("pebble reports an error", zap.String("reason", fmt.Sprintf(format, args...)))
}

// Fatalf is called when a write or a sync of Pebble's failed. It does not
// return: Pebble would go on with what it does not have.
func (l pebbleLog) Fatalf(format string, args ...any) {
	l.s.opts.Fatal(fmt.Errorf(format, args...))
	runtime.Goexit()
}

// gate counts the calls under way. A call may be made within another (from
// QueueScan's function, say).
type gate struct {
	mu     sync.Mutex
	calls  int
	closed bool
	empty  chan struct{} // made by close, closed when no call is left
}

// enter begins a call, which ends with the returned function. After Close it
// is ErrBusy.
func (s *Store) enter() (leave func(), err error) {
	g := &s.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, backend.ErrBusy
	}
	g.calls++
	return g.leave, nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls--; g.closed && g.calls == 0 {
		close(g.empty)
	}
}

// close refuses later calls and waits for those under way. It reports whether
// the gate was open.
func (g *gate) close() bool {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return false
	}
	g.closed, g.empty = true, make(chan struct{})
	if g.calls == 0 {
		close(g.empty)
	}
	g.mu.Unlock()
	<-g.empty
	return true
}

// Close waits for the calls under way, refuses later ones with
// backend.ErrBusy, and closes the files. Bodies that are open stay readable.
func (s *Store) Close() error {
	if !s.gate.close() {
		return nil
	}
	close(s.stop)
	s.sweeping.Wait()
	return s.release()
}

// release closes what Open opened.
func (s *Store) release() error {
	var errs []error
	for _, db := range s.dbs {
		errs = append(errs, db.Flush(), db.Close())
	}
	if s.segments != nil {
		errs = append(errs, s.segments.Close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// shardOf returns an account's shard.
func shardOf(account string) uint8 { return uint8(xxh3.HashString(account)) }

// shardOfUser is shardOf, and knows the queue's.
func shardOfUser(account string) uint8 {
	if account == "" {
		return 0
	}
	return shardOf(account)
}

func (s *Store) dbOf(shard uint8) *pebble.DB { return s.dbs[int(shard)%len(s.dbs)] }

// User implements backend.Store.
func (s *Store) User(_ context.Context, account string) (backend.User, error) {
	leave, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	u, err := s.existing(account)
	if err != nil {
		return nil, err
	}
	return &mail{u}, nil
}

// existing returns an account that has mail here.
func (s *Store) existing(account string) (*user, error) {
	u, err := s.user(account)
	if err != nil {
		return nil, err
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	if !u.exists {
		return nil, backend.ErrNoUser
	}
	return u, nil
}

// user returns an account, with mail or without.
func (s *Store) user(account string) (*user, error) {
	if account == "" {
		return nil, backend.ErrNoUser
	}
	if err := s.quarantine.of(account); err != nil {
		return nil, err
	}
	return s.loadUser(account)
}

// loadUser returns an account, also one that is shut off.
func (s *Store) loadUser(account string) (*user, error) {
	u, err := s.users.get(account, func() *user { return newUser(s, account) })
	if err != nil {
		return nil, s.broken("read an account", err)
	}
	return u, nil
}

// broken logs an error of the disk and answers that the store cannot do it
// now.
func (s *Store) broken(step string, err error) error {
	s.log.Error("the store cannot serve a call", zap.String("verb", step), zap.Error(err))
	return fmt.Errorf("%s: %w: %w", step, backend.ErrBusy, err)
}

// Generation implements backend.Store.
func (s *Store) Generation(_ context.Context, account string) (uint64, error) {
	leave, err := s.enter()
	if err != nil {
		return 0, err
	}
	defer leave()
	u, err := s.existing(account)
	if err != nil {
		return 0, err
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.row.Generation, nil
}

// Users implements backend.Store.
func (s *Store) Users(ctx context.Context, each func(account string) bool) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	stopped := false
	for _, db := range s.dbs {
		err := rows.Scan(db, []byte{rows.SpaceName}, func(key, _ []byte) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if stopped = !each(string(key[1:])); stopped {
				return rows.ErrStop
			}
			return nil
		})
		if err != nil || stopped {
			return err
		}
	}
	return nil
}

// clock gives the times of records.
type clock struct {
	now  func() time.Time
	mu   sync.Mutex
	last effect.Clock
}

func (c *clock) next() effect.Clock {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = c.last.Next(c.now())
	return c.last
}

// seen makes the clock go past a time from the log.
func (c *clock) seen(t effect.Clock) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, t)
}
