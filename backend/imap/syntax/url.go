package syntax

import (
	"net/url"
	"strconv"
	"strings"
)

// URL names a message or a part of one (RFC 5092). Only what lies on this
// server is meant: scheme and authority are the caller's to look at.
type URL struct {
	User        string // of imap://user@host, decoded
	Host        string // "": a relative reference
	Mailbox     string // "": the selected one
	UIDValidity uint32 // 0: not given
	UID         uint32
	Item        Item // a Body item: section and partial range
}

// maxURL bounds a URL in bytes.
const maxURL = 4096

// ParseURL reads an absolute URL, or a reference relative to the server's root
// or to the selected mailbox. It is an *Error unless a UID is named. Mailbox
// names are UTF-8 with percent-encoding (RFC 5092 §8). Parameter names and
// section words are in any case.
func ParseURL(s string) (URL, error) {
	u := URL{Item: Item{Kind: Body, Peek: true}}
	if len(s) > maxURL {
		return u, Errorf("a URL is too long")
	}
	path := s
	if rest, ok := cutPrefixFold(s, "imap://"); ok {
		authority, tail, _ := strings.Cut(rest, "/")
		user, host, found := strings.Cut(authority, "@")
		if !found {
			user, host = "", authority
		}
		user, _, _ = strings.Cut(user, ";")
		var ok bool
		if u.User, ok = decodeURL(user); !ok || host == "" {
			return u, Errorf("a URL's server is malformed")
		}
		u.Host, path = strings.ToLower(host), tail
	}
	path = strings.TrimPrefix(path, "/")
	mailbox, rest := cutParameter(path)
	mailbox = strings.TrimSuffix(mailbox, "/")
	name, ok := decodeURL(mailbox)
	if !ok {
		return u, Errorf("a URL's mailbox is malformed")
	}
	if u.Mailbox = name; strings.EqualFold(name, "INBOX") {
		u.Mailbox = "INBOX"
	}
	for rest != "" {
		var parameter string
		parameter, rest = cutParameter(rest[1:])
		if err := u.parameter(strings.TrimSuffix(parameter, "/")); err != nil {
			return u, err
		}
	}
	if u.UID == 0 {
		return u, Errorf("a URL names no message")
	}
	return u, nil
}

// cutParameter cuts before the next semicolon.
func cutParameter(s string) (before, rest string) {
	if i := strings.IndexByte(s, ';'); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// decodeURL undoes percent-encoding, to text without control characters.
func decodeURL(s string) (string, bool) {
	out, err := url.PathUnescape(s)
	if err != nil || strings.ContainsFunc(out, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }) {
		return "", false
	}
	return out, true
}

func (u *URL) parameter(p string) error {
	name, value, _ := strings.Cut(p, "=")
	value, ok := decodeURL(value)
	if !ok {
		return Errorf("a URL is malformed")
	}
	switch strings.ToUpper(name) {
	case "UIDVALIDITY":
		return urlNumber(value, &u.UIDValidity)
	case "UID":
		return urlNumber(value, &u.UID)
	case "SECTION":
		l := NewLexer(noSource{}, []byte(value))
		if err := l.section(&u.Item); err != nil {
			return err
		}
		return l.End()
	case "PARTIAL":
		offset, count, bounded := strings.Cut(value, ".")
		from, err := strconv.ParseUint(offset, 10, 63)
		if err != nil {
			return Errorf("a URL's partial range is malformed")
		}
		u.Item.Partial, u.Item.Offset, u.Item.Count = true, int64(from), 1<<62
		if bounded {
			n, err := strconv.ParseUint(count, 10, 62)
			if err != nil || n == 0 {
				return Errorf("a URL's partial range is malformed")
			}
			u.Item.Count = int64(n)
		}
		return nil
	}
	return Errorf("a URL's parameter is unknown")
}

// noSource is behind a text that is all there is.
type noSource struct{}

func (noSource) Line() ([]byte, error)           { return nil, Errorf("a text ends too early") }
func (noSource) Literal(Literal) (string, error) { return "", Errorf("a literal where none can be") }

func urlNumber(s string, n *uint32) error {
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil || v == 0 {
		return Errorf("a URL's number is malformed")
	}
	*n = uint32(v)
	return nil
}
