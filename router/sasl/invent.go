package sasl

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"

	"switchyard/lookup"
)

// saltLength is that of the salts that user databases make.
const saltLength = 16

// minSecret is the shortest secret that nobody guesses.
const minSecret = 16

// DeriveSecret returns Options.Secret: the operator's own one, or else one that is
// made of what all proxies of a cluster know already, their secret towards the
// backends. It tells nothing of that one. The result is nil, and Check says so,
// when neither is long enough.
func DeriveSecret(own, cluster string) []byte {
	switch {
	case own != "":
		return []byte(own)
	case len(cluster) < minSecret:
		return nil
	}
	mac := hmac.New(sha256.New, []byte(cluster))
	mac.Write([]byte("what proxies invent about nobody"))
	return mac.Sum(nil)
}

// Invent makes keys for a name that has none, so that an exchange goes on as for
// any other and fails at its end. Salt and iterations are the same each time and
// on every proxy, as an account's are: who asks twice learns nothing.
func (o *Options) Invent(mechanism, name string) lookup.Keys {
	keys := lookup.Keys{Mechanism: mechanism, Iterations: o.Iterations}
	if keys.Iterations == 0 {
		keys.Iterations = minIterations
	}
	mac := hmac.New(sha256.New, o.Secret)
	mac.Write([]byte("salt of nobody\x00" + mechanism + "\x00" + name))
	keys.Salt = mac.Sum(nil)[:saltLength]
	size := sha256.Size
	if newHash, ok := hashOf(mechanism); ok {
		size = newHash().Size()
	}
	// Nobody has a proof for random keys.
	keys.StoredKey, keys.ServerKey = make([]byte, size), make([]byte, size)
	rand.Read(keys.StoredKey) // never fails
	rand.Read(keys.ServerKey)
	return keys
}
