package imap

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"

	"switchyard/internal/wire"
)

// command is one command of a client, literals included.
type command struct {
	tag  string
	name string // upper case
	args scanner
}

// syntaxError is a mistake that costs a client a BAD; too many cost the session.
type syntaxError struct{ tag, reason string }

func (e *syntaxError) Error() string { return e.reason }

func (c *command) wrong(reason string) error { return &syntaxError{c.tag, reason} }

// readCommand reads one command of at most maxCommand bytes. A literal that
// would pass that bound is refused: a synchronising one with BAD, and the client
// never sends it; a non-synchronising one (RFC 7888) is on its way already and
// would be taken for commands, so it ends the session.
func (f *front) readCommand() (*command, error) {
	line, err := f.conn.ReadLine(maxCommand)
	if err != nil {
		return nil, err
	}
	if _, isLiteral := literalAtEnd(line); !isLiteral {
		return parseCommand(line)
	}
	text := bytes.Clone(line)
	for start := 0; ; {
		l, isLiteral := literalAtEnd(text[start:])
		if !isLiteral {
			return parseCommand(text)
		}
		if l.size > maxCommand-len(text) {
			if !l.sync {
				return nil, fmt.Errorf("literal: %w", wire.ErrLineTooLong)
			}
			c, err := parseCommand(text)
			if err != nil {
				return nil, err
			}
			return nil, c.wrong("Literal too long")
		}
		if l.sync {
			if err := f.conn.Line("+ OK"); err != nil {
				return nil, err
			}
		}
		text = append(text, "\r\n"...)
		n := len(text)
		text = append(text, make([]byte, l.size)...)
		if _, err := io.ReadFull(f.conn, text[n:]); err != nil {
			return nil, err
		}
		rest, err := f.conn.ReadLine(max(0, maxCommand-len(text)))
		if err != nil {
			return nil, err
		}
		start = len(text)
		text = append(text, rest...)
	}
}

// literal is the announcement of a literal.
type literal struct {
	size int
	sync bool // the sender waits to be asked
}

// literalAtEnd finds {n} or {n+} at the end of a line.
func literalAtEnd(line []byte) (literal, bool) {
	if len(line) == 0 || line[len(line)-1] != '}' {
		return literal{}, false
	}
	open := bytes.LastIndexByte(line, '{')
	if open < 0 {
		return literal{}, false
	}
	digits := line[open+1 : len(line)-1]
	l := literal{sync: true}
	if n := len(digits); n > 0 && digits[n-1] == '+' {
		l.sync, digits = false, digits[:n-1]
	}
	size, err := strconv.ParseUint(string(digits), 10, 32)
	if err != nil {
		if len(digits) > 0 && len(bytes.Trim(digits, "0123456789")) == 0 {
			l.size = 1<<31 - 1 // a number, and too big for anything
			return l, true
		}
		return literal{}, false
	}
	l.size = int(size)
	return l, true
}

// parseCommand takes tag and name off a command.
func parseCommand(text []byte) (*command, error) {
	tag, rest, _ := bytes.Cut(text, []byte(" "))
	if !validTag(tag) {
		return nil, &syntaxError{"*", "Tag missing or malformed"}
	}
	name, args, _ := bytes.Cut(rest, []byte(" "))
	return &command{tag: string(tag), name: strings.ToUpper(string(name)), args: scanner{args}}, nil
}

// validTag holds a tag against RFC 9051's grammar: it is repeated in answers.
func validTag(tag []byte) bool {
	if len(tag) == 0 || len(tag) > maxTag {
		return false
	}
	for _, c := range tag {
		if !isAtomChar(c) && c != ']' || c == '+' || c >= 0x80 {
			return false
		}
	}
	return true
}

// isAtomChar is ATOM-CHAR, and 8-bit characters: names and passwords in UTF-8
// are sent bare by some clients.
func isAtomChar(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte("(){%*\"\\]", c) < 0
}

// scanner takes the arguments of a command apart.
type scanner struct{ b []byte }

// end reports whether nothing is left.
func (s *scanner) end() bool { return len(s.b) == 0 }

func (s *scanner) take(c byte) bool {
	if len(s.b) == 0 || s.b[0] != c {
		return false
	}
	s.b = s.b[1:]
	return true
}

func (s *scanner) span(ok func(byte) bool) string {
	n := 0
	for n < len(s.b) && ok(s.b[n]) {
		n++
	}
	word := string(s.b[:n])
	s.b = s.b[n:]
	return word
}

func (s *scanner) atom() (string, bool) {
	word := s.span(isAtomChar)
	return word, word != ""
}

// spaceWord reads a space and what follows up to the next one, which may be
// nothing at all.
func (s *scanner) spaceWord() (string, bool) {
	if !s.take(' ') {
		return "", false
	}
	return s.span(func(c byte) bool { return c > ' ' }), true
}

func (s *scanner) spaceAstring() (string, bool) {
	if !s.take(' ') {
		return "", false
	}
	return s.astring()
}

// astring reads an atom, a quoted string or a literal.
func (s *scanner) astring() (string, bool) {
	if len(s.b) > 0 && (s.b[0] == '"' || s.b[0] == '{') {
		return s.string()
	}
	word := s.span(func(c byte) bool { return isAtomChar(c) || c == ']' })
	return word, word != ""
}

// string reads a quoted string or a literal.
func (s *scanner) string() (string, bool) {
	if s.take('"') {
		return s.quoted()
	}
	line, rest, found := bytes.Cut(s.b, []byte("\r\n"))
	l, isLiteral := literalAtEnd(line)
	if !found || !isLiteral || line[0] != '{' || bytes.IndexByte(line[1:], '{') >= 0 || l.size > len(rest) {
		return "", false
	}
	value := rest[:l.size]
	s.b = rest[l.size:]
	return string(value), bytes.IndexByte(value, 0) < 0
}

func (s *scanner) quoted() (string, bool) {
	var out []byte
	for i := 0; i < len(s.b); i++ {
		switch c := s.b[i]; c {
		case '"':
			s.b = s.b[i+1:]
			return string(out), true
		case 0, '\r', '\n':
			return "", false
		case '\\':
			if i++; i == len(s.b) || s.b[i] != '"' && s.b[i] != '\\' {
				return "", false
			}
			out = append(out, s.b[i])
		default:
			out = append(out, c)
		}
	}
	return "", false
}

// maxPairs is RFC 2971's bound on ID's pairs.
const maxPairs = 30

// idPairs reads NIL or a list of key and value, in turn. A value that is NIL is
// left out.
func (s *scanner) idPairs() ([][2]string, bool) {
	if s.nil() {
		return nil, true
	}
	if !s.take('(') {
		return nil, false
	}
	var pairs [][2]string
	for !s.take(')') {
		if len(pairs) > 0 && !s.take(' ') || len(pairs) == maxPairs {
			return nil, false
		}
		key, ok := s.string()
		if !ok || !s.take(' ') {
			return nil, false
		}
		if s.nil() {
			pairs = append(pairs, [2]string{})
			continue
		}
		value, ok := s.string()
		if !ok {
			return nil, false
		}
		pairs = append(pairs, [2]string{key, value})
	}
	return pairs, true
}

func (s *scanner) nil() bool {
	if len(s.b) < 3 || !bytes.EqualFold(s.b[:3], []byte("NIL")) {
		return false
	}
	s.b = s.b[3:]
	return true
}
