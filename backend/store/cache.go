package store

import (
	"container/list"
	"sync"

	"switchyard/backend"
)

// viewCache bounds the messages kept in memory. A mailbox that is watched
// keeps its messages: its session has them anyway.
type viewCache struct {
	limit int

	mu    sync.Mutex
	n     int        // messages, as counted when each box was last used
	boxes *list.List // of *cachedBox, most recently used first
}

type cachedBox struct {
	b *box
	n int
}

func (c *viewCache) init(limit int) { c.limit, c.boxes = limit, list.New() }

// used notes that a box's messages, n of them, were loaded or looked at. It
// may let go of others'. The caller holds no user's mu.
func (c *viewCache) used(b *box, n int) {
	n++ // an empty mailbox costs something too
	c.mu.Lock()
	if b.cached == nil {
		b.cached = c.boxes.PushFront(&cachedBox{b: b})
	} else {
		c.boxes.MoveToFront(b.cached)
	}
	entry := b.cached.Value.(*cachedBox)
	c.n += n - entry.n
	entry.n = n
	var victims []*box
	for el := c.boxes.Back(); el != nil && c.n > c.limit; {
		victim, previous := el.Value.(*cachedBox).b, el.Prev()
		if victim != b && victim.watchers.Load() == 0 {
			victims = append(victims, victim)
			c.remove(victim)
		}
		el = previous
	}
	c.mu.Unlock()
	for _, v := range victims {
		v.letGo()
	}
}

// gone notes that a box is deleted.
func (c *viewCache) gone(b *box) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(b)
}

func (c *viewCache) remove(b *box) {
	if b.cached != nil {
		c.n -= c.boxes.Remove(b.cached).(*cachedBox).n
		b.cached = nil
	}
}

// letGo forgets the messages. The next View loads them again.
func (b *box) letGo() {
	b.u.mu.Lock()
	defer b.u.mu.Unlock()
	b.loaded, b.messages = false, backend.Messages{}
}
