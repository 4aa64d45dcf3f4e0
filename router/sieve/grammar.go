package sieve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"switchyard/internal/wire"
	"switchyard/router"
)

// token is a part of a command or of a response (RFC 5804 §4).
type token struct {
	kind kind
	text string // decoded; a word is upper case
}

type kind int

const (
	word   kind = iota // everything that is nothing else, numbers too
	text               // a string, quoted or literal
	opens              // (
	closes             // )
)

// errSyntax: a line that the grammar does not know. It was read to its end, and
// the next one begins behind it.
var errSyntax = errors.New("malformed")

// readTokens reads a command or a response, its literals included, of at most
// limit bytes. Clients write literals as {n+}, and send what follows at once;
// servers as {n}. A client that writes {n} waits for something that never comes,
// or does not, and what it sends would be taken for commands: the connection must
// end, with router.ErrProtocol.
func readTokens(conn *wire.Conn, line []byte, limit int, fromClient bool) ([]token, error) {
	var out []token
	var malformed error
	for held := 0; ; {
		if held += len(line); held > limit {
			return nil, wire.ErrLineTooLong
		}
		tokens, size, err := scan(line, fromClient)
		if errors.Is(err, errSyntax) {
			malformed = err
		} else if err != nil {
			return nil, err
		}
		out = append(out, tokens...)
		if size < 0 {
			break
		}
		if size > limit-held {
			return nil, fmt.Errorf("literal: %w", wire.ErrLineTooLong)
		}
		held += size
		literal := make([]byte, size)
		if _, err := io.ReadFull(conn, literal); err != nil {
			return nil, err
		}
		if bytes.IndexByte(literal, 0) >= 0 {
			malformed = fmt.Errorf("%w: NUL in a literal", errSyntax)
		}
		out = append(out, token{text, string(literal)})
		if line, err = conn.ReadLine(limit - held); err != nil {
			return nil, err
		}
	}
	if malformed != nil {
		return nil, malformed
	}
	return out, nil
}

// scan takes a line apart. The size is that of the literal at its end, less than
// zero when there is none; it is right even when the error is errSyntax.
func scan(line []byte, fromClient bool) (out []token, size int, err error) {
	size = -1
	for i := 0; i < len(line); {
		switch c := line[i]; c {
		case ' ':
			i++
		case '(':
			out, i = append(out, token{kind: opens}), i+1
		case ')':
			out, i = append(out, token{kind: closes}), i+1
		case '"':
			s, n, ok := quoted(line[i:])
			if !ok {
				_, size, err := literalAtEnd(line, fromClient)
				if err == nil {
					err = fmt.Errorf("%w: a string does not end", errSyntax)
				}
				return nil, size, err
			}
			out, i = append(out, token{text, s}), i+n
		case '{':
			is, n, fatal := literalAtEnd(line[i:], fromClient)
			if fatal != nil {
				return nil, -1, fatal
			}
			if !is || bytes.LastIndexByte(line[i:], '{') > 0 {
				err = fmt.Errorf("%w: a brace", errSyntax)
			}
			return out, n, err
		default:
			n := bytes.IndexAny(line[i:], ` ()"{`)
			if n < 0 {
				n = len(line) - i
			}
			if strings.IndexFunc(string(line[i:i+n]), func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
				err = fmt.Errorf("%w: a word", errSyntax)
			}
			out, i = append(out, token{word, strings.ToUpper(string(line[i : i+n]))}), i+n
		}
	}
	return out, -1, err
}

// quoted reads a quoted string, and returns its length as it stands.
func quoted(b []byte) (string, int, bool) {
	var out []byte
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return string(out), i + 1, true
		case c == 0 || c == '\r':
			return "", 0, false
		case c == '\\' && i+1 < len(b) && (b[i+1] == '"' || b[i+1] == '\\'):
			i++
			out = append(out, b[i])
		case c == '\\':
			return "", 0, false
		default:
			out = append(out, c)
		}
	}
	return "", 0, false
}

// literalAtEnd finds {n} or {n+} at the end of a line, whatever stands before.
func literalAtEnd(line []byte, fromClient bool) (is bool, size int, err error) {
	open := bytes.LastIndexByte(line, '{')
	if open < 0 || line[len(line)-1] != '}' {
		return false, -1, nil
	}
	digits, plus := bytes.CutSuffix(line[open+1:len(line)-1], []byte("+"))
	if len(digits) == 0 || len(bytes.Trim(digits, "0123456789")) > 0 {
		return false, -1, nil
	}
	if fromClient && !plus {
		return false, -1, fmt.Errorf("%w: a literal without +", router.ErrProtocol)
	}
	n, err := strconv.ParseInt(string(digits), 10, 32)
	if err != nil {
		return false, -1, fmt.Errorf("literal: %w", wire.ErrLineTooLong)
	}
	return true, int(n), nil
}

// maxQuoted bounds a quoted string (RFC 5804 §4).
const maxQuoted = 1024

// quote makes a quoted string of a text of ours or a backend's. What cannot stand
// in one is left out.
func quote(s string) string {
	b := append(make([]byte, 0, len(s)+2), '"')
	for i := 0; i < len(s) && len(b) < maxQuoted-2; i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ' && c != 0x7f:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}
