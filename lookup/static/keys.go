package static

import (
	"context"
	"strings"

	"switchyard/lookup"
)

// Reader reads SCRAM keys out of the hash of a password, when it holds any.
type Reader func(hash string) (lookup.Keys, bool)

// Keyed is a Directory whose accounts can log in with SCRAM. It implements
// lookup.KeyHolder.
type Keyed struct {
	*Directory
	read Reader
}

// WithKeys lets who speaks SCRAM have the keys in the accounts' hashes.
func WithKeys(d *Directory, read Reader) *Keyed { return &Keyed{d, read} }

// Keys implements lookup.KeyHolder.
func (k *Keyed) Keys(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	if err := ctx.Err(); err != nil {
		return lookup.Keys{}, lookup.Unavailable("static keys", err)
	}
	r, found := k.content.Load().records[name]
	if !found || locked(r.Hash) {
		return lookup.Keys{}, lookup.ErrAbsent
	}
	keys, ok := k.read(r.Hash)
	if !ok || keys.Mechanism != mechanism {
		return lookup.Keys{}, lookup.ErrNoKeys
	}
	return keys, nil
}

// KeyMechanisms implements lookup.KeyHolder.
func (k *Keyed) KeyMechanisms(ctx context.Context) ([]string, error) {
	all := ""
	for _, r := range k.content.Load().records {
		if locked(r.Hash) {
			continue
		}
		keys, ok := k.read(r.Hash)
		if !ok || all != "" && keys.Mechanism != all {
			return nil, nil // a hash is for one mechanism
		}
		all = keys.Mechanism
	}
	if err := ctx.Err(); err != nil {
		return nil, lookup.Unavailable("static keys", err)
	}
	if all == "" {
		return nil, nil
	}
	return []string{all}, nil
}

// locked reports whether no password can match a hash, as in shadow(5).
func locked(hash string) bool { return hash == "" || strings.ContainsRune("*!", rune(hash[0])) }
