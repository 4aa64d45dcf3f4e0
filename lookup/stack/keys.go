package stack

import (
	"context"
	"slices"

	"switchyard/lookup"
)

// Keys implements lookup.KeyHolder: it asks the member that has the account, and
// no other. A member that holds no keys has ErrNoKeys for its accounts.
func (d *Directory) Keys(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	for _, i := range d.route(name) {
		m := &d.members[i]
		holder, holds := m.Directory.(lookup.KeyHolder)
		if m.Next || !holds {
			_, err := m.Directory.Lookup(ctx, name)
			switch lookup.AnswerOf(err) {
			case lookup.AnswerFound:
			case lookup.AnswerAbsent:
				if m.Next {
					continue
				}
				return lookup.Keys{}, lookup.ErrAbsent
			default:
				return lookup.Keys{}, m.unavailable(err)
			}
		}
		if !holds {
			return lookup.Keys{}, lookup.ErrNoKeys
		}
		return holder.Keys(ctx, name, mechanism)
	}
	return lookup.Keys{}, lookup.ErrAbsent
}

// KeyMechanisms implements lookup.KeyHolder: what all members can say.
func (d *Directory) KeyMechanisms(ctx context.Context) ([]string, error) {
	var all []string
	for i := range d.members {
		m := &d.members[i]
		holder, ok := m.Directory.(lookup.KeyHolder)
		if !ok {
			return nil, nil
		}
		own, err := holder.KeyMechanisms(ctx)
		if err != nil {
			return nil, m.unavailable(err)
		}
		if i == 0 {
			all = own
		}
		all = slices.DeleteFunc(slices.Clone(all), func(mechanism string) bool { return !slices.Contains(own, mechanism) })
	}
	return all, nil
}
