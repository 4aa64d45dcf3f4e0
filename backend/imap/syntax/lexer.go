// Package syntax is IMAP's grammar (RFC 9051 §9, RFC 3501 §9): a lexer for
// what clients send, parsers for the two commands that have a grammar of their
// own (SEARCH and FETCH), and a writer for what servers answer. It knows no
// mailbox and no session.
//
// A command is one or more lines with literals between them. The lexer works
// on one line at a time and asks its Source for the next, so that nothing is
// read that the command does not want: a literal that is refused is never in
// memory, and never taken for a command.
package syntax

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error is a mistake in a command: the answer is BAD with this text.
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }

// Errorf makes an Error. It never quotes what the client sent: that may be a
// password.
func Errorf(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// ErrLost says that the end of a command cannot be found: the connection must
// end, or bytes of the command would be run as others.
var ErrLost = errors.New("cannot find the end of a command")

// Source gives the lexer the rest of a command. Errors other than *Refused end
// the session.
type Source interface {
	// Line returns the next line without its CRLF, valid until the next call.
	Line() ([]byte, error)

	// Literal returns a literal's bytes, and asks the client for them first
	// when it waits (it is synchronising). A literal that is refused is
	// *Refused; its bytes were then read and thrown away, unless the client
	// waits: then they will not come.
	Literal(l Literal) (string, error)
}

// Refused is a literal that was not taken.
type Refused struct{ Text string }

func (e *Refused) Error() string { return e.Text }

// Literal is the announcement of a literal.
type Literal struct {
	Size   int64
	Waits  bool // the client waits for a continuation request
	Binary bool // literal8: may hold NUL
}

// Lexer reads one command's tokens. The strings it returns are copies.
type Lexer struct {
	src  Source
	rest []byte // of the line in hand
	lost bool
}

// NewLexer starts on the first line of a command.
func NewLexer(src Source, line []byte) *Lexer { return &Lexer{src: src, rest: line} }

// isAtom reports whether c may be in an atom (ATOM-CHAR). Wildcards and the
// closing bracket are the caller's.
func isAtom(c byte) bool {
	return c > ' ' && c < 0x7f && strings.IndexByte(`(){%*"\]`, c) < 0
}

func isAString(c byte) bool { return isAtom(c) || c == ']' }
func isTag(c byte) bool     { return isAString(c) && c != '+' }
func isList(c byte) bool    { return isAString(c) || c == '%' || c == '*' }

// take reads a run of characters.
func (l *Lexer) take(in func(byte) bool) string {
	n := 0
	for n < len(l.rest) && in(l.rest[n]) {
		n++
	}
	s := string(l.rest[:n])
	l.rest = l.rest[n:]
	return s
}

// Tag reads a command's tag.
func (l *Lexer) Tag() (string, error) {
	s := l.take(isTag)
	if s == "" || len(s) > 100 {
		return "", Errorf("a command begins with a tag")
	}
	return s, nil
}

// Peek returns the next byte, 0 at the end of the command.
func (l *Lexer) Peek() byte {
	if len(l.rest) == 0 {
		return 0
	}
	return l.rest[0]
}

// Is takes the next byte if it is c.
func (l *Lexer) Is(c byte) bool {
	if l.Peek() != c || len(l.rest) == 0 {
		return false
	}
	l.rest = l.rest[1:]
	return true
}

// Want takes the next byte, which must be c.
func (l *Lexer) Want(c byte) error {
	if !l.Is(c) {
		if c == ' ' {
			return Errorf("a space is missing")
		}
		return Errorf("%q is missing", string(c))
	}
	return nil
}

// SP takes a space.
func (l *Lexer) SP() error { return l.Want(' ') }

// End checks that the command is over.
func (l *Lexer) End() error {
	if len(l.rest) > 0 {
		return Errorf("too many arguments")
	}
	return nil
}

// Atom reads an atom.
func (l *Lexer) Atom() (string, error) {
	s := l.take(isAtom)
	if s == "" {
		return "", Errorf("an atom is missing")
	}
	return s, nil
}

// Word reads an atom in upper case: a keyword of the grammar.
func (l *Lexer) Word() (string, error) {
	s, err := l.Atom()
	return strings.ToUpper(s), err
}

// AString reads an atom, a quoted string or a literal.
func (l *Lexer) AString() (string, error) {
	switch l.Peek() {
	case '"', '{':
		return l.String()
	}
	s := l.take(isAString)
	if s == "" {
		return "", Errorf("a string is missing")
	}
	return s, nil
}

// String reads a quoted string or a literal.
func (l *Lexer) String() (string, error) {
	switch l.Peek() {
	case '"':
		return l.quoted()
	case '{':
		lit, err := l.Literal()
		if err != nil {
			return "", err
		}
		return l.Fetch(lit)
	}
	return "", Errorf("a string is missing")
}

// NString reads a string or NIL; ok is false for NIL.
func (l *Lexer) NString() (s string, ok bool, err error) {
	if c := l.Peek(); c == '"' || c == '{' {
		s, err = l.String()
		return s, err == nil, err
	}
	if word, err := l.Word(); err != nil || word != "NIL" {
		return "", false, Errorf("a string or NIL is missing")
	}
	return "", false, nil
}

// quoted reads a quoted string: no NUL, CR or LF, and nothing but UTF-8
// (RFC 9051 §4.3).
func (l *Lexer) quoted() (string, error) {
	var b strings.Builder
	for i := 1; i < len(l.rest); i++ {
		switch c := l.rest[i]; c {
		case '"':
			s := b.String()
			if !utf8.ValidString(s) {
				return "", Errorf("a quoted string is not UTF-8")
			}
			l.rest = l.rest[i+1:]
			return s, nil
		case '\\':
			i++
			if i == len(l.rest) || l.rest[i] != '"' && l.rest[i] != '\\' {
				return "", Errorf("a backslash in a quoted string stands only before a quote or a backslash")
			}
			b.WriteByte(l.rest[i])
		case 0, '\r', '\n':
			return "", Errorf("a control character in a quoted string")
		default:
			b.WriteByte(c)
		}
	}
	return "", Errorf("a quoted string does not end")
}

// Literal reads a literal's announcement, which ends the line. The caller takes
// the literal itself, with Fetch or on its own and then calls NextLine.
func (l *Lexer) Literal() (Literal, error) {
	lit, n, ok := announcement(l.rest)
	if !ok || n != len(l.rest) {
		return Literal{}, Errorf("a literal is malformed")
	}
	if lit.Size < 0 {
		l.lost = !lit.Waits
		l.rest = nil
		return Literal{}, Errorf("a literal's size is no number")
	}
	l.rest = nil
	return lit, nil
}

// Fetch takes a literal into memory and goes on behind it.
func (l *Lexer) Fetch(lit Literal) (string, error) {
	s, err := l.src.Literal(lit)
	var refused *Refused
	if errors.As(err, &refused) && !lit.Waits {
		if err := l.NextLine(); err != nil {
			return "", err
		}
	}
	if err != nil {
		return "", err
	}
	if !lit.Binary && strings.IndexByte(s, 0) >= 0 {
		err = Errorf("NUL in a literal")
	}
	if next := l.NextLine(); next != nil {
		return "", next
	}
	return s, err
}

// NextLine goes on with the line behind a literal.
func (l *Lexer) NextLine() error {
	line, err := l.src.Line()
	l.rest = line
	return err
}

// announcement parses {n}, {n+}, ~{n} or ~{n+} at the start of b. A size that
// is no number of 63 bits is -1.
func announcement(b []byte) (lit Literal, n int, ok bool) {
	s := b
	if len(s) > 0 && s[0] == '~' {
		lit.Binary = true
		s = s[1:]
	}
	if len(s) < 3 || s[0] != '{' {
		return lit, 0, false
	}
	digits := 1
	for digits < len(s) && s[digits] >= '0' && s[digits] <= '9' {
		digits++
	}
	end := digits
	lit.Waits = true
	if end < len(s) && s[end] == '+' {
		lit.Waits = false
		end++
	}
	if digits == 1 || end >= len(s) || s[end] != '}' {
		return lit, 0, false
	}
	size, err := strconv.ParseInt(string(s[1:digits]), 10, 64)
	if err != nil {
		size = -1
	}
	lit.Size = size
	return lit, len(b) - len(s) + end + 1, true
}

// Skip passes over the rest of a command that will not be run: its lines, and
// the literals that the client sends without waiting, which discard throws
// away. Errors: ErrLost, and those of the Source and of discard.
func (l *Lexer) Skip(discard func(n int64) error) error {
	for {
		if l.lost {
			return ErrLost
		}
		lit, ok := trailing(l.rest)
		l.rest = nil
		if !ok || lit.Waits {
			return nil
		}
		if lit.Size < 0 {
			return ErrLost
		}
		if err := discard(lit.Size); err != nil {
			return err
		}
		if err := l.NextLine(); err != nil {
			return err
		}
	}
}

// trailing finds a literal's announcement at the end of a line.
func trailing(line []byte) (Literal, bool) {
	i := strings.LastIndexByte(string(line), '{')
	if i < 0 {
		return Literal{}, false
	}
	lit, n, ok := announcement(line[i:])
	return lit, ok && n == len(line)-i
}

// Number reads a number of 32 bits.
func (l *Lexer) Number() (uint32, error) {
	n, err := l.number(32)
	return uint32(n), err
}

// Number64 reads a number of 63 bits.
func (l *Lexer) Number64() (int64, error) {
	n, err := l.number(63)
	return int64(n), err
}

func (l *Lexer) number(bits int) (uint64, error) {
	s := l.take(func(c byte) bool { return c >= '0' && c <= '9' })
	n, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		return 0, Errorf("a number is missing or too big")
	}
	return n, nil
}

// Flag reads one flag: a keyword, or a system flag with its backslash.
func (l *Lexer) Flag() (string, error) {
	slash := ""
	if l.Is('\\') {
		slash = `\`
	}
	s := l.take(isAtom)
	if s == "" || len(s) > 100 {
		return "", Errorf("a flag is missing or too long")
	}
	return slash + s, nil
}

// List reads a parenthesised list, calling item for each element. empty says
// that () is allowed.
func (l *Lexer) List(empty bool, item func() error) error {
	if err := l.Want('('); err != nil {
		return err
	}
	if empty && l.Is(')') {
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		if l.Is(')') {
			return nil
		}
		if err := l.SP(); err != nil {
			return err
		}
	}
}

// Flags reads a parenthesised list of flags.
func (l *Lexer) Flags() ([]string, error) {
	var out []string
	err := l.List(true, func() error {
		f, err := l.Flag()
		out = append(out, f)
		return err
	})
	return out, err
}

// Mailbox reads a mailbox name: UTF-8 once the client has enabled it, else
// modified UTF-7 (RFC 3501 §5.1.3).
func (l *Lexer) Mailbox(asUTF8 bool) (string, error) {
	s, err := l.AString()
	if err != nil {
		return "", err
	}
	return DecodeMailbox(s, asUTF8)
}

// Pattern reads a LIST pattern: a mailbox name with wildcards.
func (l *Lexer) Pattern(asUTF8 bool) (string, error) {
	if c := l.Peek(); c == '"' || c == '{' {
		return l.Mailbox(asUTF8)
	}
	s := l.take(isList)
	if s == "" {
		return "", Errorf("a mailbox pattern is missing")
	}
	return DecodeMailbox(s, asUTF8)
}

// Base64 reads a SASL message.
func (l *Lexer) Base64() (string, error) {
	s := l.take(func(c byte) bool {
		return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '='
	})
	if s == "" {
		return "", Errorf("a SASL message is missing")
	}
	return s, nil
}
