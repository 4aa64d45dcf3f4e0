package wire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
)

// MaxSASL bounds a SASL message on the wire, in base64: tokens of several
// kilobytes are common, a password of that size is not.
const MaxSASL = 16 << 10

// ErrSASL: a SASL message is not what the mechanism says. It is the client's
// mistake, not a wrong password.
var ErrSASL = errors.New("malformed SASL message")

// DecodeSASL decodes a SASL message from a line. "=" alone stands for an empty
// initial response (RFC 4959 §3, RFC 4954 §4).
func DecodeSASL(line []byte) ([]byte, error) {
	if len(line) > MaxSASL {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrSASL, MaxSASL)
	}
	if len(line) == 1 && line[0] == '=' {
		return nil, nil
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
	n, err := base64.StdEncoding.Strict().Decode(out, line)
	if err != nil {
		return nil, fmt.Errorf("%w: not base64", ErrSASL)
	}
	return out[:n], nil
}

// EncodeSASL is the opposite of DecodeSASL.
func EncodeSASL(message []byte) string {
	if len(message) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(message)
}

// Plain is a message of the PLAIN mechanism (RFC 4616).
type Plain struct {
	Authzid  string // whose mail; empty: the same as Authcid
	Authcid  string // who logs in
	Password string
}

// String never shows the password.
func (p Plain) String() string   { return fmt.Sprintf("PLAIN %q for %q", p.Authcid, p.Authzid) }
func (p Plain) GoString() string { return p.String() }

// ParsePlain parses a decoded PLAIN message. Empty names and passwords are the
// caller's to judge; more or fewer than two NULs are malformed.
func ParsePlain(message []byte) (Plain, error) {
	parts := bytes.Split(message, []byte{0})
	if len(parts) != 3 {
		return Plain{}, fmt.Errorf("%w: PLAIN takes two NULs", ErrSASL)
	}
	return Plain{Authzid: string(parts[0]), Authcid: string(parts[1]), Password: string(parts[2])}, nil
}

// Message encodes p. None of its fields may contain NUL.
func (p Plain) Message() ([]byte, error) {
	for _, s := range []string{p.Authzid, p.Authcid, p.Password} {
		if bytes.IndexByte([]byte(s), 0) >= 0 {
			return nil, fmt.Errorf("%w: NUL in a field of PLAIN", ErrSASL)
		}
	}
	return []byte(p.Authzid + "\x00" + p.Authcid + "\x00" + p.Password), nil
}
