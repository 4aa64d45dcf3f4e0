package nwauth

import (
	"hash/maphash"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"switchyard/lookup/internal/netwin"
)

// table is the database in memory: for each name the rest of its line, cut
// into shards so that a search holds up a change only for a moment.
type table struct {
	seed   maphash.Seed
	shards [64]shard
	live   atomic.Int64
}

type shard struct {
	mu sync.RWMutex

	// lines maps a name to "hash:labels". The two are parts of one string.
	lines map[string]string

	// gone holds the generations of accounts that were deleted.
	gone map[string]uint64
}

// state is all that is known about a name.
type state struct {
	record     Record
	live       bool
	generation uint64 // the newest that an account of this name had
}

func newTable() *table {
	t := &table{seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].lines = make(map[string]string)
		t.shards[i].gone = make(map[string]uint64)
	}
	return t
}

func (t *table) shard(name string) *shard {
	return &t.shards[maphash.String(t.seed, name)%uint64(len(t.shards))]
}

func (t *table) get(name string) (Record, bool) {
	s := t.shard(name)
	s.mu.RLock()
	rest, found := s.lines[name]
	s.mu.RUnlock()
	if !found {
		return Record{}, false
	}
	return line{name, rest}.record(), true
}

func (t *table) state(name string) state {
	if r, found := t.get(name); found {
		generation, _ := netwin.ParseGeneration(r.Labels[netwin.Generation])
		return state{record: r, live: true, generation: generation}
	}
	s := t.shard(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return state{generation: s.gone[name]}
}

// known reports whether anything is known about a name.
func (t *table) known(name string) bool {
	s := t.shard(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, live := s.lines[name]; live {
		return true
	}
	_, gone := s.gone[name]
	return gone
}

// put makes a state the current one.
func (t *table) put(name string, st state) {
	s := t.shard(name)
	var text string
	if st.live {
		text = string(appendRecord(nil, st.record))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, was := s.lines[name]
	switch {
	case st.live:
		// The old key would keep the old line alive.
		delete(s.lines, name)
		delete(s.gone, name)
		s.lines[text[:len(name)]] = text[len(name)+1:]
	default:
		delete(s.lines, name)
		if st.generation > 0 {
			s.gone[name] = st.generation
		}
	}
	if st.live && !was {
		t.live.Add(1)
	} else if !st.live && was {
		t.live.Add(-1)
	}
}

// line is a record that has not been taken apart.
type line struct{ name, rest string }

func (l line) hash() string {
	hash, _, _ := strings.Cut(l.rest, ":")
	return hash
}

// record takes a line apart that was written from a record.
func (l line) record() Record {
	hash := l.hash()
	labels, err := netwin.ParseLabels(l.rest[len(hash)+1:])
	if err != nil {
		panic("nwauth: a line in memory cannot be read: " + err.Error())
	}
	return Record{Name: l.name, Hash: hash, Labels: labels}
}

// all goes through the lines in no order, each shard as it is when its turn
// comes.
func (t *table) all() iter.Seq[line] {
	return func(yield func(line) bool) {
		for i := range t.shards {
			for _, l := range t.shards[i].snapshot() {
				if !yield(l) {
					return
				}
			}
		}
	}
}

func (s *shard) snapshot() []line {
	s.mu.RLock()
	defer s.mu.RUnlock()
	lines := make([]line, 0, len(s.lines))
	for name, rest := range s.lines {
		lines = append(lines, line{name, rest})
	}
	return lines
}

// names returns every name, sorted; with those of deleted accounts whose
// generation is remembered if gone is set.
func (t *table) names(gone bool) []string {
	names := make([]string, 0, t.live.Load())
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		for name := range s.lines {
			names = append(names, name)
		}
		if gone {
			for name := range s.gone {
				names = append(names, name)
			}
		}
		s.mu.RUnlock()
	}
	slices.Sort(names)
	return names
}

// appendLine writes what is known about a name now as a line of a file, with
// its line end; nothing if that is nothing.
func (t *table) appendLine(dst []byte, name string) []byte {
	s := t.shard(name)
	s.mu.RLock()
	rest, live := s.lines[name]
	generation := s.gone[name]
	s.mu.RUnlock()
	switch {
	case live:
		dst = append(dst, name...)
		dst = append(dst, ':')
		dst = append(dst, rest...)
	case generation > 0:
		dst = appendDeletion(dst, name, generation)
	default:
		return dst
	}
	return append(dst, '\n')
}
