package router

import (
	"strings"
	"time"
)

// goodbyeTimeout bounds the write of a session's last line.
const goodbyeTimeout = time.Second

// Goodbye writes the last line of a session, without waiting for long. It works
// behind an interruption and behind the deadline for the login.
func (s *Session) Goodbye(line string) {
	s.Conn.Resume()
	s.Conn.SetDeadline(time.Now().Add(goodbyeTimeout))
	s.Conn.Line("%s", line)
}

// Word is the status as a client may see it. A directory may hold anything; only
// a plain word is repeated.
func (e *StatusError) Word() string {
	word := strings.ToLower(string(e.Status))
	if word == "" || len(word) > 20 || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz") != "" {
		return "disabled"
	}
	return word
}

// RefusedError: the backend refuses the account for a reason that is not the
// proxy's, in words that the client may see (too many connections, mailbox in
// use, expired).
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return "backend refuses the account: " + e.Text }

// maxText bounds the words of a backend that are passed on.
const maxText = 400

// NewRefused makes a RefusedError of a backend's words, response code included.
// Characters that could end a line are taken out.
func NewRefused(text string) *RefusedError {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return &RefusedError{strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, text)}
}
