package message

import (
	"iter"
	"strings"
)

// MessageIDs yields the message ids of a Message-ID, References or In-Reply-To
// field, in order, without the angle brackets and without quoting, so that ids
// that mean the same are the same (RFC 5256 §3). Text between them is passed
// over.
func MessageIDs(field string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			_, behind, found := strings.Cut(field, "<")
			if !found {
				return
			}
			inside, rest, closed := cutAngle(behind)
			if !closed {
				// Not the start of an id: perhaps the next one is.
				field = behind
				continue
			}
			field = rest
			if at := strings.LastIndexByte(inside, '@'); at > 0 && at < len(inside)-1 && !yield(inside) {
				return
			}
		}
	}
}

// cutAngle reads up to the closing bracket and takes quotes, backslashes and
// white space away. A second opening bracket is none of an id's.
func cutAngle(s string) (inside, rest string, ok bool) {
	end := strings.IndexAny(s, "<>\"\\ \t")
	if end >= 0 && s[end] == '>' {
		return s[:end], s[end+1:], true // as nearly all are
	}
	var b strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case quoted:
			b.WriteByte(c)
		case c == '>':
			return b.String(), s[i+1:], true
		case c == '<':
			return "", s, false
		case isSpace(c):
		default:
			b.WriteByte(c)
		}
	}
	return "", s, false
}
