package segment

import (
	"container/list"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fileCache keeps segments open for reading, the least recently used going
// first. A handle in use stays open until its last user releases it, in the
// cache or not.
type fileCache struct {
	set *Set

	mu     sync.Mutex
	open   map[uint32]*list.Element // of *handle
	order  *list.List               // most recently used first
	closed bool
}

// handle is an open segment.
type handle struct {
	id    uint32
	f     vfs.File
	users atomic.Int32 // the cache is one
}

func (c *fileCache) init(s *Set) {
	c.set, c.open, c.order = s, make(map[uint32]*list.Element), list.New()
}

// get returns a segment's handle; the caller releases it.
func (c *fileCache) get(id uint32) (*handle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if el, ok := c.open[id]; ok {
		c.order.MoveToFront(el)
		h := el.Value.(*handle)
		h.users.Add(1)
		return h, nil
	}
	c.set.mu.Lock()
	_, known := c.set.sealed[id]
	c.set.mu.Unlock()
	if !known {
		return nil, &os.PathError{Op: "open", Path: c.set.path(id), Err: os.ErrNotExist}
	}
	f, err := c.set.fs.Open(c.set.path(id))
	if err != nil {
		return nil, err
	}
	h := &handle{id: id, f: f}
	h.users.Store(2)
	c.open[id] = c.order.PushFront(h)
	for c.order.Len() > c.set.opts.OpenFiles {
		c.evict(c.order.Back())
	}
	return h, nil
}

// evict forgets a handle. The caller holds the lock.
func (c *fileCache) evict(el *list.Element) {
	h := c.order.Remove(el).(*handle)
	delete(c.open, h.id)
	h.release()
}

// drop forgets a segment that is about to be deleted.
func (c *fileCache) drop(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.open[id]; ok {
		c.evict(el)
	}
}

func (c *fileCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for el := c.order.Front(); el != nil; el = c.order.Front() {
		c.evict(el)
	}
}

func (h *handle) release() {
	if h.users.Add(-1) == 0 {
		h.f.Close()
	}
}
