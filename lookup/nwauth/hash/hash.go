// Package hash reads and makes the password hashes of user databases, in the
// forms in which other programs write them:
//
//	{SSHA} {SSHA256} {SSHA512} {SHA} {SHA256} {SHA512}
//	{CRYPT} and bare crypt(3): DES, $1$, $5$, $6$, $2a$, $2b$, $2y$
//	{ARGON2ID} and bare $argon2id$
//	{PBKDF2-SHA256} and bare $pbkdf2-sha256$
//	{SCRAM-SHA-256} {SCRAM-SHA-1}: the keys of RFC 5802
//
// A hash that cannot be read, that asks for more work than is allowed, or
// whose scheme is unknown is ErrForm: broken, which is not the same as wrong.
// yescrypt ($y$), gost-yescrypt ($gy$), scrypt ($7$) and extended DES (_) are
// not known, and the error says so by name.
package hash

import (
	"errors"
	"fmt"
	"strings"

	"switchyard/lookup/internal/netwin"
)

// ErrForm says that a stored hash is of an unknown scheme, is malformed, or
// asks for more work than is allowed: nobody can say whether a password is
// right.
var ErrForm = errors.New("password hash of unknown form")

// MaxPassword is the longest password in bytes; a longer one is never right.
const MaxPassword = 1024

// CheckPassword says why a password cannot be one. Errors: RefusedError.
func CheckPassword(password string) error {
	switch {
	case password == "":
		return netwin.Refuse("the password is empty")
	case len(password) > MaxPassword:
		return netwin.Refuse("the password is longer than %d bytes", MaxPassword)
	case strings.IndexByte(password, 0) >= 0:
		return netwin.Refuse("the password has a NUL")
	}
	return nil
}

// Locked reports whether a hash is one that no password can match: an empty
// one, or one that begins with * or !, as in shadow(5).
func Locked(hash string) bool {
	return hash == "" || hash[0] == '*' || hash[0] == '!'
}

// Matches reports whether a password is the one of a stored hash; a hash that
// cannot be read matches nothing.
func Matches(hash, password string) bool {
	ok, _ := Verify(hash, password)
	return ok
}

// Verify compares a password with a stored hash. The scheme's name is read in
// any case. A locked hash matches nothing. Verify blocks as long as the hash is
// costly: callers bound how many run at once. Errors: ErrForm, wrapped.
func Verify(hash, password string) (bool, error) {
	if Locked(hash) || CheckPassword(password) != nil {
		return false, nil
	}
	s, stored := schemeOf(hash)
	if s == nil {
		return false, unknown(hash)
	}
	return s.verify(stored, password)
}

// Known says why a hash cannot be verified, nil when its scheme is one that
// Verify knows. It looks at the scheme alone and costs nothing.
func Known(hash string) error {
	if Locked(hash) {
		return nil
	}
	if s, _ := schemeOf(hash); s == nil {
		return unknown(hash)
	}
	return nil
}

// scheme is one way to store a password.
type scheme struct {
	name   string
	verify func(stored, password string) (bool, error)
}

// schemeOf finds the scheme of a hash, and what it stored; nil for an unknown
// one.
func schemeOf(hash string) (*scheme, string) {
	if hash == "" || hash[0] != '{' {
		return bare(hash), hash
	}
	word, stored, found := strings.Cut(hash[1:], "}")
	if !found {
		return nil, ""
	}
	word = strings.ToUpper(word)
	switch word {
	case "CRYPT", "MD5-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "BLF-CRYPT", "ARGON2ID":
		return bare(stored), stored
	case "PBKDF2-SHA256":
		return &scheme{nameOfPBKDF2, verifyPBKDF2}, stored
	case "SCRAM-SHA-256", "SCRAM-SHA-1":
		return &scheme{word, func(stored, password string) (bool, error) { return verifySCRAM(word, stored, password) }}, stored
	}
	if d, found := digestOf(word); found {
		return &scheme{word, d.verify}, stored
	}
	return nil, ""
}

// bare finds the scheme of a hash without a name in braces.
func bare(hash string) *scheme {
	switch {
	case strings.HasPrefix(hash, argonPrefix):
		return &scheme{nameOfArgon, verifyArgon}
	case strings.HasPrefix(hash, pbkdf2Prefix):
		return &scheme{nameOfPBKDF2, verifyPBKDF2}
	case isCrypt(hash):
		return &scheme{nameOfCrypt, verifyCrypt}
	}
	return nil
}

// unknown names a scheme that people expect to be known.
func unknown(hash string) error {
	_, bare, braces := strings.Cut(hash, "}")
	if !braces {
		bare = hash
	}
	for prefix, name := range map[string]string{
		"$y$": "yescrypt", "$gy$": "gost-yescrypt", "$7$": "scrypt", "_": "extended DES", "$argon2i$": "argon2i", "$argon2d$": "argon2d", "$sha1$": "sha1crypt",
	} {
		if strings.HasPrefix(bare, prefix) {
			return fmt.Errorf("%w: %s (%s) is not supported", ErrForm, name, prefix)
		}
	}
	return ErrForm
}
