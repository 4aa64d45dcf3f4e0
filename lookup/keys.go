package lookup

import (
	"context"
	"errors"
)

// ErrNoKeys says that an account is there, with a password of which the
// directory has no keys for the mechanism.
var ErrNoKeys = errors.New("directory has no keys of the account")

// Keys is what a server that speaks SCRAM keeps of a password (RFC 5802 §3). It
// cannot log in with it, but who steals it can pretend to be the server.
type Keys struct {
	Mechanism  string // SCRAM-SHA-256 or SCRAM-SHA-1
	Iterations int
	Salt       []byte
	StoredKey  []byte
	ServerKey  []byte
}

// String shows no key.
func (k Keys) String() string { return k.Mechanism + " keys" }

// GoString shows no key.
func (k Keys) GoString() string { return k.String() }

// KeyHolder is a Directory that may hold SCRAM keys. Not every directory does;
// who speaks SCRAM asks for the interface.
type KeyHolder interface {
	// Keys returns an account's keys for a mechanism (without -PLUS). The name
	// has been through CleanName. Errors: ErrAbsent when nobody can log in
	// under that name, ErrNoKeys, ErrUnavailable.
	Keys(ctx context.Context, name, mechanism string) (Keys, error)

	// KeyMechanisms returns the mechanisms for which every account that can log
	// in has keys: those that may be offered to a client that has not said yet
	// who it is. It may cost a walk over all accounts; callers remember it for
	// a while. Errors: ErrUnavailable.
	KeyMechanisms(ctx context.Context) ([]string, error)
}
