package nwauth

import (
	"context"
	"maps"
	"strconv"
	"strings"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/nwauth/hash"
)

// Set adds a user or changes one. A nil password leaves the password as it is,
// which is none for a new alias: nobody can log in to it.
// The labels are merged into those that are there; one with an empty value is
// removed. It returns whether the user is new, once the change is on disk.
//
// Errors: lookup.ErrAbsent for a nil password of a user who does not exist,
// RefusedError for what a record cannot hold, a generation that would go down,
// and on a replica; lookup.ErrUnavailable. If ctx ended first, the change may
// or may not happen.
func (db *DB) Set(ctx context.Context, name string, password *string, labels map[string]string) (added bool, err error) {
	if err := db.mayWrite(); err != nil {
		return false, err
	}
	if err := netwin.CheckName(name); err != nil {
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
	busy := db.hashers.Do(ctx, func() { stored, err = hash.New(password, db.opts.Argon2) })
	if busy != nil {
		return "", busy
	}
	return stored, err
}

// Delete removes a user and everything in the record, but remembers the
// generation. Errors: lookup.ErrAbsent, RefusedError on a replica,
// lookup.ErrUnavailable.
func (db *DB) Delete(ctx context.Context, name string) error {
	if err := db.mayWrite(); err != nil {
		return err
	}
	return db.submit(ctx, &change{name: name, next: func(old state) (state, error) {
		if !old.live() {
			return state{}, lookup.ErrAbsent
		}
		return state{generation: old.generation}, nil
	}})
}

// mayWrite returns why no change may be made here.
func (db *DB) mayWrite() error {
	if db.opts.Primary != "" {
		return netwin.Refuse("read-only replica; make changes at %s", db.opts.Primary)
	}
	return nil
}

// set is the state after a Set.
func (old state) set(name string, stored *string, labels map[string]string) (state, error) {
	r := Record{Name: name, Labels: make(map[string]string, len(labels))}
	switch {
	case old.live():
		r = line{name, old.rest}.record()
	case stored == nil && labels[netwin.Alias] == "":
		return state{}, lookup.ErrAbsent
	case stored == nil:
		r.Hash = netwin.Locked
	}
	if stored != nil {
		r.Hash = *stored
	}
	for label, value := range labels {
		if value == "" {
			delete(r.Labels, label)
		} else {
			r.Labels[label] = value
		}
	}
	given, isGiven := labels[netwin.Generation]
	moved := old.moves(r.Labels[netwin.Home])
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
	_, st, err := r.state()
	return st, err
}

// replace is the state after a record was put in the place of another, as an
// import does. A generation that would go down is raised instead.
func (old state) replace(name string, st state) (string, state, error) {
	least := old.least(old.moves(st.label(netwin.Home)))
	if st.generation >= least || old.generation == 0 {
		return name, st, nil
	}
	r := line{name, st.rest}.record()
	r.Labels = maps.Clone(r.Labels)
	setGeneration(r.Labels, least)
	return r.state()
}

// moves reports whether the account is elsewhere than it was once this is its
// home. One made anew under a deleted one's name has moved, wherever it is.
func (old state) moves(home string) bool {
	if !old.live() && old.generation > 0 {
		return true
	}
	return home != old.label(netwin.Home)
}

// least is the lowest generation that may follow.
func (old state) least(moved bool) uint64 {
	if moved && old.generation > 0 {
		return old.generation + 1
	}
	return old.generation
}

// endsSessions reports whether what comes after bears on who may be logged in.
func (old state) endsSessions(next state) bool {
	if !old.live() {
		return false
	}
	return !next.live() || next.hash() != old.hash() ||
		next.label(netwin.Home) != old.label(netwin.Home) ||
		next.mayLogin() != old.mayLogin()
}

func (s state) mayLogin() bool {
	return lookup.Status(strings.ToLower(s.label(netwin.Status))).MayLogin()
}

func setGeneration(labels map[string]string, generation uint64) {
	labels[netwin.Generation] = strconv.FormatUint(generation, 10)
}
