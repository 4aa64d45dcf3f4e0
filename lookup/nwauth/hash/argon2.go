package hash

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Argon2 are the costs of argon2id for new passwords. Zero fields mean
// 19 MiB, two passes, one thread.
type Argon2 struct {
	Memory  uint32 // KiB
	Passes  uint32
	Threads uint8
}

// WithDefaults fills in the zero fields.
func (a Argon2) WithDefaults() Argon2 {
	if a.Memory == 0 {
		a.Memory = 19 << 10
	}
	if a.Passes == 0 {
		a.Passes = 2
	}
	if a.Threads == 0 {
		a.Threads = 1
	}
	return a
}

// Check says why costs cannot be used: more than a stored hash may ask for.
func (a Argon2) Check() error {
	a = a.WithDefaults()
	if a.Memory > maxArgonMemory || a.Passes > maxArgonPasses || a.Threads > maxArgonThreads {
		return fmt.Errorf("argon2id with %d KiB, %d passes, %d threads: at most %d KiB, %d passes, %d threads can be verified",
			a.Memory, a.Passes, a.Threads, maxArgonMemory, maxArgonPasses, maxArgonThreads)
	}
	return nil
}

// The most that a stored argon2id hash may ask for.
const (
	maxArgonMemory  = 256 << 10 // KiB
	maxArgonPasses  = 32
	maxArgonThreads = 16
)

const (
	nameOfArgon  = "ARGON2ID"
	argonPrefix  = "$argon2id$"
	argonSaltLen = 16
	argonKeyLen  = 32
)

// New hashes a password with argon2id and a fresh salt. Errors: RefusedError
// for a password that cannot be one, that of cost.Check.
func New(password string, cost Argon2) (string, error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	if err := cost.Check(); err != nil {
		return "", err
	}
	cost = cost.WithDefaults()
	salt := make([]byte, argonSaltLen)
	rand.Read(salt) // never fails
	key := argon2.IDKey([]byte(password), salt, cost.Passes, cost.Memory, cost.Threads, argonKeyLen)
	return fmt.Sprintf("{%s}%sv=%d$m=%d,t=%d,p=%d$%s$%s", nameOfArgon, argonPrefix, argon2.Version,
		cost.Memory, cost.Passes, cost.Threads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key)), nil
}

// Outdated reports whether a hash should be replaced by one that New makes
// with these costs: it is of another scheme, or cheaper to guess. SCRAM keys
// are never outdated: a server needs them as they are.
func Outdated(hash string, cost Argon2) bool {
	s, stored := schemeOf(hash)
	switch {
	case s == nil || strings.HasPrefix(s.name, "SCRAM-"):
		return false
	case s.name != nameOfArgon:
		return true
	}
	p, err := parseArgon(stored)
	cost = cost.WithDefaults()
	return err == nil && (p.Memory < cost.Memory || p.Passes < cost.Passes)
}

// argonHash is what a stored hash says.
type argonHash struct {
	Argon2
	salt, key []byte
}

// parseArgon reads the form that the argon2 reference prints:
// $argon2id$v=19$m=19456,t=2,p=1$salt$key, both base64 without padding.
func parseArgon(stored string) (argonHash, error) {
	var a argonHash
	part := strings.Split(stored, "$")
	if len(part) != 6 || part[2] != "v="+strconv.Itoa(argon2.Version) {
		return a, ErrForm
	}
	var ok bool
	if a.Argon2, ok = argonCosts(part[3]); !ok {
		return a, ErrForm
	}
	var err error
	if a.salt, err = base64.RawStdEncoding.DecodeString(part[4]); err != nil || len(a.salt) < 8 {
		return a, ErrForm
	}
	if a.key, err = base64.RawStdEncoding.DecodeString(part[5]); err != nil || len(a.key) < 16 || len(a.key) > 64 {
		return a, ErrForm
	}
	return a, nil
}

func verifyArgon(stored, password string) (bool, error) {
	a, err := parseArgon(stored)
	if err != nil {
		return false, err
	}
	got := argon2.IDKey([]byte(password), a.salt, a.Passes, a.Memory, a.Threads, uint32(len(a.key)))
	return subtle.ConstantTimeCompare(got, a.key) == 1, nil
}

func argonCosts(s string) (Argon2, bool) {
	var value [3]uint64
	part := strings.Split(s, ",")
	if len(part) != len(value) {
		return Argon2{}, false
	}
	for i, limit := range []struct {
		name string
		most uint64
	}{{"m=", maxArgonMemory}, {"t=", maxArgonPasses}, {"p=", maxArgonThreads}} {
		digits, found := strings.CutPrefix(part[i], limit.name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !found || err != nil || n == 0 || n > limit.most {
			return Argon2{}, false
		}
		value[i] = n
	}
	return Argon2{Memory: uint32(value[0]), Passes: uint32(value[1]), Threads: uint8(value[2])}, true
}
