package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"switchyard/lookup"
)

// errClosed is the cause of unavailable after Close.
var errClosed = errors.New("the cache is closed")

// question is one question for the directory.
type question struct {
	name  string
	check bool // Check with cred; else Lookup
	fresh bool
	ahead bool // in the background, for what is known yet
	cred  lookup.Credentials
	mac   mac
	epoch uint32 // the name's, when the question was asked

	// For Fresh: the newest round when the caller came, and the round of the
	// question when it is asked.
	called, round uint64
}

// key makes questions with the same answer share a flight. A name that was
// forgotten has another epoch and so another flight.
func (q *question) key() string {
	switch {
	case q.fresh:
		return "fresh\x00" + q.name
	case q.check:
		return fmt.Sprintf("check\x00%d\x00%s%s", q.epoch, q.mac[:], q.name)
	default:
		return fmt.Sprintf("lookup\x00%d\x00%s", q.epoch, q.name)
	}
}

// answer asks the directory, unless it was unavailable for this name a moment
// ago, and falls back on e, what the memory had at now.
func (c *Cache) answer(ctx context.Context, q *question, e *entry, now instant) (lookup.Account, error) {
	if e != nil && now.Before(e.backOffUntil) {
		if account, ok := e.stale(q, now); ok {
			c.stats.stale.Add(1)
			return account, nil
		}
		c.stats.backedOff.Add(1)
		return lookup.Account{}, e.backOffCause
	}
	var enough <-chan time.Time
	if _, ok := e.stale(q, now); ok {
		timer := time.NewTimer(c.opts.Patience)
		defer timer.Stop()
		enough = timer.C
	}
	account, _, err := c.wait(ctx, q, enough)
	if lookup.AnswerOf(err) != lookup.AnswerUnavailable {
		return account, err
	}
	// The memory is read again: the name may have been forgotten meanwhile.
	if account, ok := c.get(q.name).stale(q, c.now()); ok {
		c.stats.stale.Add(1)
		return account, nil
	}
	return lookup.Account{}, err
}

// landed is what a flight brings to all who wait for it.
type landed struct {
	account lookup.Account
	round   uint64
}

// wait asks, or joins those who ask already, until there is an answer, the
// caller's context ends or enough fires. It returns the round of an answer to
// Fresh.
func (c *Cache) wait(ctx context.Context, q *question, enough <-chan time.Time) (lookup.Account, uint64, error) {
	if err := ctx.Err(); err != nil {
		return lookup.Account{}, 0, lookup.Unavailable("ask the directory", err)
	}
	mine := false
	done := c.flights.DoChan(q.key(), func() (any, error) {
		mine = true
		account, round, err := c.ask(ctx, q)
		return landed{account, round}, err
	})
	select {
	case r := <-done:
		if !mine {
			c.stats.shared.Add(1)
		}
		l := r.Val.(landed)
		return l.account, l.round, r.Err
	case <-ctx.Done():
		return lookup.Account{}, 0, lookup.Unavailable("wait for the directory", ctx.Err())
	case <-enough:
		return lookup.Account{}, 0, lookup.Unavailable("wait for the directory", context.DeadlineExceeded)
	}
}

// ask puts the question to the directory and remembers the answer. It lives as
// long as Options.Timeout allows, whatever becomes of the caller.
func (c *Cache) ask(ctx context.Context, q *question) (account lookup.Account, round uint64, err error) {
	// Another question may have been answered between the caller's look into
	// the memory and this flight.
	if account, round, err, ok := c.recall(q); ok {
		return account, round, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.opts.Timeout)
	defer cancel()
	if !c.begin(q, cancel) {
		return lookup.Account{}, 0, lookup.Unavailable("ask the directory", errClosed)
	}
	defer c.end(q)
	leave, waited, err := c.gate.enter(ctx, q)
	if err != nil {
		c.stats.busy.Add(1)
		return lookup.Account{}, 0, err
	}
	defer leave()
	if waited {
		// Those before may have learnt the answer, or that there is none now.
		if account, round, err, ok := c.recall(q); ok {
			return account, round, err
		}
		if e := c.get(q.name); e != nil && c.now().Before(e.backOffUntil) {
			c.stats.backedOff.Add(1)
			return lookup.Account{}, 0, e.backOffCause
		}
	}
	c.number(q)
	c.stats.misses.Add(1)
	account, err = c.put(ctx, q)
	if sessions := c.remember(q, account, err); sessions {
		c.tell(lookup.Change{Name: q.name, Sessions: true})
	}
	return account, q.round, err
}

// recall answers a question from memory, if a TTL allows, or for Fresh if what
// is there was asked after the caller came.
func (c *Cache) recall(q *question) (account lookup.Account, round uint64, err error, ok bool) {
	e, now := c.get(q.name), c.now()
	var h hit
	switch {
	case e == nil:
	case q.fresh:
		if ok = e.round > q.called; ok {
			account, round = e.account, e.round
			if !e.found {
				err = lookup.ErrAbsent
			}
		}
		return account, round, err, ok
	case q.check:
		h, ok = e.check(q.mac, now, c.era.Load())
	default:
		h, ok = e.lookup(now, c.era.Load())
	}
	if ok = ok && !(q.ahead && h.ahead); ok {
		account, err = h.answer()
	}
	return account, round, err, ok
}

// refresh asks in the background about what the caller had from memory.
func (c *Cache) refresh(ctx context.Context, q *question) {
	q.ahead, q.epoch = true, c.epoch(q.name).Load()
	key := q.key()
	c.mu.Lock()
	defer c.mu.Unlock()
	// Bounded by MaxQuestions: more of them would find no place.
	if c.closed || c.refreshing[key] || len(c.refreshing) >= c.opts.MaxQuestions {
		return
	}
	c.refreshing[key] = true
	c.stats.ahead.Add(1)
	c.wg.Go(func() {
		defer func() {
			c.mu.Lock()
			delete(c.refreshing, key)
			c.mu.Unlock()
		}()
		c.flights.Do(key, func() (any, error) {
			account, round, err := c.ask(ctx, q)
			return landed{account, round}, err
		})
	})
}

// put asks and makes sure that what comes back is one of the answers which the
// question can have.
func (c *Cache) put(ctx context.Context, q *question) (account lookup.Account, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.opts.Logger.Error("directory panicked", zap.String("user", q.name), zap.Any("reason", p), zap.Stack("stack"))
			account, err = lookup.Account{}, lookup.Unavailable("ask the directory", errors.New("panic"))
		}
	}()
	if q.check {
		account, err = c.next.Check(ctx, q.cred)
	} else {
		account, err = c.next.Lookup(ctx, q.name)
	}
	answer := lookup.AnswerOf(err)
	switch {
	case answer == lookup.AnswerFound:
		return account, nil
	case answer == lookup.AnswerAbsent && q.check:
		return lookup.Account{}, lookup.ErrRejected
	case answer == lookup.AnswerRejected && !q.check, answer == lookup.AnswerUnavailable && !errors.Is(err, lookup.ErrUnavailable):
		return lookup.Account{}, lookup.Unavailable("ask the directory", err)
	}
	return lookup.Account{}, err
}

// begin counts a question in, unless the cache is closed.
func (c *Cache) begin(q *question, cancel func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running[q] = cancel
	c.wg.Add(1)
	return true
}

// number gives a fresh question its epoch and round: older questions under way
// are not remembered from here on.
func (c *Cache) number(q *question) {
	if !q.fresh {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q.epoch = c.epoch(q.name).Add(1)
	q.round = c.rounds.Add(1)
}

func (c *Cache) end(q *question) {
	c.mu.Lock()
	delete(c.running, q)
	c.mu.Unlock()
	c.wg.Done()
}
