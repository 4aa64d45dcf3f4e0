package authent

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
)

// The answer to xkeys, our extension:
//
//	+OK user mechanism iterations salt StoredKey ServerKey
//	+OK user mechanism
//
// the last three in base64. The short form is of an account that is there and
// has no keys for the mechanism.

const (
	// maxMechanism is the longest name of a mechanism (RFC 4422 §3.1).
	maxMechanism = 20

	// maxIterations is more than any client would go through.
	maxIterations = 1 << 24

	// maxKey bounds salt and keys, in bytes.
	maxKey = 256
)

// IsMechanism reports whether a word can be a mechanism's name (RFC 4422 §3.1).
func IsMechanism(s string) bool {
	if s == "" || len(s) > maxMechanism {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// keyLengths are those of the hash functions behind the mechanisms (RFC 5802
// §4, RFC 7677 §3).
var keyLengths = map[string]int{"SCRAM-SHA-1": 20, "SCRAM-SHA-256": 32}

// checkKeys says why keys are none. The error shows nothing of them.
func checkKeys(k lookup.Keys) error {
	want, known := keyLengths[k.Mechanism]
	switch {
	case !IsMechanism(k.Mechanism):
		return netwin.Refuse("keys for no mechanism")
	case k.Iterations <= 0 || k.Iterations > maxIterations:
		return netwin.Refuse("keys with %d iterations", k.Iterations)
	case len(k.Salt) == 0 || len(k.Salt) > maxKey:
		return netwin.Refuse("keys with a salt of %d bytes", len(k.Salt))
	case len(k.StoredKey) == 0 || len(k.StoredKey) > maxKey, len(k.StoredKey) != len(k.ServerKey), known && len(k.StoredKey) != want:
		return netwin.Refuse("keys of %d and %d bytes", len(k.StoredKey), len(k.ServerKey))
	}
	return nil
}

// KeysReply is the answer to xkeys. Errors: RefusedError for what cannot be
// carried.
func KeysReply(name string, k lookup.Keys) (Reply, error) {
	if err := checkKeys(k); err != nil {
		return Reply{}, err
	}
	r, err := KeylessReply(name, k.Mechanism)
	b64 := base64.StdEncoding.EncodeToString
	r.Text += " " + strings.Join([]string{strconv.Itoa(k.Iterations), b64(k.Salt), b64(k.StoredKey), b64(k.ServerKey)}, " ")
	return r, err
}

// KeylessReply is the answer about an account without keys for a mechanism.
func KeylessReply(name, mechanism string) (Reply, error) {
	b, err := appendName(nil, name)
	if err != nil {
		return Reply{}, err
	}
	return Reply{Kind: OK, Text: string(b[1:]) + " " + mechanism}, nil
}

// ParseKeys reads the text of a reply to xkeys, which must be about the account
// and the mechanism that were asked for. Errors: lookup.ErrNoKeys; ErrGarbage,
// which never shows the text.
func ParseKeys(text, asked, mechanism string) (lookup.Keys, error) {
	part := strings.Split(text, " ")
	if len(part) != 2 && len(part) != 6 {
		return lookup.Keys{}, fmt.Errorf("%w: keys have 2 or 6 words", ErrGarbage)
	}
	if name, err := lookup.CleanName(part[0], ""); err != nil || name != asked || part[1] != mechanism {
		return lookup.Keys{}, fmt.Errorf("%w: keys of another account or mechanism", ErrGarbage)
	}
	if len(part) == 2 {
		return lookup.Keys{}, lookup.ErrNoKeys
	}
	iterations, err := strconv.ParseUint(part[2], 10, 31)
	if err != nil {
		return lookup.Keys{}, fmt.Errorf("%w: iterations that are no number", ErrGarbage)
	}
	k := lookup.Keys{Mechanism: mechanism, Iterations: int(iterations)}
	for i, into := range []*[]byte{&k.Salt, &k.StoredKey, &k.ServerKey} {
		if *into, err = base64.StdEncoding.Strict().DecodeString(part[3+i]); err != nil {
			return lookup.Keys{}, fmt.Errorf("%w: keys that are no base64", ErrGarbage)
		}
	}
	if err := checkKeys(k); err != nil {
		return lookup.Keys{}, fmt.Errorf("%w: %v", ErrGarbage, err)
	}
	return k, nil
}

// MechanismsReply is the answer to xkeymechs: +OK mechanism …
func MechanismsReply(mechanisms []string) Reply {
	return Reply{Kind: OK, Text: strings.Join(mechanisms, " ")}
}

// ParseMechanisms reads the text of a reply to xkeymechs. Errors: ErrGarbage.
func ParseMechanisms(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	mechanisms := strings.Split(text, " ")
	for _, m := range mechanisms {
		if !IsMechanism(m) {
			return nil, fmt.Errorf("%w: a mechanism that is none", ErrGarbage)
		}
	}
	return mechanisms, nil
}
