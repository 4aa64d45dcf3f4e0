package postgres

import (
	"hash/maphash"
	"math/rand/v2"
	"strings"
	"sync"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
)

// Passwords is how passwords are kept. Both functions may block as long as
// hashing takes; they run in a bounded number at the same time.
type Passwords struct {
	// Hash makes the hash of a new password. Errors: RefusedError for one
	// that cannot be a password.
	Hash func(password string) (hash string, err error)

	// Verify compares a password with a hash. The error says that nobody
	// knows whether it is right.
	Verify func(hash, password string) (bool, error)

	// Outdated reports whether a login whose password was right should have
	// its hash replaced by a new one, in the background. Nil: none.
	Outdated func(hash string) bool

	// Keys reads SCRAM keys out of a hash of which each begins with its scheme
	// in braces; ok is false for one that holds none. Nil: no hash holds any.
	Keys func(hash string) (keys lookup.Keys, ok bool)
}

// maxPassword is the longest password in bytes; a longer one is never right.
const maxPassword = 1024

func checkPassword(password string) error {
	switch {
	case password == "":
		return netwin.Refuse("the password is empty")
	case len(password) > maxPassword:
		return netwin.Refuse("the password is longer than %d bytes", maxPassword)
	case strings.IndexByte(password, 0) >= 0:
		return netwin.Refuse("the password has a NUL")
	case password == netwin.NoPassword:
		return netwin.Refuse("%s is never a password", netwin.NoPassword)
	}
	return nil
}

// locked reports whether a hash is one that no password can match, as in
// shadow(5).
func locked(hash string) bool {
	return hash == "" || hash[0] == '*' || hash[0] == '!'
}

// Hashing returns how many passwords are being hashed, how many callers wait for
// their turn, and how many have waited in vain since the database was opened.
func (db *DB) Hashing() (running, waiting int, refused uint64) { return db.hashers.Load() }

// decoys are hashes of accounts that somebody logs in to, a random sample. One
// of them is verified for a name that nobody has, always the same for the same
// name while the sample stays: so the time of an answer is spread over unknown
// names as it is over known ones, whatever schemes the database holds.
type decoys struct {
	seed maphash.Seed

	mu      sync.Mutex
	sample  []string
	offered int
	own     string // made when there is no sample
}

const decoyCount = 64

func newDecoys() *decoys { return &decoys{seed: maphash.MakeSeed()} }

// offer puts a hash into the sample with the odds that make the sample a fair
// one.
func (d *decoys) offer(hash string) {
	if locked(hash) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.offered++
	if len(d.sample) < decoyCount {
		d.sample = append(d.sample, hash)
	} else if i := rand.IntN(d.offered); i < decoyCount {
		d.sample[i] = hash
	}
}

func (d *decoys) forName(name string, hash func(string) (string, error)) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.sample); n > 0 {
		return d.sample[maphash.String(d.seed, name)%uint64(n)], nil
	}
	if d.own == "" {
		own, err := hash("nobody")
		if err != nil {
			return "", err
		}
		d.own = own
	}
	return d.own, nil
}
