package ldap

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"switchyard/lookup"
)

// Keyed is a Directory that reads SCRAM keys out of the hashes of passwords. It
// implements lookup.KeyHolder.
type Keyed struct {
	*Directory
	read       func(hash string) (lookup.Keys, bool)
	mechanisms []string
}

// WithKeys lets who speaks SCRAM have the keys. read is for one hash; an entry may
// have several. Nobody can walk through a whole directory to see what all entries
// have: the mechanisms are those for which the operator says that every account
// has keys. The hashes must be readable (Options.Verify).
func WithKeys(d *Directory, read func(hash string) (lookup.Keys, bool), mechanisms []string) (*Keyed, error) {
	if d.opts.Verify == nil {
		return nil, errors.New("keys are read from password hashes: verify passwords by hash, not by bind")
	}
	return &Keyed{d, read, slices.Clone(mechanisms)}, nil
}

// Keys implements lookup.KeyHolder. As with Check, an account without a hash is
// one to which nobody can log in only where a canary proves that hashes can be
// read.
func (k *Keyed) Keys(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	_, entry, _, err := k.find(ctx, name, k.wantedWithHash)
	if err != nil {
		return lookup.Keys{}, err
	}
	hashes := k.hashes(entry)
	if len(hashes) == 0 && k.opts.Canary == "" {
		return lookup.Keys{}, lookup.Unavailable("read "+entry.DN, fmt.Errorf("%s is missing or may not be read", k.opts.Hash))
	}
	hashes = slices.DeleteFunc(hashes, func(hash string) bool { return hash[0] == '*' || hash[0] == '!' }) // as in shadow(5)
	if len(hashes) == 0 {
		return lookup.Keys{}, lookup.ErrAbsent
	}
	for _, hash := range hashes {
		if keys, ok := k.read(hash); ok && keys.Mechanism == mechanism {
			return keys, nil
		}
	}
	return lookup.Keys{}, lookup.ErrNoKeys
}

// KeyMechanisms implements lookup.KeyHolder.
func (k *Keyed) KeyMechanisms(context.Context) ([]string, error) {
	return slices.Clone(k.mechanisms), nil
}
