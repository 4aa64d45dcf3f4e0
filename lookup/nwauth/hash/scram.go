package hash

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"hash"
	"strings"

	"github.com/xdg-go/stringprep"
)

// SCRAM is what a server that speaks SCRAM (RFC 5802) keeps of a password. It
// cannot log in with it, but who steals it can pretend to be the server.
type SCRAM struct {
	Mechanism  string // SCRAM-SHA-256 or SCRAM-SHA-1
	Iterations int
	Salt       []byte
	StoredKey  []byte
	ServerKey  []byte
}

// String shows no key.
func (k SCRAM) String() string { return k.Mechanism + " keys" }

// GoString shows no key.
func (k SCRAM) GoString() string { return k.String() }

// minSCRAM is the least number of iterations that a stored hash may have: the
// least that RFC 7677 §4 allows, and more than it costs to refuse.
const minSCRAM = 4096

// scramSalt is the length of a fresh salt.
const scramSalt = 16

// ParseSCRAM returns the keys in a hash of the form that Dovecot writes:
//
//	{SCRAM-SHA-256}iterations,salt,StoredKey,ServerKey
//
// the last three in base64. ok is false for any other hash.
func ParseSCRAM(hash string) (keys SCRAM, ok bool) {
	if hash == "" || hash[0] != '{' {
		return SCRAM{}, false
	}
	name, stored, _ := strings.Cut(hash[1:], "}")
	keys, err := parseSCRAM(strings.ToUpper(name), stored)
	return keys, err == nil
}

func parseSCRAM(mechanism, stored string) (SCRAM, error) {
	newHash := scramHash(mechanism)
	part := strings.Split(stored, ",")
	if newHash == nil || len(part) != 4 {
		return SCRAM{}, ErrForm
	}
	iterations, ok := parseIterations(part[0])
	if !ok || iterations < minSCRAM {
		return SCRAM{}, ErrForm
	}
	var raw [3][]byte
	for i := range raw {
		var err error
		if raw[i], err = base64.RawStdEncoding.DecodeString(strings.TrimRight(part[i+1], "=")); err != nil {
			return SCRAM{}, ErrForm
		}
	}
	k := SCRAM{Mechanism: mechanism, Iterations: iterations, Salt: raw[0], StoredKey: raw[1], ServerKey: raw[2]}
	if size := newHash().Size(); len(k.Salt) < 4 || len(k.StoredKey) != size || len(k.ServerKey) != size {
		return SCRAM{}, ErrForm
	}
	return k, nil
}

func scramHash(mechanism string) func() hash.Hash {
	switch mechanism {
	case "SCRAM-SHA-256":
		return sha256.New
	case "SCRAM-SHA-1":
		return sha1.New
	}
	return nil
}

// NewSCRAM makes the hash of a password for SCRAM-SHA-256, with a fresh salt.
// Zero iterations mean 4,096. Errors: RefusedError for a password that cannot
// be one.
func NewSCRAM(password string, iterations int) (string, error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	if iterations == 0 {
		iterations = minSCRAM
	}
	if iterations < minSCRAM || iterations > maxIterations {
		return "", fmt.Errorf("SCRAM with %d iterations: want %d to %d", iterations, minSCRAM, maxIterations)
	}
	const mechanism = "SCRAM-SHA-256"
	salt := make([]byte, scramSalt)
	rand.Read(salt) // never fails
	stored, server, err := scramKeys(mechanism, normalize(password), salt, iterations)
	if err != nil {
		return "", err
	}
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("{%s}%d,%s,%s,%s", mechanism, iterations, b64(salt), b64(stored), b64(server)), nil
}

// scramKeys is RFC 5802 §3.
func scramKeys(mechanism, password string, salt []byte, iterations int) (stored, server []byte, err error) {
	newHash := scramHash(mechanism)
	salted, err := pbkdf2.Key(newHash, password, salt, iterations, newHash().Size())
	if err != nil {
		return nil, nil, err
	}
	mac := func(text string) []byte {
		m := hmac.New(newHash, salted)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	h := newHash()
	h.Write(mac("Client Key"))
	return h.Sum(nil), mac("Server Key"), nil
}

// normalize is RFC 5802 §2.2: SASLprep. A password that it refuses is used as
// it is, as most clients do.
func normalize(password string) string {
	if p, err := stringprep.SASLprep.Prepare(password); err == nil && p != "" {
		return p
	}
	return password
}

// verifySCRAM compares a plain password. Keys that were made without SASLprep
// are known by trying that too, where it makes a difference.
func verifySCRAM(mechanism, stored, password string) (bool, error) {
	k, err := parseSCRAM(mechanism, stored)
	if err != nil {
		return false, err
	}
	tries := []string{normalize(password)}
	if tries[0] != password {
		tries = append(tries, password)
	}
	for _, p := range tries {
		got, server, err := scramKeys(mechanism, p, k.Salt, k.Iterations)
		if err != nil {
			return false, ErrForm
		}
		if subtle.ConstantTimeCompare(got, k.StoredKey)&subtle.ConstantTimeCompare(server, k.ServerKey) == 1 {
			return true, nil
		}
	}
	return false, nil
}
