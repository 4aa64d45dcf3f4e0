package smtpd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"switchyard/internal/server"
)

// Reply is an answer to a command. As an error it refuses, or it words a
// success that nil would word in the command's own way.
type Reply struct {
	Code     int    // 200 to 599
	Enhanced string // "5.1.1" (RFC 3463), without which the reply has none
	Text     string // one line, or several with "\n" between
}

// NewReply makes a reply.
func NewReply(code int, enhanced, text string) Reply { return Reply{code, enhanced, text} }

func (r Reply) Error() string {
	if r.Enhanced == "" {
		return fmt.Sprintf("%d %s", r.Code, r.Text)
	}
	return fmt.Sprintf("%d %s %s", r.Code, r.Enhanced, r.Text)
}

// Positive, Temporary and Permanent tell the three kinds of final answers
// apart.
func (r Reply) Positive() bool  { return r.Code/100 == 2 }
func (r Reply) Temporary() bool { return r.Code/100 == 4 }
func (r Reply) Permanent() bool { return r.Code/100 == 5 }

// Repeat returns n times the same reply, for LMTP.
func Repeat(r Reply, n int) []Reply { return slices.Repeat([]Reply{r}, n) }

var (
	replyOK       = Reply{250, "2.0.0", "ok"}
	replyInternal = Reply{451, "4.3.0", "internal error, try again later"}
	replyShutdown = Reply{421, "4.3.2", "service is shutting down, try again later"}
)

// ReplyOf returns the answer that an error stands for: nil is 250, a Reply is
// itself, the end of the daemon is 421 4.3.2, and anything else is 451 4.3.0: it
// never becomes permanent, and its text stays inside.
func ReplyOf(err error) Reply {
	var r Reply
	switch {
	case err == nil:
		return replyOK
	case errors.As(err, &r):
		return r
	case errors.Is(err, server.ErrShutdown), errors.Is(err, context.Canceled):
		return replyShutdown
	default:
		return replyInternal
	}
}

// maxReplyText bounds the text of one line of a reply so that the whole stays
// within 512 bytes (RFC 5321 §4.5.3.1.5).
const maxReplyText = 480

// append writes r in its wire form. Control characters, which could begin a
// forged reply, become question marks.
func (r Reply) append(b []byte) []byte {
	code := r.Code
	if code < 200 || code > 599 {
		code = 451
	}
	text := r.Text
	for more := true; more; {
		var line string
		line, text, more = strings.Cut(text, "\n")
		b = fmt.Appendf(b, "%d", code)
		if more {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
		}
		if r.Enhanced != "" {
			b = append(append(b, r.Enhanced...), ' ')
		}
		if len(line) > maxReplyText {
			line = line[:maxReplyText]
		}
		for i := range len(line) {
			if c := line[i]; c < ' ' || c == 0x7f {
				b = append(b, '?')
			} else {
				b = append(b, c)
			}
		}
		b = append(b, '\r', '\n')
	}
	return b
}
