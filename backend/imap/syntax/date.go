package syntax

import (
	"strings"
	"time"
)

const (
	dateLayout     = "2-Jan-2006"
	dateTimeLayout = "_2-Jan-2006 15:04:05 -0700"
)

// Date reads a date, with or without quotes, as midnight UTC.
func (l *Lexer) Date() (time.Time, error) {
	var s string
	if l.Peek() == '"' {
		var err error
		if s, err = l.quoted(); err != nil {
			return time.Time{}, err
		}
	} else {
		s = l.take(isAtom)
	}
	t, err := time.Parse(dateLayout, s)
	if err != nil || len(s) > len("02-Jan-2006") {
		return time.Time{}, Errorf("a date is malformed: it is written as 2-Jan-2006")
	}
	return t, nil
}

// DateTime reads a date and time in quotes, as APPEND has it.
func (l *Lexer) DateTime() (time.Time, error) {
	if l.Peek() != '"' {
		return time.Time{}, Errorf("a date and time is missing")
	}
	s, err := l.quoted()
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(dateTimeLayout, s)
	if err != nil {
		t, err = time.Parse("02-Jan-2006 15:04:05 -0700", s)
	}
	if err != nil || t.Year() < 1 || strings.Contains(s, ".") {
		return time.Time{}, Errorf("a date and time is malformed: it is written as %q", "02-Jan-2006 15:04:05 +0100")
	}
	return t, nil
}
