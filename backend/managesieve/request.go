package managesieve

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"switchyard/backend/sieve"
	"switchyard/internal/wire"
)

// The bounds of a command. Before login a session holds at most the
// connection's two buffers of 4 KiB and a command of 20 KiB.
const (
	maxLineBefore    = wire.MaxSASL + 512
	maxLine          = 8 << 10
	maxLiteral       = sieve.MaxScriptSize
	maxLiteralBefore = wire.MaxSASL
	maxArguments     = 8

	// maxSkipped is how much of a literal that is too big is read and thrown
	// away so that the session can go on.
	maxSkipped = 4 << 20
)

// mistakeError is a command that cannot be understood.
type mistakeError struct{ text string }

func (e *mistakeError) Error() string { return e.text }

// tooBigError is a literal that is too big; it was thrown away.
type tooBigError struct{}

func (tooBigError) Error() string { return "too big" }

// errLost says that where the next command begins is not known.
var errLost = errors.New("lost in a literal")

// argument is a string or a number of a command (RFC 5804 §1.2).
type argument struct {
	text   string
	number bool
}

// request is a command with its arguments.
type request struct {
	name string // upper case
	args []argument
	line string // as it came, without literals, for XCLIENT
}

// strings returns the arguments, if they are strings and so many.
func (q *request) strings(least, most int) ([]string, error) {
	if len(q.args) < least || len(q.args) > most {
		return nil, &mistakeError{q.name + " takes other arguments"}
	}
	var out []string
	for _, a := range q.args {
		if a.number {
			return nil, &mistakeError{q.name + " takes strings"}
		}
		out = append(out, a.text)
	}
	return out, nil
}

// request reads a command, its literals included. A command with a mistake is
// read to its end all the same.
func (s *session) request(ctx context.Context) (*request, error) {
	line, err := s.line(ctx)
	if err != nil {
		return nil, err
	}
	q := &request{line: line}
	name, rest, _ := strings.Cut(line, " ")
	q.name = strings.ToUpper(name)
	if q.name == "XCLIENT" { // its arguments have a grammar of their own
		return q, nil
	}
	q.args, err = s.arguments(ctx, rest)
	return q, err
}

// line reads a line; replies are sent before it waits.
func (s *session) line(ctx context.Context) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if s.conn.Buffered() == 0 {
		if err := s.conn.Flush(); err != nil {
			return "", err
		}
	}
	limit := maxLine
	if s.user == nil {
		limit = maxLineBefore
	}
	release := s.conn.Bind(ctx)
	line, err := s.conn.ReadLine(limit)
	if !release() && err == nil {
		err = context.Cause(ctx)
	}
	return string(line), err
}

// arguments reads what follows a command's name, or a line in SASL.
func (s *session) arguments(ctx context.Context, rest string) (args []argument, err error) {
	var first error // the first mistake
	note := func(e error) {
		if first == nil {
			first = e
		}
	}
	for rest = strings.TrimLeft(rest, " "); rest != ""; rest = strings.TrimLeft(rest, " ") {
		var a argument
		switch {
		case rest[0] == '"':
			var ok bool
			if a.text, rest, ok = quoted(rest); !ok {
				note(&mistakeError{"a string does not end"})
				rest = ""
			}
		case rest[0] == '{':
			if a.text, rest, err = s.literal(ctx, rest); err != nil {
				var big tooBigError
				var mistake *mistakeError
				if !errors.As(err, &big) && !errors.As(err, &mistake) {
					return nil, err
				}
				note(err)
			}
		case rest[0] >= '0' && rest[0] <= '9':
			a.number = true
			a.text, rest, _ = strings.Cut(rest, " ")
			if _, err := strconv.ParseUint(a.text, 10, 32); err != nil {
				note(&mistakeError{"a number is malformed"})
			}
		default:
			note(&mistakeError{"arguments are strings and numbers"})
			rest = skipWord(rest)
		}
		if !utf8.ValidString(a.text) || strings.IndexByte(a.text, 0) >= 0 {
			note(&mistakeError{"a string is not UTF-8"})
		}
		if args = append(args, a); len(args) > maxArguments {
			note(&mistakeError{"too many arguments"})
			args = args[:1]
		}
	}
	return args, first
}

// skipWord passes over what is no argument, up to what may be a literal.
func skipWord(s string) string {
	if i := strings.IndexByte(s, ' '); i >= 0 {
		return s[i:]
	}
	return ""
}

// quoted reads a quoted string at the start of s.
func quoted(s string) (text, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// literal reads {n+} at the end of a line, the n bytes, and the line that goes
// on behind them. A client's literal does not wait for the server (RFC 5804
// §4).
func (s *session) literal(ctx context.Context, rest string) (text, next string, err error) {
	digits, found := strings.CutSuffix(rest[1:], "+}")
	if !found {
		return "", "", &mistakeError{"a literal is {number+} at the end of a line"}
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return "", "", errLost
	}
	limit := uint64(maxLiteral)
	if s.user == nil {
		limit = maxLiteralBefore
	}
	var refused error
	if n > limit {
		if s.user == nil || n > maxSkipped {
			return "", "", errLost
		}
		refused = tooBigError{}
		if err := s.conn.Discard(int64(n)); err != nil {
			return "", "", err
		}
	} else {
		b := make([]byte, n)
		if _, err := io.ReadFull(s.conn, b); err != nil {
			return "", "", err
		}
		text = string(b)
	}
	next, err = s.line(ctx)
	if err == nil {
		err = refused
	}
	return text, next, err
}
