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
//
// Names and rests are parts of the text that they were read from. A megabyte
// of a file stays in memory as long as one of its records does: at worst the
// base as it was opened, beside what has changed since.
type table struct {
	seed   maphash.Seed
	shards [64]shard
	live   atomic.Int64
	kinds  [kindCount]atomic.Int64 // how many accounts have each kind of hash
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
	rest       string // hash:labels as appendRecord writes them; "" when there is no account
	generation uint64 // the newest that an account of this name had
}

func (s state) live() bool { return s.rest != "" }

// hash and label read the rest.
func (s state) hash() string {
	stored, _, _ := strings.Cut(s.rest, ":")
	return stored
}

func (s state) label(label string) string {
	_, labels, _ := strings.Cut(s.rest, ":")
	return netwin.Value(labels, label)
}

// newTable makes a table for about n names.
func newTable(n int) *table {
	t := &table{seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].lines = make(map[string]string, n/len(t.shards))
		t.shards[i].gone = make(map[string]uint64)
	}
	return t
}

func (t *table) shard(name string) *shard {
	return &t.shards[maphash.String(t.seed, name)%uint64(len(t.shards))]
}

// rest returns what stands behind a name's first colon.
func (t *table) rest(name string) (string, bool) {
	s := t.shard(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	rest, found := s.lines[name]
	return rest, found
}

func (t *table) get(name string) (Record, bool) {
	rest, found := t.rest(name)
	if !found {
		return Record{}, false
	}
	return line{name, rest}.record(), true
}

func (t *table) state(name string) state {
	s := t.shard(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if rest, live := s.lines[name]; live {
		st := state{rest: rest}
		st.generation, _ = netwin.ParseGeneration(st.label(netwin.Generation))
		return st
	}
	return state{generation: s.gone[name]}
}

// put makes a state the current one. The name and the rest should be parts of
// one string. It returns the rest that was there, and whether anything was
// known about the name.
func (t *table) put(name string, st state) (before string, known bool) {
	s := t.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known = s.lines[name]
	if known {
		// The old key would keep the old line alive.
		delete(s.lines, name)
		t.live.Add(-1)
	} else if _, known = s.gone[name]; known {
		delete(s.gone, name)
	}
	// One that stays what it was is never missing from its count.
	if was, is := kindOf(state{rest: before}), kindOf(st); was != is {
		t.kinds[is].Add(1)
		t.kinds[was].Add(-1)
	}
	switch {
	case st.live():
		s.lines[name] = st.rest
		t.live.Add(1)
	case st.generation > 0:
		s.gone[strings.Clone(name)] = st.generation
	}
	return before, known
}

// copyTo puts everything into another table, which nobody else uses.
func (t *table) copyTo(other *table) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		for name, rest := range s.lines {
			other.put(name, state{rest: rest})
		}
		for name, generation := range s.gone {
			other.put(name, state{generation: generation})
		}
		s.mu.RUnlock()
	}
}

// line is a record that has not been taken apart.
type line struct{ name, rest string }

func (l line) hash() string { return state{rest: l.rest}.hash() }

// record takes a line apart that was written from a record.
func (l line) record() Record {
	stored := l.hash()
	labels, err := netwin.ParseLabels(l.rest[len(stored)+1:])
	if err != nil {
		panic("nwauth: a line in memory cannot be read: " + err.Error())
	}
	return Record{Name: l.name, Hash: stored, Labels: labels}
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
	st := state{rest: s.lines[name], generation: s.gone[name]}
	s.mu.RUnlock()
	if !st.live() && st.generation == 0 {
		return dst
	}
	return append(st.appendLine(dst, name), '\n')
}

// appendLine writes a state as a line of the base or the log, without the line
// end.
func (s state) appendLine(dst []byte, name string) []byte {
	if !s.live() {
		return appendDeletion(dst, name, s.generation)
	}
	dst = append(dst, name...)
	dst = append(dst, ':')
	return append(dst, s.rest...)
}
