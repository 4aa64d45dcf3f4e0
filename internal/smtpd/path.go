package smtpd

import (
	"errors"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Path is the address of MAIL or RCPT (RFC 5321 §4.1.2), its source route
// dropped and its local part unquoted.
type Path struct {
	Local  string // as meant: "a b" for "\"a b\"@x.example"
	Domain string // as typed; an address literal keeps its brackets
}

// IsNull reports whether p is <>, the sender of bounces.
func (p Path) IsNull() bool { return p.Local == "" && p.Domain == "" }

// ASCII reports whether p can be said without SMTPUTF8.
func (p Path) ASCII() bool { return isASCII(p.Local) && isASCII(p.Domain) }

// String returns p as it goes between the angle brackets: the local part is
// quoted where it must be, so that two paths that differ never look alike. It
// is "" for the null path and has no @ for <postmaster>.
func (p Path) String() string {
	if p.IsNull() {
		return ""
	}
	local := p.Local
	if !isDotString(local) {
		var b strings.Builder
		b.WriteByte('"')
		for i := range len(local) {
			if local[i] == '"' || local[i] == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(local[i])
		}
		b.WriteByte('"')
		local = b.String()
	}
	if p.Domain == "" {
		return local
	}
	return local + "@" + p.Domain
}

var errPath = errors.New("malformed address")

// The bounds of a path. RFC 5321 §4.5.3.1.1 names 64 octets for a local part
// and asks to accept more where one can: senders rewritten by forwarders are
// longer.
const (
	maxLocal  = 256
	maxDomain = 255
	maxLabel  = 63
)

// parsePath reads a path from the start of s and returns what follows it. It
// takes UTF-8; whether that is allowed is the caller's to judge. The null path
// and one without a domain are allowed.
func parsePath(s string) (p Path, rest string, err error) {
	s, ok := strings.CutPrefix(s, "<")
	if !ok {
		return Path{}, "", errPath
	}
	if s, ok = strings.CutPrefix(s, ">"); ok {
		return Path{}, s, nil
	}
	if s, err = skipRoute(s); err != nil {
		return Path{}, "", err
	}
	if p.Local, s, err = cutLocal(s); err != nil {
		return Path{}, "", err
	}
	if s, ok = strings.CutPrefix(s, "@"); ok {
		if p.Domain, s, err = cutDomain(s); err != nil {
			return Path{}, "", err
		}
	}
	if s, ok = strings.CutPrefix(s, ">"); !ok {
		return Path{}, "", errPath
	}
	return p, s, nil
}

// skipRoute reads over a source route: it must be accepted and should be
// ignored (RFC 5321 §4.1.1.3, appendix C).
func skipRoute(s string) (string, error) {
	if !strings.HasPrefix(s, "@") {
		return s, nil
	}
	for {
		var err error
		if _, s, err = cutDomain(s[1:]); err != nil {
			return "", err
		}
		switch {
		case strings.HasPrefix(s, ":"):
			return s[1:], nil
		case strings.HasPrefix(s, ",@"):
			s = s[1:]
		default:
			return "", errPath
		}
	}
}

// cutLocal reads a Local-part and unquotes it.
func cutLocal(s string) (local, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		return cutQuoted(s[1:])
	}
	end := 0
	for end < len(s) && (isAtext(s[end]) || s[end] == '.') {
		end++
	}
	local = s[:end]
	if !isDotString(local) || len(local) > maxLocal {
		return "", "", errPath
	}
	return local, s[end:], nil
}

// cutQuoted reads a Quoted-string behind its opening quote.
func cutQuoted(s string) (text, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			if b.Len() == 0 || b.Len() > maxLocal || !utf8.ValidString(b.String()) {
				return "", "", errPath
			}
			return b.String(), s[i+1:], nil
		case c == '\\':
			if i++; i == len(s) || s[i] < ' ' || s[i] > '~' {
				return "", "", errPath
			}
			b.WriteByte(s[i])
		case c < ' ' || c == 0x7f:
			return "", "", errPath
		default:
			b.WriteByte(c)
		}
	}
	return "", "", errPath
}

// cutDomain reads a Domain or an address literal.
func cutDomain(s string) (domain, rest string, err error) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 || !isLiteral(s[1:end]) {
			return "", "", errPath
		}
		return s[:end+1], s[end+1:], nil
	}
	end := 0
	for end < len(s) && (isLetDig(s[end]) || s[end] == '-' || s[end] == '_' || s[end] == '.') {
		end++
	}
	if !isDomain(s[:end]) {
		return "", "", errPath
	}
	return s[:end], s[end:], nil
}

// isDomain checks the labels of a domain. Underscores are no part of RFC 5321
// and of many names in use.
func isDomain(s string) bool {
	if s == "" || len(s) > maxDomain || !utf8.ValidString(s) {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// isLiteral checks the inside of an address literal (RFC 5321 §4.1.3).
func isLiteral(s string) bool {
	tag, value, tagged := strings.Cut(s, ":")
	switch {
	case len(s) > maxDomain-2:
		return false
	case !tagged:
		a, err := netip.ParseAddr(s)
		return err == nil && a.Is4()
	case strings.EqualFold(tag, "IPv6"):
		a, err := netip.ParseAddr(value)
		return err == nil && a.Is6() && a.Zone() == ""
	}
	for i := range len(value) {
		if c := value[i]; c < '!' || c > '~' || c == '[' || c == '\\' || c == ']' {
			return false
		}
	}
	for i := range len(tag) {
		if c := tag[i]; c >= utf8.RuneSelf || !isLetDig(c) && c != '-' {
			return false
		}
	}
	return tag != "" && tag[len(tag)-1] != '-' && value != ""
}

// isDotString reports whether s needs no quotes as a local part.
func isDotString(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") || !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		if !isAtext(s[i]) && s[i] != '.' {
			return false
		}
	}
	return true
}

// isAtext is RFC 5322's atext and every byte of UTF-8 (RFC 6531 §3.3).
func isAtext(c byte) bool {
	return isLetDig(c) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func isLetDig(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= utf8.RuneSelf
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
