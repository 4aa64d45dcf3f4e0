package hash

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"hash"
	"strings"
)

// digest is a plain hash function over the password, and the salt behind it.
type digest struct {
	new    func() hash.Hash
	salted bool
}

func digestOf(name string) (digest, bool) {
	bare, salted := strings.CutPrefix(name, "S")
	if name == "SHA" || strings.HasPrefix(name, "SHA2") || strings.HasPrefix(name, "SHA5") {
		bare, salted = name, false
	}
	d := digest{salted: salted}
	switch bare {
	case "SHA":
		d.new = sha1.New
	case "SHA256":
		d.new = sha256.New
	case "SHA512":
		d.new = sha512.New
	default:
		return digest{}, false
	}
	return d, true
}

// verify compares; the sum stands in front of its salt, in base64. Some
// programs leave out the padding.
func (d digest) verify(stored, password string) (bool, error) {
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(stored, "="))
	h := d.new()
	size := h.Size()
	switch {
	case err != nil || len(raw) < size:
		return false, ErrForm
	case d.salted != (len(raw) > size):
		return false, ErrForm // the wrong scheme's name
	}
	h.Write([]byte(password))
	h.Write(raw[size:])
	return subtle.ConstantTimeCompare(raw[:size], h.Sum(nil)) == 1, nil
}
