package hash

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strconv"
	"strings"
)

const (
	nameOfPBKDF2 = "PBKDF2-SHA256"
	pbkdf2Prefix = "$pbkdf2-sha256$"
)

// maxIterations is the most work that a stored PBKDF2 or SCRAM hash may ask
// for.
const maxIterations = 2_000_000

// verifyPBKDF2 reads what OpenLDAP's pw-pbkdf2 and 389-ds write behind the
// scheme's name, and passlib behind $pbkdf2-sha256$: iterations$salt$key, the
// last two in base64, with . for + and without padding or as usual.
func verifyPBKDF2(stored, password string) (bool, error) {
	part := strings.Split(strings.TrimPrefix(stored, pbkdf2Prefix), "$")
	if len(part) != 3 {
		return false, ErrForm
	}
	iterations, ok := parseIterations(part[0])
	salt, saltErr := adaptedBase64(part[1])
	key, keyErr := adaptedBase64(part[2])
	if !ok || saltErr != nil || keyErr != nil || len(salt) < 4 || len(key) < 16 || len(key) > 256 {
		return false, ErrForm
	}
	got, err := pbkdf2.Key(sha256.New, password, salt, iterations, len(key))
	if err != nil {
		return false, ErrForm
	}
	return subtle.ConstantTimeCompare(got, key) == 1, nil
}

func parseIterations(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && n > 0 && n <= maxIterations
}

func adaptedBase64(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.ReplaceAll(s, ".", "+"), "="))
}
