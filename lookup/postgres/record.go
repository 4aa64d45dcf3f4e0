package postgres

import (
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
)

// maxHash is the longest password hash in bytes.
const maxHash = 1024

// Record is one account, as an import brings it and an export gives it.
type Record struct {
	Name   string            // clean, see lookup.CleanName
	Hash   string            // nobody can log in to an account without one
	Labels map[string]string // everything else, under lower-case labels
}

// String never shows the hash.
func (r Record) String() string { return fmt.Sprintf("record of %q", r.Name) }

// GoString never shows the hash.
func (r Record) GoString() string { return r.String() }

// check says why a record cannot be kept. The bounds are those of the text
// form, into which every database can be exported. Errors: RefusedError.
func (r Record) check() error {
	if err := netwin.CheckName(r.Name); err != nil {
		return err
	}
	switch {
	case len(r.Hash) > maxHash:
		return netwin.Refuse("the password hash is longer than %d bytes", maxHash)
	case strings.ContainsAny(r.Hash, `: "`) || netwin.HasControl(r.Hash) || !utf8.ValidString(r.Hash):
		return netwin.Refuse("the password hash has a colon, space, quote or control character, or is not UTF-8")
	}
	return checkLabels(r.Labels)
}

// checkLabels refuses what a record or the database cannot hold, and values
// that would silently mean nothing.
func checkLabels(labels map[string]string) error {
	if err := netwin.CheckLabels(labels); err != nil {
		return err
	}
	for label, value := range labels {
		if !utf8.ValidString(label) || !utf8.ValidString(value) {
			return netwin.Refuse("the label or the value of %.64q is not UTF-8", label)
		}
	}
	if _, err := netwin.ParseGeneration(labels[netwin.Generation]); err != nil {
		return err
	}
	_, err := netwin.ParseQuota(labels[netwin.Quota])
	return err
}

// state is all that is known about a name.
type state struct {
	record     Record
	live       bool
	generation uint64 // the newest that an account of this name had
}

// set is the state after a Set. It does not write to old's labels.
func (old state) set(name string, hash *string, labels map[string]string) (state, error) {
	if !old.live && hash == nil {
		if labels[netwin.Alias] == "" {
			return state{}, lookup.ErrAbsent
		}
		locked := netwin.Locked
		hash = &locked
	}
	r := Record{Name: name, Hash: old.record.Hash, Labels: make(map[string]string, len(old.record.Labels)+len(labels))}
	if hash != nil {
		r.Hash = *hash
	}
	maps.Copy(r.Labels, old.record.Labels)
	for label, value := range labels {
		if value == "" {
			delete(r.Labels, label)
		} else {
			r.Labels[label] = value
		}
	}
	moved := old.moves(r)
	least, err := old.least(moved)
	if err != nil {
		return state{}, err
	}
	given, isGiven := labels[netwin.Generation]
	switch {
	case isGiven:
		generation, err := netwin.ParseGeneration(given)
		if err != nil {
			return state{}, err
		}
		if generation < least {
			return state{}, netwin.Refuse("%s %d is too low: it must be at least %d", netwin.Generation, generation, least)
		}
	case moved:
		setGeneration(r.Labels, old.generation+1)
	}
	return becomes(r)
}

// replace is the state after a record was put in the place of another, as an
// import does. A generation that would go down is raised instead.
func (old state) replace(r Record) (state, error) {
	generation, err := netwin.ParseGeneration(r.Labels[netwin.Generation])
	if err != nil {
		return state{}, err
	}
	least, err := old.least(old.moves(r))
	if err != nil {
		return state{}, err
	}
	if generation < least {
		r.Labels = maps.Clone(r.Labels)
		if r.Labels == nil {
			r.Labels = make(map[string]string, 1)
		}
		setGeneration(r.Labels, least)
	}
	return becomes(r)
}

// moves reports whether r has its home elsewhere than the account had. An
// account made anew under a deleted one's name has moved, wherever it is.
func (old state) moves(r Record) bool {
	if !old.live && old.generation > 0 {
		return true
	}
	return r.Labels[netwin.Home] != old.record.Labels[netwin.Home]
}

// least is the lowest generation that may follow.
func (old state) least(moved bool) (uint64, error) {
	if !moved || old.generation == 0 {
		return old.generation, nil
	}
	if old.generation == math.MaxUint64 {
		return 0, netwin.Refuse("there is no %s above %d", netwin.Generation, old.generation)
	}
	return old.generation + 1, nil
}

func becomes(r Record) (state, error) {
	if err := r.check(); err != nil {
		return state{}, err
	}
	generation, err := netwin.ParseGeneration(r.Labels[netwin.Generation])
	if err != nil {
		return state{}, err
	}
	return state{record: r, live: true, generation: generation}, nil
}

func setGeneration(labels map[string]string, generation uint64) {
	labels[netwin.Generation] = strconv.FormatUint(generation, 10)
}
