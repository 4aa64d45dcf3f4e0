package ldap

import (
	"context"
	"errors"
	"slices"

	"switchyard/lookup"
)

// Keyed is a Directory that reads SCRAM keys out of the hashes of passwords. It
// implements lookup.KeyHolder. The hashes must be readable (Options.Verify).
type Keyed struct {
	*Directory
	read       func(hash string) (lookup.Keys, bool)
	mechanisms []string
}

// WithKeys lets who speaks SCRAM have the keys. Nobody can walk a whole
// directory to see what all entries have: the mechanisms are those for which the
// operator says that every account has keys.
func WithKeys(d *Directory, read func(hash string) (lookup.Keys, bool), mechanisms []string) (*Keyed, error) {
	if d.opts.Verify == nil {
		return nil, errors.New("keys are read from password hashes: verify passwords by hash, not by bind")
	}
	return &Keyed{d, read, slices.Clone(mechanisms)}, nil
}

// Keys implements lookup.KeyHolder.
func (k *Keyed) Keys(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	_, entry, _, err := k.find(ctx, name, k.wantedWithHash)
	switch {
	case errors.Is(err, lookup.ErrUnavailable):
		return lookup.Keys{}, err
	case err != nil, entry == nil:
		return lookup.Keys{}, lookup.ErrAbsent
	}
	for _, hash := range k.hashes(entry) {
		if keys, ok := k.read(hash); ok && keys.Mechanism == mechanism {
			return keys, nil
		}
	}
	return lookup.Keys{}, lookup.ErrNoKeys
}

// KeyMechanisms implements lookup.KeyHolder.
func (k *Keyed) KeyMechanisms(context.Context) ([]string, error) { return k.mechanisms, nil }
