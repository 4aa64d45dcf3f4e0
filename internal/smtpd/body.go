package smtpd

import (
	"context"
	"errors"
	"io"

	"go.uber.org/zap"
)

// What a message is refused for, whatever the session says.
var (
	errOverSize error = Reply{552, "5.3.4", "message is bigger than the limit"}
	errLineEnds error = Reply{554, "5.6.0", "bare CR or LF in the message, lines end in CRLF"}
)

var errAbandoned = errors.New("message abandoned by the client")

// body is the reader that Session.Data gets: the source's bytes, checked. It
// remembers how the message ended.
type body struct {
	src   source
	limit int64 // zero: none
	size  int64
	lines lineEnds
	err   error // what Read returned last and will return again
}

// source is where a message comes from.
type source interface {
	io.Reader

	// skip reads over what must be read before the message can be answered.
	skip() error
}

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	b.size += int64(n)
	switch {
	case b.limit > 0 && b.size > b.limit:
		b.err = errOverSize
	case !b.lines.check(p[:n]), err == io.EOF && b.lines.cr:
		b.err = errLineEnds
	default:
		b.err = err
		return n, err
	}
	return 0, b.err
}

// verdict is how the dialogue goes on behind Session.Data: nil when an answer
// can be given.
func (b *body) verdict() error {
	switch b.err {
	case nil, io.EOF, errOverSize, errLineEnds:
		return b.src.skip()
	}
	return b.err
}

// refusal is the answer to a message that was not let through.
func (b *body) refusal() (r Reply, refused bool) {
	refused = errors.As(b.err, &r)
	return r, refused
}

func (c *Conn) data(ctx context.Context, arg string) error {
	switch {
	case !c.open:
		return c.mistake(503, "5.5.1", "say MAIL first")
	case arg != "":
		return c.mistake(501, "5.5.4", "DATA takes no argument")
	case c.accepted == 0:
		// Not a mistake: a client that pipelines cannot know.
		c.say(503, "5.5.1", "no recipient was accepted")
		return nil
	}
	c.say(354, "", "end the message with CRLF.CRLF")
	if err := c.flush(ctx); err != nil {
		return err
	}
	b := &body{src: &dots{r: c.wire.Reader()}, limit: c.o.MaxSize}
	c.wire.SetIdle(c.o.DataTimeout)
	replies := c.session.Data(ctx, b)
	if err := b.verdict(); err != nil {
		return err
	}
	c.wire.SetIdle(c.o.CommandTimeout)
	c.conclude(b, replies)
	return nil
}

// conclude answers a message and ends the transaction.
func (c *Conn) conclude(b *body, replies []Reply) {
	n := 1
	if c.o.LMTP {
		n = c.accepted
	}
	if r, refused := b.refusal(); refused {
		replies = Repeat(r, n)
	}
	if len(replies) != n {
		c.o.Logger.Error("message got the wrong number of answers", zap.Int("got", len(replies)), zap.Int("want", n))
		replies = Repeat(replyInternal, n)
	}
	c.reset()
	for _, r := range replies {
		if r.Positive() && b.err != io.EOF {
			// Nobody can have stored what nobody has read.
			c.o.Logger.Error("message was accepted without being read to its end")
			r = replyInternal
		}
		if r.Positive() {
			c.mistakes = 0
		}
		c.answer(r)
	}
}
