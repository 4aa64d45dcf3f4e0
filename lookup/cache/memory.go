package cache

import (
	"sync/atomic"
	"unsafe"

	lru "github.com/hashicorp/golang-lru/v2"
)

// What an entry costs beside its strings: itself, its place in the memory (a
// node of a list and a map's slot, measured), and what each part adds.
const (
	entryCost     = int64(unsafe.Sizeof(entry{})) + 200
	loginCost     = int64(unsafe.Sizeof(login{}))
	stringCost    = 16
	attributeCost = 48
)

// memory keeps the entries that were used last, bounded in number and in
// bytes. It may be read by many; who writes holds the Cache's mu.
type memory struct {
	entries *lru.Cache[string, *entry]
	limit   int64
	bytes   atomic.Int64 // of the entries in it
}

func newMemory(entries int, limit int64) (*memory, error) {
	m := &memory{limit: limit}
	var err error
	m.entries, err = lru.NewWithEvict(entries, func(_ string, e *entry) { m.bytes.Add(-e.cost) })
	return m, err
}

func (m *memory) get(name string) (*entry, bool)  { return m.entries.Get(name) }
func (m *memory) peek(name string) (*entry, bool) { return m.entries.Peek(name) }
func (m *memory) remove(name string)              { m.entries.Remove(name) }
func (m *memory) purge()                          { m.entries.Purge() }
func (m *memory) len() int                        { return m.entries.Len() }

// put adds or replaces an entry and makes room for it. One that is bigger than
// all the room there is is not kept.
func (m *memory) put(name string, e *entry) {
	e.cost = e.size(name)
	if e.cost > m.limit {
		m.remove(name)
		return
	}
	if old, ok := m.entries.Peek(name); ok {
		m.bytes.Add(-old.cost)
	}
	m.bytes.Add(e.cost)
	m.entries.Add(name, e)
	for m.bytes.Load() > m.limit {
		m.entries.RemoveOldest()
	}
}

// size is what the entry takes in bytes, as near as can be told without
// asking the allocator.
func (e *entry) size(name string) int64 {
	n := entryCost + int64(len(name)) + loginCost*int64(cap(e.logins))
	a := &e.account
	n += int64(len(a.Name) + len(a.Home) + len(a.Status))
	for _, f := range a.Forwards {
		n += stringCost + int64(len(f))
	}
	for label, value := range a.Attributes {
		n += attributeCost + int64(len(label)+len(value))
	}
	return n
}
