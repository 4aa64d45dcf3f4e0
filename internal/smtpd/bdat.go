package smtpd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// chunks reads a message that comes by BDAT (RFC 3030 §2). When a chunk is
// over and was not the last, it answers it and runs the dialogue on to the next
// one, so that the session reads one body.
type chunks struct {
	c     *Conn
	ctx   context.Context // Session.Data's, for the dialogue between the chunks
	size  int64           // of the current chunk
	left  int64           // what is unread of it
	total int64           // announced so far
	last  bool
}

var errBDAT = errors.New("syntax: BDAT size [LAST]")

// parseChunk reads BDAT's argument.
func parseChunk(arg string) (size int64, last bool, err error) {
	words := strings.Fields(arg)
	if len(words) == 2 && strings.EqualFold(words[1], "LAST") {
		last, words = true, words[:1]
	}
	if len(words) != 1 {
		return 0, false, errBDAT
	}
	size, ok, err := parseSize(words[0])
	if err != nil || !ok {
		return 0, false, errBDAT
	}
	return size, last, nil
}

// chunk runs the first BDAT of a message, and those that are out of place.
func (c *Conn) chunk(ctx context.Context, arg string) error {
	if c.o.RequireAuth && !c.authed {
		// What follows would have to be read from anyone.
		c.say(530, "5.7.0", "authentication required, goodbye")
		return ErrChunk
	}
	ch := &chunks{c: c, ctx: ctx}
	if err := ch.announce(arg); err != nil {
		return err
	}
	if !c.open || c.accepted == 0 {
		if err := ch.skip(); err != nil {
			return err
		}
		c.say(503, "5.5.1", "no sender or no recipient was accepted")
		return nil
	}
	b := &body{src: ch, limit: c.o.MaxSize}
	c.wire.SetIdle(c.o.DataTimeout)
	replies := c.session.Data(ctx, b)
	c.wire.SetIdle(c.o.CommandTimeout)
	if b.err == errAbandoned {
		c.reset()
		return nil // the command that did it is run next
	}
	if err := b.verdict(); err != nil {
		return err
	}
	if ch.last {
		c.conclude(b, replies)
	} else {
		c.fail(b, replies)
	}
	return nil
}

// fail answers a chunk that ended the transaction before the last one came. What
// the client has pipelined behind it finds no transaction.
func (c *Conn) fail(b *body, replies []Reply) {
	c.reset()
	r, refused := b.refusal()
	if !refused {
		r = replyInternal
		if len(replies) > 0 && !replies[0].Positive() {
			r = replies[0]
		}
	}
	c.answer(r)
}

// announce takes a BDAT's argument. After an error the connection ends: without
// a size the chunk cannot be told from commands.
func (ch *chunks) announce(arg string) error {
	size, last, err := parseChunk(arg)
	if err != nil {
		ch.c.say(501, "5.5.4", err.Error()+", goodbye")
		return ErrChunk
	}
	if limit := ch.c.o.MaxSize; limit > 0 && size > limit+maxDrain || ch.total+size < ch.total {
		ch.c.say(552, "5.3.4", "chunk is bigger than any message may be, goodbye")
		return ErrChunk
	}
	ch.size, ch.left, ch.last = size, size, last
	ch.total += size
	return nil
}

// Read implements io.Reader.
func (ch *chunks) Read(p []byte) (int, error) {
	if limit := ch.c.o.MaxSize; limit > 0 && ch.total > limit {
		return 0, errOverSize
	}
	for ch.left == 0 {
		if ch.last {
			return 0, io.EOF
		}
		if err := ch.next(); err != nil {
			return 0, err
		}
		if limit := ch.c.o.MaxSize; limit > 0 && ch.total > limit {
			return 0, errOverSize
		}
	}
	if err := ch.flush(1); err != nil {
		return 0, err
	}
	n, err := ch.c.wire.Read(p[:min(int64(len(p)), ch.left)])
	ch.left -= int64(n)
	return n, unexpected(err)
}

// flush sends the answers before a wait for n bytes.
func (ch *chunks) flush(n int64) error {
	if int64(ch.c.wire.Buffered()) >= n {
		return nil
	}
	return ch.c.flush(ch.ctx)
}

// next answers a chunk and waits for the one behind it.
func (ch *chunks) next() error {
	c := ch.c
	c.say(250, "2.0.0", fmt.Sprintf("%d bytes", ch.size))
	for {
		line, err := c.read(ch.ctx)
		if err != nil {
			return unexpected(err)
		}
		verb, arg := cutVerb(line)
		switch verb {
		case "BDAT":
			return ch.announce(arg)
		case "NOOP":
			c.answer(replyOK)
		case "RSET", "QUIT", "EHLO", "HELO", "LHLO":
			c.pending = bytes.Clone(line)
			return errAbandoned
		default:
			if err := c.mistake(503, "5.5.1", "send the next BDAT, or RSET"); err != nil {
				return err
			}
		}
	}
}

// skip reads over the rest of the current chunk.
func (ch *chunks) skip() error {
	if ch.left > maxDrain && ch.c.o.MaxSize == 0 {
		return ErrEndless
	}
	if err := ch.flush(ch.left); err != nil {
		return err
	}
	err := ch.c.wire.Discard(ch.left)
	ch.left = 0
	return unexpected(err)
}
