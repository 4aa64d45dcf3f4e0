package hash

import (
	"strings"

	"switchyard/lookup"
)

// KeyMechanism returns the mechanism that a hash has keys for, as its scheme says;
// "" for a hash of another kind. It costs next to nothing, and does not look whether
// the keys are whole: a hash that is broken there lets nobody in by any mechanism.
func KeyMechanism(hash string) string {
	for _, mechanism := range [...]string{"SCRAM-SHA-256", "SCRAM-SHA-1"} {
		if n := len(mechanism); len(hash) > n+1 && hash[0] == '{' && hash[n+1] == '}' && strings.EqualFold(hash[1:n+1], mechanism) {
			return mechanism
		}
	}
	return ""
}

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
