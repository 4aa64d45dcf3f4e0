// Package cache answers questions about accounts from memory, in front of a
// directory, so that known users are served while the directory is slow or
// away:
//
//	c, err := cache.New(directory, cache.Options{})
//	defer c.Close()
//	account, err := c.Lookup(ctx, name)
//
// What it promises:
//
//   - The three answers stay apart. Unavailable is never remembered as
//     anything but a short back-off, absent never outlives its TTL, and an
//     answer that is too old is given only when the directory cannot say.
//   - A verified password is remembered as a keyed hash whose key exists in
//     this process only. It opens the door for PasswordTTL without a question,
//     and for StaleLogin at most when the directory is unavailable, both
//     counted from the last time that the directory itself said yes.
//   - A rejection is remembered for the very same password only: the corrected
//     one is asked at once.
//   - The same question at the same time is asked once, and a caller that goes
//     away takes nothing from those who wait with it.
//   - Names that nobody has cannot push out the accounts that exist.
//   - A directory that can tell of changes (lookup.Watcher) is listened to:
//     what it tells of is asked about again, and Options.OnChange hears of it.
//     Without a feed, Options.OnChange hears of what a question brings to
//     light, at the end of the TTL.
//   - A directory that comes back from an outage meets a bounded number of
//     questions at a time.
package cache

import (
	"context"
	"crypto/rand"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"switchyard/lookup"
)

// maxStaleLogin is the longest that a remembered password may stand in for a
// directory that is away.
const maxStaleLogin = 15 * time.Minute

// DefaultTTL is what Options.TTL is when it is zero.
const DefaultTTL = 5 * time.Minute

// maxKey is the longest name that is remembered, in bytes. No clean name is
// longer; longer ones go to the directory unremembered.
const maxKey = 320

// Options of a Cache. Where zero means a default, a negative value turns the
// thing off.
type Options struct {
	// Entries bounds the accounts in memory; a quarter as many names without
	// an account are remembered beside them. An entry is about 0.6 KB plus the
	// account's own strings. Zero means 100,000.
	Entries int

	// Bytes bounds the accounts in memory too, whichever bound is reached
	// first; the names without an account may take a quarter as much beside
	// them. It is counted, not measured, and right within a fifth or so. Zero
	// means 128 MiB.
	Bytes int64

	// TTL is how long a found account is answered without a question. Zero
	// means 5 minutes.
	TTL time.Duration

	// NegativeTTL is how long absent, and rejected for the same password, are
	// answered without a question. Zero means 10 seconds.
	NegativeTTL time.Duration

	// StaleTTL is how long past its TTL a found account is still answered
	// while the directory is unavailable. Zero means 24 hours.
	StaleTTL time.Duration

	// PasswordTTL is how long a verified password is believed without a
	// question. Zero means 5 minutes.
	PasswordTTL time.Duration

	// StaleLogin is how long a verified password is believed while the
	// directory is unavailable. Zero means 15 minutes, which is also the most.
	StaleLogin time.Duration

	// AnyClient says that the directory's answer to Check does not depend on
	// Credentials.Client. False means that a password is remembered for the
	// client's address that it came from. It is always remembered for its
	// protocol only.
	AnyClient bool

	// RefreshAhead is the last part of a TTL, in which the use of an answer
	// asks the directory again in the background, so that an account in steady
	// use never waits for it. Such a question goes without when MaxQuestions
	// are asked. Zero means 0.1.
	RefreshAhead float64

	// MaxQuestions bounds the questions that the directory is asked at the
	// same time; others wait for up to Timeout, and beyond a bound they are
	// unavailable at once. Zero means 64; it cannot be turned off.
	MaxQuestions int

	// OnChange is called when sessions of an account may have to end: with
	// each change that the directory's feed tells of, and, with Sessions set,
	// when an answer differs from the one remembered in its home, its
	// generation or its status, or says that the account is gone or a password
	// no longer right. An empty name (see lookup.Change) means that changes may have been
	// missed: who holds sessions asks about their accounts again. The memory
	// is up to date before the call. Calls come from several goroutines and
	// must not block for long. Nil means that nobody is told.
	OnChange func(lookup.Change)

	// BackOff is how long a name is not asked about after the directory was
	// unavailable for it. Zero means 1 second.
	BackOff time.Duration

	// Patience is how long a caller waits for the directory when memory has an
	// old answer that will do; the question goes on and refreshes the memory.
	// Zero means 1 second; negative, not at all.
	Patience time.Duration

	// Timeout bounds a question to the directory. It does not follow the
	// caller's context, since others may wait for the same answer. Zero means
	// 10 seconds; it cannot be turned off.
	Timeout time.Duration

	// Jitter is the part of each TTL that is left to chance, so that what was
	// learnt together does not expire together. Zero means 0.1.
	Jitter float64

	// Now is the clock. Nil means time.Now.
	Now func() time.Time

	// Logger hears of panics in the directory, which are answered as
	// unavailable, and of the end of its feed. Nil means none.
	Logger *zap.Logger
}

func (o *Options) defaults() error {
	if o.StaleLogin > maxStaleLogin {
		return fmt.Errorf("stale login of %v is longer than %v", o.StaleLogin, maxStaleLogin)
	}
	if o.Jitter > 1 {
		return fmt.Errorf("jitter of %v is more than 1", o.Jitter)
	}
	if o.RefreshAhead >= 1 {
		return fmt.Errorf("refresh ahead of %v is not less than 1", o.RefreshAhead)
	}
	for _, d := range []struct {
		value *time.Duration
		zero  time.Duration
	}{
		{&o.TTL, DefaultTTL}, {&o.NegativeTTL, 10 * time.Second}, {&o.StaleTTL, 24 * time.Hour},
		{&o.PasswordTTL, 5 * time.Minute}, {&o.StaleLogin, maxStaleLogin}, {&o.BackOff, time.Second},
		{&o.Patience, time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.zero
		}
		*d.value = max(*d.value, 0)
	}
	if o.Entries <= 0 {
		o.Entries = 100_000
	}
	if o.Bytes <= 0 {
		o.Bytes = 128 << 20
	}
	if o.MaxQuestions <= 0 {
		o.MaxQuestions = 64
	}
	if o.RefreshAhead == 0 {
		o.RefreshAhead = 0.1
	}
	o.RefreshAhead = max(o.RefreshAhead, 0)
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Jitter == 0 {
		o.Jitter = 0.1
	}
	o.Jitter = max(o.Jitter, 0)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return nil
}

// Cache is a lookup.Directory in front of another. It is safe for concurrent
// use.
type Cache struct {
	next lookup.Directory
	opts Options
	key  [32]byte // of remember's MAC; never leaves the process
	seed maphash.Seed
	made time.Time // the zero of its instants

	// Two memories, so that guessed names compete with each other and not with
	// the accounts. An entry is never changed, only replaced.
	known, unknown *memory

	flights singleflight.Group
	gate    *gate
	rounds  atomic.Uint64 // counts the questions of Fresh
	stats   counters

	// era grows when all that is known becomes old, epochs when answers under
	// way become worthless, by hash of the name. Both are written under mu.
	era    atomic.Uint32
	epochs [256]atomic.Uint32

	mu         sync.Mutex           // held by every write to the memories, and for what follows
	running    map[*question]func() // the questions under way and how to end them
	refreshing map[string]bool      // the keys of those that run in the background
	wg         sync.WaitGroup       // the questions under way
	closed     bool

	endFeed context.CancelFunc
	feed    sync.WaitGroup
}

// New returns a cache in front of next. Close it before next. When next is a
// lookup.Watcher, the cache listens to it until Close.
func New(next lookup.Directory, opts Options) (*Cache, error) {
	if err := opts.defaults(); err != nil {
		return nil, err
	}
	c := &Cache{
		next: next, opts: opts, seed: maphash.MakeSeed(), gate: newGate(opts.MaxQuestions),
		running: make(map[*question]func()), refreshing: make(map[string]bool),
	}
	c.made = time.Now()
	if opts.Now != nil {
		c.made = opts.Now()
	}
	if _, err := rand.Read(c.key[:]); err != nil {
		return nil, fmt.Errorf("make the key for passwords: %w", err)
	}
	var err error
	if c.known, err = newMemory(opts.Entries, opts.Bytes); err != nil {
		return nil, err
	}
	if c.unknown, err = newMemory(max(opts.Entries/4, 1), max(opts.Bytes/4, 1)); err != nil {
		return nil, err
	}
	// The feed outlives the call that starts it and ends with Close.
	ctx, cancel := context.WithCancel(context.Background())
	c.endFeed = cancel
	if w, ok := next.(lookup.Watcher); ok {
		c.feed.Go(func() { c.follow(ctx, w) })
	}
	return c, nil
}

// Close ends the feed and the questions under way, and waits for them.
// Questions after it are answered from memory or with unavailable.
func (c *Cache) Close() error {
	c.endFeed()
	c.mu.Lock()
	c.closed = true
	for _, cancel := range c.running {
		cancel()
	}
	c.mu.Unlock()
	c.feed.Wait()
	c.wg.Wait()
	return nil
}

// Lookup implements lookup.Directory. The account may be as old as TTL; while
// the directory is unavailable, as old as TTL and StaleTTL.
func (c *Cache) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	now := c.now()
	e := c.get(name)
	if h, ok := e.lookup(now, c.era.Load()); ok {
		c.stats.hits.Add(1)
		if h.ahead {
			c.refresh(ctx, &question{name: name})
		}
		return h.answer()
	}
	q := &question{name: name, epoch: c.epoch(name).Load()}
	return c.answer(ctx, q, e, now)
}

// Check implements lookup.Directory.
func (c *Cache) Check(ctx context.Context, cred lookup.Credentials) (lookup.Account, error) {
	if cred.Password == "" {
		return lookup.Account{}, lookup.ErrRejected
	}
	now := c.now()
	q := &question{name: cred.Name, cred: cred, mac: c.mac(cred), check: true, epoch: c.epoch(cred.Name).Load()}
	e := c.get(cred.Name)
	if h, ok := e.check(q.mac, now, c.era.Load()); ok {
		c.stats.hits.Add(1)
		if h.ahead {
			c.refresh(ctx, q)
		}
		return h.answer()
	}
	return c.answer(ctx, q, e, now)
}

// Fresh asks the directory, whatever the memory says, and remembers the
// answer. It is for the caller that learnt that the memory is wrong: a backend
// said that the account is not its own any more. The question is asked after
// the call of Fresh, never before; callers that come together share it. An old
// answer is never given: while the directory is unavailable, so is Fresh, and
// the account's memory counts as old from then on.
func (c *Cache) Fresh(ctx context.Context, name string) (lookup.Account, error) {
	if e := c.get(name); e != nil && c.now().Before(e.backOffUntil) {
		c.stats.backedOff.Add(1)
		return lookup.Account{}, e.backOffCause
	}
	q := question{name: name, fresh: true, called: c.rounds.Load()}
	for {
		mine := q // a flight keeps its question
		account, round, err := c.wait(ctx, &mine, nil)
		// What was under way already may be older than what the caller knows.
		// A flight of its own is not, so this ends.
		if round > q.called || lookup.AnswerOf(err) == lookup.AnswerUnavailable {
			return account, err
		}
	}
}

// Remembered returns what Lookup would answer from memory now, and since when it
// is known; ok is false when it would ask the directory. Looking changes
// nothing: no question is asked, and nothing stays longer for it. It implements
// router.Memory.
func (c *Cache) Remembered(name string) (account lookup.Account, since time.Time, ok bool, err error) {
	e, found := c.known.peek(name)
	if !found {
		e, _ = c.unknown.peek(name)
	}
	h, ok := e.lookup(c.now(), c.era.Load())
	if !ok {
		return lookup.Account{}, time.Time{}, false, nil
	}
	account, err = h.answer()
	return account, c.made.Add(time.Duration(e.learnt)), true, err
}

// Forget drops all that is known of a name, remembered passwords too. Answers
// under way are given to those who wait for them, but not remembered.
func (c *Cache) Forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch(name).Add(1)
	c.known.remove(name)
	c.unknown.remove(name)
}

// Purge is Forget for all names.
func (c *Cache) Purge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.epochs {
		c.epochs[i].Add(1)
	}
	c.known.purge()
	c.unknown.purge()
}

// epoch is the counter that tells whether an answer to a question about name
// may still be remembered. Names share counters: a name forgotten now and then
// keeps another's answer out of memory, which costs one more question.
func (c *Cache) epoch(name string) *atomic.Uint32 {
	return &c.epochs[maphash.String(c.seed, name)%uint64(len(c.epochs))]
}

func (c *Cache) get(name string) *entry {
	if e, ok := c.known.get(name); ok {
		return e
	}
	if e, ok := c.unknown.get(name); ok {
		return e
	}
	return nil
}
