package lookup

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName is the longest account name in bytes: a local part of 64 and a
// domain of 255 (RFC 5321 §4.5.3.1) with the @ between them.
const maxName = 64 + 1 + 255

// CleanName brings a name that a client typed into the one form in which
// accounts are looked up, cached, logged and stored: lower case, user@domain,
// with defaultDomain added when the client left the domain out (an empty
// defaultDomain leaves a bare name bare).
//
// User names are case-insensitive, as in every NetWin user database. A name
// that no account can have (empty, too long, not UTF-8, with a space, quote,
// control character or more than one @) is refused with an error for which
// errors.Is(err, ErrAbsent) holds: it never reaches a directory.
func CleanName(typed, defaultDomain string) (string, error) {
	if len(typed) > maxName {
		return "", &NameError{Reason: fmt.Sprintf("longer than %d bytes", maxName)}
	}
	if !utf8.ValidString(typed) {
		return "", &NameError{Reason: "not UTF-8"}
	}
	for _, r := range typed {
		if unicode.IsControl(r) || unicode.IsSpace(r) || r == '"' || r == '\\' || r == '`' || r == '\u200b' || r == '\ufeff' {
			return "", &NameError{Reason: fmt.Sprintf("has the character %U", r)}
		}
	}
	name := strings.ToLower(typed)
	local, domain, hasDomain := strings.Cut(name, "@")
	switch {
	case local == "":
		return "", &NameError{Reason: "empty"}
	case hasDomain && domain == "":
		return "", &NameError{Reason: "empty domain"}
	case strings.Contains(domain, "@"):
		return "", &NameError{Reason: "more than one @"}
	case !hasDomain && defaultDomain != "":
		name = local + "@" + strings.ToLower(defaultDomain)
		if len(name) > maxName {
			return "", &NameError{Reason: fmt.Sprintf("longer than %d bytes", maxName)}
		}
	}
	return name, nil
}

// NameError says why a name cannot be an account's. It is a kind of
// ErrAbsent.
type NameError struct{ Reason string }

func (e *NameError) Error() string { return "bad account name: " + e.Reason }

// Is makes a NameError an ErrAbsent.
func (e *NameError) Is(target error) bool { return target == ErrAbsent }

// Domain returns the part of a clean name behind the @, or "".
func Domain(name string) string {
	_, domain, _ := strings.Cut(name, "@")
	return domain
}
