package hash

import (
	"errors"
	"strings"

	"github.com/sergeymakinen/go-crypt"
	"github.com/sergeymakinen/go-crypt/bcrypt"
	"github.com/sergeymakinen/go-crypt/des"
	"github.com/sergeymakinen/go-crypt/md5"
	"github.com/sergeymakinen/go-crypt/sha256"
	"github.com/sergeymakinen/go-crypt/sha512"
)

// The most work that a stored crypt(3) hash may ask for.
const (
	maxRounds     = 1_000_000 // $5$, $6$
	maxBcryptCost = 16
)

const nameOfCrypt = "CRYPT"

// desLength is the length of a traditional hash: two characters of salt,
// eleven of sum.
const desLength = 13

// isCrypt reports whether a hash has one of the forms of crypt(3) that
// verifyCrypt knows.
func isCrypt(hash string) bool {
	for _, prefix := range []string{md5.Prefix, sha256.Prefix, sha512.Prefix, "$2a$", "$2b$", "$2y$"} {
		if strings.HasPrefix(hash, prefix) {
			return true
		}
	}
	return len(hash) == desLength && hash[0] != '$' && hash[0] != '_'
}

// verifyCrypt compares a password with a hash of crypt(3). Errors: ErrForm.
func verifyCrypt(hash, password string) (bool, error) {
	var err error
	switch {
	case strings.HasPrefix(hash, md5.Prefix):
		err = md5.Check(hash, password)
	case strings.HasPrefix(hash, sha256.Prefix):
		_, rounds, paramErr := sha256.Params(hash)
		if paramErr != nil || rounds > maxRounds {
			return false, ErrForm
		}
		err = sha256.Check(hash, password)
	case strings.HasPrefix(hash, sha512.Prefix):
		_, rounds, paramErr := sha512.Params(hash)
		if paramErr != nil || rounds > maxRounds {
			return false, ErrForm
		}
		err = sha512.Check(hash, password)
	case strings.HasPrefix(hash, "$2"):
		// $2y$ is PHP's and Dovecot's name for what OpenBSD calls $2b$.
		if rest, found := strings.CutPrefix(hash, "$2y$"); found {
			hash = bcrypt.Prefix2b + rest
		}
		_, cost, _, paramErr := bcrypt.Params(hash)
		if paramErr != nil || cost > maxBcryptCost {
			return false, ErrForm
		}
		err = bcrypt.Check(hash, password)
	case len(hash) == desLength && hash[0] != '$' && hash[0] != '_':
		// crypt(3) looks at eight characters; the module refuses more.
		err = des.Check(hash, password[:min(len(password), des.MaxPasswordLength)])
	default:
		return false, ErrForm
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, crypt.ErrPasswordMismatch):
		return false, nil
	}
	return false, ErrForm
}
