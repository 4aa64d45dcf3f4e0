package hash

import "switchyard/lookup"

// Keys is ParseSCRAM in the directory's words. ok is false for a hash that holds
// no keys.
func Keys(hash string) (keys lookup.Keys, ok bool) {
	k, ok := ParseSCRAM(hash)
	if !ok {
		return lookup.Keys{}, false
	}
	return lookup.Keys{
		Mechanism: k.Mechanism, Iterations: k.Iterations, Salt: k.Salt, StoredKey: k.StoredKey, ServerKey: k.ServerKey,
	}, true
}
