package sieve

import (
	"mime"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// modified applies one modifier of set (RFC 5229 §4.1); the empty one does
// nothing.
func modified(s, modifier string) string {
	switch modifier {
	case "lower":
		return strings.ToLower(s)
	case "upper":
		return strings.ToUpper(s)
	case "lowerfirst":
		r, n := utf8.DecodeRuneInString(s)
		if n > 0 {
			return string(unicode.ToLower(r)) + s[n:]
		}
	case "upperfirst":
		r, n := utf8.DecodeRuneInString(s)
		if n > 0 {
			return string(unicode.ToUpper(r)) + s[n:]
		}
	case "quotewildcard":
		return strings.NewReplacer("*", `\*`, "?", `\?`, `\`, `\\`).Replace(s)
	case "quoteregex":
		return regexp.QuoteMeta(s)
	case "encodeurl":
		return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
	case "length":
		return strconv.Itoa(utf8.RuneCountInString(s))
	}
	return s
}

// encodeField makes a header field's value of a text: without line ends, what is
// not ASCII encoded (RFC 2047), and folded.
func encodeField(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	var b strings.Builder
	column := 0
	for i, w := range strings.Fields(mime.QEncoding.Encode("utf-8", strings.TrimSpace(s))) {
		switch {
		case i == 0:
		case column+len(w) > 70:
			b.WriteString("\r\n ")
			column = 0
		default:
			b.WriteByte(' ')
		}
		if column += len(w) + 1; len(w) > 900 {
			w = w[:900] // no line is longer than RFC 5322 §2.1.1 allows
		}
		b.WriteString(w)
	}
	return b.String()
}
