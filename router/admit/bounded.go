package admit

// bounded is a map that holds at most max entries: the one that was used least
// lately makes room. It is not safe for concurrent use.
type bounded[K comparable, V any] struct {
	max     int
	entries map[K]*entry[K, V]
	newest  *entry[K, V]
	oldest  *entry[K, V]
}

type entry[K comparable, V any] struct {
	key          K
	value        V
	newer, older *entry[K, V]
}

func newBounded[K comparable, V any](max int) *bounded[K, V] {
	return &bounded[K, V]{max: max, entries: make(map[K]*entry[K, V])}
}

// get returns the value of a key, nil when there is none.
func (b *bounded[K, V]) get(key K) *V {
	e := b.entries[key]
	if e == nil {
		return nil
	}
	b.unlink(e)
	b.link(e)
	return &e.value
}

// at returns the value of a key, a zero one that is kept from now on when there
// was none. The pointer is good until the entry is forgotten.
func (b *bounded[K, V]) at(key K) *V {
	if v := b.get(key); v != nil {
		return v
	}
	e := b.oldest
	if len(b.entries) < b.max || e == nil {
		e = &entry[K, V]{}
	} else {
		b.unlink(e)
		delete(b.entries, e.key)
		*e = entry[K, V]{}
	}
	e.key = key
	b.entries[key] = e
	b.link(e)
	return &e.value
}

func (b *bounded[K, V]) forget(key K) {
	if e := b.entries[key]; e != nil {
		b.unlink(e)
		delete(b.entries, key)
	}
}

func (b *bounded[K, V]) len() int { return len(b.entries) }

func (b *bounded[K, V]) link(e *entry[K, V]) {
	e.older, e.newer = b.newest, nil
	if b.newest != nil {
		b.newest.newer = e
	} else {
		b.oldest = e
	}
	b.newest = e
}

func (b *bounded[K, V]) unlink(e *entry[K, V]) {
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		b.oldest = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		b.newest = e.older
	}
	e.older, e.newer = nil, nil
}
