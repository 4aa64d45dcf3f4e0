package nwauth

import (
	"context"
	"maps"
	"strconv"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/nwauth/hash"
)

// Set adds a user or changes one. A nil password leaves the password as it is.
// The labels are merged into those that are there; one with an empty value is
// removed. It returns whether the user is new, once the change is on disk.
//
// Errors: lookup.ErrAbsent for a nil password of a user who does not exist,
// RefusedError for what a record cannot hold or a generation that would go
// down, lookup.ErrUnavailable. If ctx ended first, the change may or may not
// happen.
func (db *DB) Set(ctx context.Context, name string, password *string, labels map[string]string) (added bool, err error) {
	if err := checkName(name); err != nil {
		return false, err
	}
	if err := netwin.CheckLabels(labels); err != nil {
		return false, err
	}
	if err := checkMeanings(labels); err != nil {
		return false, err
	}
	var stored *string
	if password != nil {
		made, err := db.hash(ctx, *password)
		if err != nil {
			return false, err
		}
		stored = &made
	}
	ch := &change{name: name, next: func(old state) (state, error) { return old.set(name, stored, labels) }}
	if err := db.submit(ctx, ch); err != nil {
		return false, err
	}
	return ch.added, nil
}

func (db *DB) hash(ctx context.Context, password string) (stored string, err error) {
	if err := hash.CheckPassword(password); err != nil {
		return "", err
	}
	busy := db.hashers.do(ctx, func() { stored, err = hash.New(password, db.opts.Argon2) })
	if busy != nil {
		return "", busy
	}
	return stored, err
}

// Delete removes a user and everything in the record, but remembers the
// generation. Errors: lookup.ErrAbsent, lookup.ErrUnavailable.
func (db *DB) Delete(ctx context.Context, name string) error {
	return db.submit(ctx, &change{name: name, next: func(old state) (state, error) {
		if !old.live {
			return state{}, lookup.ErrAbsent
		}
		return state{generation: old.generation}, nil
	}})
}

// set is the state after a Set. It does not write to old's labels.
func (old state) set(name string, stored *string, labels map[string]string) (state, error) {
	if !old.live && stored == nil {
		return state{}, lookup.ErrAbsent
	}
	r := Record{Name: name, Hash: old.record.Hash, Labels: make(map[string]string, len(old.record.Labels)+len(labels))}
	if stored != nil {
		r.Hash = *stored
	}
	maps.Copy(r.Labels, old.record.Labels)
	for label, value := range labels {
		if value == "" {
			delete(r.Labels, label)
		} else {
			r.Labels[label] = value
		}
	}
	given, isGiven := labels[netwin.Generation]
	moved := old.moves(r)
	switch {
	case isGiven:
		generation, err := netwin.ParseGeneration(given)
		if err != nil {
			return state{}, err
		}
		if least := old.least(moved); generation < least {
			return state{}, netwin.Refuse("%s %d is too low: it must be at least %d", netwin.Generation, generation, least)
		}
	case moved:
		setGeneration(r.Labels, old.generation+1)
	}
	return old.becomes(r)
}

// replace is the state after a record was put in the place of another, as an
// import does. A generation that would go down is raised instead.
func (old state) replace(r Record) (state, error) {
	generation, err := netwin.ParseGeneration(r.Labels[netwin.Generation])
	if err != nil {
		return state{}, err
	}
	if least := old.least(old.moves(r)); generation < least && old.generation > 0 {
		r.Labels = maps.Clone(r.Labels)
		setGeneration(r.Labels, least)
	}
	return old.becomes(r)
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
func (old state) least(moved bool) uint64 {
	if moved && old.generation > 0 {
		return old.generation + 1
	}
	return old.generation
}

func (old state) becomes(r Record) (state, error) {
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
