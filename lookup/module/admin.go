package module

import (
	"context"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
	"switchyard/lookup/internal/netwin"
)

// Set adds a user or changes one. A nil password leaves the password as it is.
// What becomes of labels that are not named, and of those with an empty value,
// is the module's own affair: NWAuth's kind merges them. The module is asked
// for the user first.
//
// Errors: lookup.ErrAbsent for a nil password of a user who does not exist,
// RefusedError for what the grammar cannot carry, what the module refuses, or
// a generation that would go down, lookup.ErrUnavailable; then the change may
// have been made.
func (m *Module) Set(ctx context.Context, name string, password *string, labels map[string]string) (added bool, err error) {
	if err := m.checkName(name); err != nil {
		return false, err
	}
	if password != nil {
		if err := m.checkPassword(*password); err != nil {
			return false, err
		}
	}
	if err := m.checkLabels(labels); err != nil {
		return false, err
	}
	m.changes.Lock()
	defer m.changes.Unlock()
	old, err := m.Lookup(ctx, name)
	absent := lookup.AnswerOf(err) == lookup.AnswerAbsent
	switch {
	case err != nil && !absent:
		return false, err
	case absent && password == nil:
		return false, lookup.ErrAbsent
	}
	first := max(uint64(time.Now().Unix()), m.deleted[name]+1)
	labels, err = withGeneration(old, absent, first, labels)
	if err != nil {
		return false, err
	}
	err = m.change(ctx, authent.Request{Verb: authent.Set, Name: name, Password: password, Labels: labels})
	return absent && err == nil, err
}

// checkLabels refuses what cannot be carried, and values that would silently
// mean nothing.
func (m *Module) checkLabels(labels map[string]string) error {
	if err := netwin.CheckLabels(labels); err != nil {
		return err
	}
	for label, value := range labels {
		if m.opts.ASCII && !isASCII(label+value) {
			return netwin.Refuse("the module takes no label %.64q with other characters than ASCII", label)
		}
	}
	if _, err := netwin.ParseGeneration(labels[netwin.Generation]); err != nil {
		return err
	}
	_, err := netwin.ParseQuota(labels[netwin.Quota])
	return err
}

// withGeneration returns the labels with the generation that a change of home
// brings, first for a new account, and refuses one that would go down.
func withGeneration(old lookup.Account, absent bool, first uint64, labels map[string]string) (map[string]string, error) {
	home, isHome := labels[netwin.Home]
	moved := isHome && home != old.Home
	least := old.Generation
	if moved && least > 0 {
		if least == math.MaxUint64 {
			return nil, netwin.Refuse("there is no %s above %d", netwin.Generation, least)
		}
		least++
	}
	if given, isGiven := labels[netwin.Generation]; isGiven {
		if generation, err := netwin.ParseGeneration(given); err != nil {
			return nil, err
		} else if generation < least {
			return nil, netwin.Refuse("%s %d is too low: it must be at least %d", netwin.Generation, generation, least)
		}
		return labels, nil
	}
	if !moved {
		return labels, nil
	}
	next := max(least, 1)
	if absent {
		next = first
	}
	labels = maps.Clone(labels)
	labels[netwin.Generation] = strconv.FormatUint(next, 10)
	return labels, netwin.CheckLabels(labels)
}

// maxDeleted bounds the deleted accounts whose generation is remembered. Once a
// few seconds have passed, the time is as good.
const maxDeleted = 10_000

// Delete removes a user. The module is asked for the user first. Errors:
// lookup.ErrAbsent, RefusedError when the module refuses, ErrUnavailable.
func (m *Module) Delete(ctx context.Context, name string) error {
	m.changes.Lock()
	defer m.changes.Unlock()
	a, err := m.Lookup(ctx, name)
	if err != nil {
		return err
	}
	if len(m.deleted) >= maxDeleted {
		clear(m.deleted)
	}
	m.deleted[name] = a.Generation
	return m.change(ctx, authent.Request{Verb: authent.Delete, Name: name})
}

// change sends a command that is answered with yes or no.
func (m *Module) change(ctx context.Context, r authent.Request) error {
	return m.ask(ctx, question{request: r, read: func(reply authent.Reply) (bool, error) {
		switch reply.Kind {
		case authent.OK:
			return true, nil
		case authent.Err:
			return true, answered{netwin.Refuse("the module says no to %s: %.80s", r.Verb, reply.Text)}
		}
		return true, fmt.Errorf("%w: %s to %s", authent.ErrGarbage, reply.Kind, r.Verb)
	}})
}

// maxNames bounds what a search without a bound of its own returns; a module
// that has more is taken for one that has lost its mind.
const maxNames = 10_000_000

// Search finds names, as the module does: most take * and ? for the whole name
// and anything else for a part of it. Names that no account can have are left
// out. Where the module does not say how many match, it is what it has named,
// and where it does not say how many users there are, it is how many match.
//
// Errors: RefusedError, ErrUnavailable.
func (m *Module) Search(ctx context.Context, pattern string, from, max int) (names []string, found, total int, err error) {
	type result struct {
		names        []string
		found, total int
	}
	if m.opts.ASCII && !isASCII(pattern) {
		return nil, 0, 0, netwin.Refuse("the module takes no pattern with other characters than ASCII")
	}
	got := make(chan result, 1)
	var r result
	lines, odd := 0, 0
	limit := maxNames
	if max > 0 {
		limit = max
	}
	request := authent.Request{Verb: authent.Search, Pattern: pattern, From: from, Max: max}
	err = m.ask(ctx, question{request: request, read: func(reply authent.Reply) (bool, error) {
		switch reply.Kind {
		case authent.Err:
			return true, answered{netwin.Refuse("the module says no to search: %.80s", reply.Text)}
		case authent.OK:
			if r.found, r.total = authent.ParseFound(reply.Text); r.found < 0 {
				r.found = from + len(r.names)
				r.total = r.found
			}
			got <- r
			return true, nil
		}
		if lines++; lines > limit {
			return true, fmt.Errorf("%w: more names than asked for", authent.ErrGarbage)
		}
		word, _, _ := strings.Cut(reply.Text, " ")
		name, err := lookup.CleanName(word, "")
		if err != nil {
			odd++
			return false, nil
		}
		r.names = append(r.names, name)
		return false, nil
	}})
	if err != nil {
		return nil, 0, 0, err
	}
	r = <-got
	if odd > 0 {
		m.opts.Logger.Warn("authent module has names that no account can have", zap.Int("names", odd))
	}
	return r.names, r.found, r.total, nil
}
