package nwauth

import (
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"

	"switchyard/lookup/internal/netwin"
)

// ErrHash says that a stored hash is of an unknown scheme, is malformed, or
// asks for more work than is allowed: nobody can say whether a password is
// right.
var ErrHash = errors.New("password hash of unknown form")

// maxPassword is the longest password in bytes; a longer one is never right.
const maxPassword = 1024

// Argon2 are the costs of argon2id for new passwords. Zero fields mean
// 19 MiB, two passes, one thread.
type Argon2 struct {
	Memory  uint32 // KiB
	Passes  uint32
	Threads uint8
}

func (a Argon2) withDefaults() Argon2 {
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

// The most that a stored argon2id hash may ask for.
const (
	maxArgonMemory  = 256 << 10 // KiB
	maxArgonPasses  = 32
	maxArgonThreads = 16
)

const (
	argonScheme  = "{ARGON2ID}"
	argonPrefix  = "$argon2id$"
	argonSaltLen = 16
	argonKeyLen  = 32
)

// NewHash hashes a password with argon2id and a fresh salt. Errors:
// RefusedError for a password that cannot be one.
func NewHash(password string, cost Argon2) (string, error) {
	if err := checkPassword(password); err != nil {
		return "", err
	}
	cost = cost.withDefaults()
	if cost.Memory > maxArgonMemory || cost.Passes > maxArgonPasses || cost.Threads > maxArgonThreads {
		return "", fmt.Errorf("argon2id with %d KiB, %d passes, %d threads: more than can be verified", cost.Memory, cost.Passes, cost.Threads)
	}
	salt := make([]byte, argonSaltLen)
	rand.Read(salt) // never fails
	key := argon2.IDKey([]byte(password), salt, cost.Passes, cost.Memory, cost.Threads, argonKeyLen)
	return fmt.Sprintf("%s%sv=%d$m=%d,t=%d,p=%d$%s$%s", argonScheme, argonPrefix, argon2.Version,
		cost.Memory, cost.Passes, cost.Threads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key)), nil
}

func checkPassword(password string) error {
	switch {
	case password == "":
		return netwin.Refuse("the password is empty")
	case len(password) > maxPassword:
		return netwin.Refuse("the password is longer than %d bytes", maxPassword)
	case strings.IndexByte(password, 0) >= 0:
		return netwin.Refuse("the password has a NUL")
	}
	return nil
}

// Matches reports whether a password is the one of a stored hash; a hash that
// cannot be read matches nothing.
func Matches(hash, password string) bool {
	ok, _ := Verify(hash, password)
	return ok
}

// Verify compares a password with a stored hash: {SSHA}, {SHA}, {SSHA256},
// {SHA256}, {SSHA512}, {SHA512}, {ARGON2ID}, {CRYPT} (also under the names
// {MD5-CRYPT}, {SHA256-CRYPT}, {SHA512-CRYPT} and {BLF-CRYPT}), or a bare
// crypt(3) form. The scheme's name is read in any case. An empty hash, and one
// that begins with * or ! (a locked account, as in shadow(5)), match nothing.
// Verify blocks as long as the hash is costly; see hashers. Errors: ErrHash.
func Verify(hash, password string) (bool, error) {
	if locked(hash) || checkPassword(password) != nil {
		return false, nil
	}
	if hash[0] != '{' {
		return verifyBare(hash, password)
	}
	scheme, stored, found := strings.Cut(hash[1:], "}")
	if !found {
		return false, ErrHash
	}
	switch strings.ToUpper(scheme) {
	case "SHA":
		sum := sha1.Sum([]byte(password))
		return verifyDigest(stored, sum[:], nil)
	case "SHA256":
		sum := sha256.Sum256([]byte(password))
		return verifyDigest(stored, sum[:], nil)
	case "SHA512":
		sum := sha512.Sum512([]byte(password))
		return verifyDigest(stored, sum[:], nil)
	case "SSHA":
		return verifyDigest(stored, make([]byte, sha1.Size), func(salt []byte) []byte {
			sum := sha1.Sum(append([]byte(password), salt...))
			return sum[:]
		})
	case "SSHA256":
		return verifyDigest(stored, make([]byte, sha256.Size), func(salt []byte) []byte {
			sum := sha256.Sum256(append([]byte(password), salt...))
			return sum[:]
		})
	case "SSHA512":
		return verifyDigest(stored, make([]byte, sha512.Size), func(salt []byte) []byte {
			sum := sha512.Sum512(append([]byte(password), salt...))
			return sum[:]
		})
	case "CRYPT", "MD5-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "BLF-CRYPT", "ARGON2ID":
		return verifyBare(stored, password)
	}
	return false, ErrHash
}

// locked reports whether a hash is one that no password can match.
func locked(hash string) bool {
	return hash == "" || hash[0] == '*' || hash[0] == '!'
}

func verifyBare(hash, password string) (bool, error) {
	if strings.HasPrefix(hash, argonPrefix) {
		return verifyArgon(hash, password)
	}
	return verifyCrypt(hash, password)
}

// verifyDigest compares a digest, with its salt behind it if salted is not
// nil. Some programs leave out base64's padding.
func verifyDigest(stored string, sum []byte, salted func(salt []byte) []byte) (bool, error) {
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(stored, "="))
	switch {
	case err != nil || len(raw) < len(sum):
		return false, ErrHash
	case salted == nil && len(raw) > len(sum):
		return false, ErrHash
	case salted != nil && len(raw) == len(sum):
		return false, ErrHash // no salt: the wrong scheme's name
	}
	if salted != nil {
		sum = salted(raw[len(sum):])
	}
	return subtle.ConstantTimeCompare(raw[:len(sum)], sum) == 1, nil
}

// verifyArgon reads the form that the argon2 reference prints:
// $argon2id$v=19$m=19456,t=2,p=1$salt$key, both base64 without padding.
func verifyArgon(hash, password string) (bool, error) {
	part := strings.Split(hash, "$")
	if len(part) != 6 || part[2] != "v="+strconv.Itoa(argon2.Version) {
		return false, ErrHash
	}
	memory, passes, threads, ok := argonCosts(part[3])
	if !ok {
		return false, ErrHash
	}
	salt, err := base64.RawStdEncoding.DecodeString(part[4])
	if err != nil || len(salt) < 8 {
		return false, ErrHash
	}
	key, err := base64.RawStdEncoding.DecodeString(part[5])
	if err != nil || len(key) < 16 || len(key) > 64 {
		return false, ErrHash
	}
	got := argon2.IDKey([]byte(password), salt, passes, memory, threads, uint32(len(key)))
	return subtle.ConstantTimeCompare(got, key) == 1, nil
}

func argonCosts(s string) (memory, passes uint32, threads uint8, ok bool) {
	var value [3]uint64
	part := strings.Split(s, ",")
	if len(part) != len(value) {
		return 0, 0, 0, false
	}
	for i, limit := range []struct {
		name string
		most uint64
	}{{"m=", maxArgonMemory}, {"t=", maxArgonPasses}, {"p=", maxArgonThreads}} {
		digits, found := strings.CutPrefix(part[i], limit.name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !found || err != nil || n == 0 || n > limit.most {
			return 0, 0, 0, false
		}
		value[i] = n
	}
	return uint32(value[0]), uint32(value[1]), uint8(value[2]), true
}
