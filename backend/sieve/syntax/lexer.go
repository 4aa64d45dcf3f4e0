package syntax

import (
	"strings"
	"unicode/utf8"
)

// token is a word of a script.
type token struct {
	Pos
	kind   tokenKind
	text   string // identifier or tag in lower case, string, punctuation
	number uint64
}

type tokenKind int

const (
	end tokenKind = iota
	identifier
	tag
	number
	quoted
	punctuation // one of ; , ( ) { } [ ]
)

// lexer cuts a script into tokens.
type lexer struct {
	rest string
	pos  Pos
}

// skip moves over n bytes.
func (l *lexer) skip(n int) {
	for _, r := range l.rest[:n] {
		if r == '\n' {
			l.pos.Line, l.pos.Column = l.pos.Line+1, 1
		} else {
			l.pos.Column++
		}
	}
	l.rest = l.rest[n:]
}

// space passes over white space and comments (RFC 5228 §2.3).
func (l *lexer) space() error {
	for l.rest != "" {
		switch {
		case strings.IndexByte(" \t\r\n", l.rest[0]) >= 0:
			l.skip(1)
		case l.rest[0] == '#':
			n := strings.IndexByte(l.rest, '\n')
			if n < 0 {
				n = len(l.rest) - 1
			}
			l.skip(n + 1)
		case strings.HasPrefix(l.rest, "/*"):
			n := strings.Index(l.rest[2:], "*/")
			if n < 0 {
				return Errorf(l.pos, "a comment does not end")
			}
			l.skip(n + 4)
		default:
			return nil
		}
	}
	return nil
}

func (l *lexer) next() (token, error) {
	if err := l.space(); err != nil {
		return token{}, err
	}
	t := token{Pos: l.pos}
	if l.rest == "" {
		return t, nil
	}
	c := l.rest[0]
	switch {
	case strings.IndexByte(";,(){}[]", c) >= 0:
		t.kind, t.text = punctuation, l.rest[:1]
		l.skip(1)
		return t, nil
	case c == '"':
		return l.quoted(t)
	case c == ':':
		n := word(l.rest[1:])
		if n == 0 {
			return t, Errorf(t.Pos, "a tag has no name")
		}
		t.kind, t.text = tag, strings.ToLower(l.rest[1:1+n])
		l.skip(1 + n)
		return t, nil
	case c >= '0' && c <= '9':
		return l.number(t)
	}
	n := word(l.rest)
	if n == 0 {
		r, _ := utf8.DecodeRuneInString(l.rest)
		return t, Errorf(t.Pos, "%q has no meaning here", r)
	}
	t.kind, t.text = identifier, strings.ToLower(l.rest[:n])
	l.skip(n)
	if t.text == "text" && strings.HasPrefix(l.rest, ":") {
		l.skip(1)
		return l.multiLine(t)
	}
	return t, nil
}

// word returns the length of the identifier that s begins with.
func word(s string) int {
	n := 0
	for n < len(s) {
		c := s[n] | 0x20
		if c < 'a' || c > 'z' {
			if s[n] != '_' && (n == 0 || s[n] < '0' || s[n] > '9') {
				break
			}
		}
		n++
	}
	return n
}

// number reads digits with a quantifier: K, M or G (RFC 5228 §2.4.1).
func (l *lexer) number(t token) (token, error) {
	t.kind = number
	n := 0
	for n < len(l.rest) && l.rest[n] >= '0' && l.rest[n] <= '9' {
		if t.number > 1<<40 {
			return t, Errorf(t.Pos, "the number is too large")
		}
		t.number = t.number*10 + uint64(l.rest[n]-'0')
		n++
	}
	if n < len(l.rest) {
		switch l.rest[n] | 0x20 {
		case 'k':
			t.number <<= 10
			n++
		case 'm':
			t.number <<= 20
			n++
		case 'g':
			if t.number > 1<<20 {
				return t, Errorf(t.Pos, "the number is too large")
			}
			t.number <<= 30
			n++
		}
	}
	if word(l.rest[n:]) > 0 {
		return t, Errorf(t.Pos, "a number is followed by letters: only K, M and G may be")
	}
	l.skip(n)
	return t, nil
}

func (l *lexer) quoted(t token) (token, error) {
	t.kind = quoted
	var b strings.Builder
	for i := 1; i < len(l.rest); i++ {
		switch c := l.rest[i]; c {
		case '"':
			t.text = b.String()
			l.skip(i + 1)
			return t, valid(t)
		case '\\':
			if i++; i < len(l.rest) {
				b.WriteByte(l.rest[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return t, Errorf(t.Pos, "a string does not end")
}

// multiLine reads what follows text: up to a line with only a dot (RFC 5228
// §2.4.2).
func (l *lexer) multiLine(t token) (token, error) {
	t.kind = quoted
	for l.rest != "" && (l.rest[0] == ' ' || l.rest[0] == '\t') {
		l.skip(1)
	}
	line, _, found := strings.Cut(l.rest, "\n")
	if rest := strings.TrimSuffix(line, "\r"); !found || rest != "" && rest[0] != '#' {
		return t, Errorf(t.Pos, "text: is followed by a line end")
	}
	l.skip(len(line) + 1)
	var b strings.Builder
	for l.rest != "" {
		line, _, found := strings.Cut(l.rest, "\n")
		n := len(line)
		if found {
			n++
		}
		l.skip(n)
		text := strings.TrimSuffix(line, "\r")
		if text == "." {
			t.text = b.String()
			return t, valid(t)
		}
		b.WriteString(strings.TrimPrefix(text, ".")) // a dot in front was stuffed
		b.WriteString("\r\n")
	}
	return t, Errorf(t.Pos, "the text does not end: a line with only a dot is missing")
}

// valid holds RFC 5228 §2.1: UTF-8, and no NUL.
func valid(t token) error {
	if !utf8.ValidString(t.text) {
		return Errorf(t.Pos, "a string is not UTF-8")
	}
	if strings.IndexByte(t.text, 0) >= 0 {
		return Errorf(t.Pos, "a string has NUL in it")
	}
	return nil
}
