package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"switchyard/lookup"
)

// feedPause is how long a feed that ended, which none should, is left alone.
const feedPause = 5 * time.Second

// follow keeps the memory in step with the directory's changes until ctx ends
// or the directory turns out to have no feed.
func (c *Cache) follow(ctx context.Context, w lookup.Watcher) {
	for ctx.Err() == nil {
		err := c.watch(ctx, w)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, lookup.ErrNoFeed):
			c.opts.Logger.Info("directory has no feed of changes", zap.NamedError("reason", err))
			return
		}
		c.opts.Logger.Warn("feed of changes ended", zap.NamedError("reason", err))
		c.apply(lookup.Change{})
		timer := time.NewTimer(feedPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// watch runs the directory's Watch, and makes an error of a panic in it.
func (c *Cache) watch(ctx context.Context, w lookup.Watcher) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.opts.Logger.Error("feed of changes panicked", zap.Any("reason", p), zap.Stack("stack"))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return w.Watch(ctx, c.apply)
}

// apply makes the memory true again after a change.
func (c *Cache) apply(change lookup.Change) {
	c.stats.changes.Add(1)
	switch {
	case change.Name == "":
		c.age()
	case change.Sessions:
		c.Forget(change.Name)
	default:
		c.expire(change.Name)
	}
	c.tell(change)
}

// age makes all that is known old: it is given while the directory is
// unavailable, but not in place of a question.
func (c *Cache) age() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.epochs {
		c.epochs[i].Add(1)
	}
	c.era.Add(1)
}

// expire makes what is known of one account old. Its passwords are what they
// were.
func (c *Cache) expire(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch(name).Add(1)
	if _, ok := c.known.peek(name); ok {
		e, _ := c.copyOf(name)
		e.expire()
		c.replace(name, e)
	}
	c.unknown.remove(name)
}

// tell passes a change on to who holds sessions.
func (c *Cache) tell(change lookup.Change) {
	if c.opts.OnChange != nil {
		c.opts.OnChange(change)
	}
}
