package cache

import (
	"context"
	"fmt"

	"switchyard/lookup"
)

// Keys implements lookup.KeyHolder when the directory does; one that does not
// has no keys. Nothing is remembered: keys are worth more to a thief than the
// keyed hashes of passwords that a Cache keeps.
func (c *Cache) Keys(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	holder, ok := c.next.(lookup.KeyHolder)
	if !ok {
		return lookup.Keys{}, lookup.ErrNoKeys
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	keys, err := holder.Keys(ctx, name, mechanism)
	if err != nil {
		return lookup.Keys{}, fmt.Errorf("ask for keys: %w", err)
	}
	return keys, nil
}

// KeyMechanisms implements lookup.KeyHolder in the same way.
func (c *Cache) KeyMechanisms(ctx context.Context) ([]string, error) {
	holder, ok := c.next.(lookup.KeyHolder)
	if !ok {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	return holder.KeyMechanisms(ctx)
}
