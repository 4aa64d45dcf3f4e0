package upstream

import (
	"sync"
	"time"
)

// hints remember which node owns an account, as the nodes said lately. They are
// bounded: the names of a generation of half the number are kept beside those of
// the one before, and what is used moves up. Losing one costs a session one more
// login. It is safe for concurrent use.
type hints struct {
	half int // a generation
	ttl  time.Duration

	mu         sync.Mutex
	young, old map[hintKey]hint
}

type hintKey struct{ backend, account string }

type hint struct {
	node  string
	until time.Time
}

// set remembers a hint; an empty node forgets it.
func (h *hints) set(backend, account, node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := hintKey{backend, account}
	if node == "" {
		delete(h.young, key)
		delete(h.old, key)
		return
	}
	h.put(key, hint{node, time.Now().Add(h.ttl)})
}

// put adds to the young generation. The caller holds mu.
func (h *hints) put(key hintKey, v hint) {
	if _, there := h.young[key]; !there && len(h.young) >= h.half {
		h.old, h.young = h.young, nil
	}
	if h.young == nil {
		h.young = make(map[hintKey]hint)
	}
	h.young[key] = v
}

// get returns the node of an account, "" when it is not known.
func (h *hints) get(backend, account string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := hintKey{backend, account}
	v, found := h.young[key]
	if !found {
		if v, found = h.old[key]; !found {
			return ""
		}
		delete(h.old, key)
		if time.Now().Before(v.until) {
			h.put(key, v)
		}
	}
	if !time.Now().Before(v.until) {
		delete(h.young, key)
		return ""
	}
	return v.node
}

func (h *hints) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.young) + len(h.old)
}
