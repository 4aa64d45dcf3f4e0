package syntax

import (
	"encoding/base64"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// utf7 is modified base64: a comma instead of the slash, no padding.
var utf7 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").WithPadding(base64.NoPadding)

// DecodeMailbox turns a mailbox name from the wire into UTF-8, and INBOX, alone
// or above others, into capitals. A name with bytes above 127 is UTF-8 even
// from a client that has not enabled it.
func DecodeMailbox(s string, asUTF8 bool) (string, error) {
	ascii := strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
	if !utf8.ValidString(s) {
		return "", Errorf("a mailbox name is not UTF-8")
	}
	if !asUTF8 && ascii {
		var ok bool
		if s, ok = DecodeUTF7(s); !ok {
			return "", Errorf("a mailbox name is not modified UTF-7")
		}
	}
	if len(s) >= 5 && strings.EqualFold(s[:5], "INBOX") && (len(s) == 5 || s[5] == '/') {
		s = "INBOX" + s[5:]
	}
	return s, nil
}

// DecodeUTF7 decodes modified UTF-7. ok is false unless s is the one right
// encoding of the result.
func DecodeUTF7(s string) (string, bool) {
	if strings.IndexByte(s, '&') < 0 {
		return s, true
	}
	var b strings.Builder
	for rest := s; rest != ""; {
		plain, behind, found := strings.Cut(rest, "&")
		b.WriteString(plain)
		if !found {
			break
		}
		coded, after, closed := strings.Cut(behind, "-")
		if !closed {
			return "", false
		}
		rest = after
		if coded == "" {
			b.WriteByte('&')
			continue
		}
		raw, err := utf7.DecodeString(coded)
		if err != nil || len(raw)%2 != 0 {
			return "", false
		}
		units := make([]uint16, len(raw)/2)
		for i := range units {
			units[i] = uint16(raw[2*i])<<8 | uint16(raw[2*i+1])
		}
		b.WriteString(string(utf16.Decode(units)))
	}
	out := b.String()
	return out, EncodeUTF7(out) == s
}

// EncodeUTF7 encodes a UTF-8 name in modified UTF-7.
func EncodeUTF7(s string) string {
	plain := true
	for i := 0; i < len(s) && plain; i++ {
		plain = s[i] >= ' ' && s[i] < 0x7f && s[i] != '&'
	}
	if plain {
		return s
	}
	var b strings.Builder
	var run []rune
	flush := func() {
		if len(run) == 0 {
			return
		}
		var raw []byte
		for _, u := range utf16.Encode(run) {
			raw = append(raw, byte(u>>8), byte(u))
		}
		b.WriteString("&" + utf7.EncodeToString(raw) + "-")
		run = run[:0]
	}
	for _, r := range s {
		switch {
		case r == '&':
			flush()
			b.WriteString("&-")
		case r >= ' ' && r < 0x7f:
			flush()
			b.WriteRune(r)
		default:
			run = append(run, r)
		}
	}
	flush()
	return b.String()
}

// Match reports whether a mailbox name matches a LIST pattern: * stands for
// anything, % for anything without the separator (RFC 9051 §6.3.9.5). The cost
// is at most the product of the lengths.
func Match(pattern, name string) bool {
	// at[i]: pattern[:i] matches what was read of the name.
	at := make([]bool, len(pattern)+1)
	at[0] = true
	open := func() {
		for i := range len(pattern) {
			if at[i] && (pattern[i] == '*' || pattern[i] == '%') {
				at[i+1] = true
			}
		}
	}
	open()
	next := make([]bool, len(pattern)+1)
	for k := range len(name) {
		clear(next)
		for i := range len(pattern) {
			if !at[i] {
				continue
			}
			switch c := pattern[i]; {
			case c == '*', c == '%' && name[k] != '/':
				next[i] = true
			case c == name[k] && c != '%':
				next[i+1] = true
			}
		}
		at, next = next, at
		open()
	}
	return at[len(pattern)]
}
