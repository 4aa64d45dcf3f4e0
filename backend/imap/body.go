package imap

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/message"
)

// copyBuffer is how many bytes of a body are in memory at a time, whatever the
// body's size and the client's speed.
const copyBuffer = 32 << 10

// section answers BODY[…]. A section that the message does not have is NIL.
func (f *fetcher) section(item *syntax.Item, root *message.Part, body backend.Body) error {
	spans, ok, err := f.spans(item, root, body)
	if err != nil {
		return err
	}
	f.out.ItemName(item).Raw(" ")
	if !ok {
		f.out.Raw("NIL")
		return nil
	}
	var total int64
	for _, s := range spans {
		total += s.Len()
	}
	skip, take := clip(item, total)
	f.out.LiteralHeader(take, false)
	to := f.out.Stream()
	for _, s := range spans {
		n := min(max(s.Len()-skip, 0), take)
		if n > 0 {
			if err := f.copy(to, io.NewSectionReader(body, s.Start+skip, n), n, false); err != nil {
				return err
			}
		}
		skip = max(skip-s.Len(), 0)
		take -= n
	}
	return nil
}

// spans finds the bytes that an item stands for.
func (f *fetcher) spans(item *syntax.Item, root *message.Part, body backend.Body) ([]message.Span, bool, error) {
	if item.Fields == nil {
		span, ok := root.Span(item.Section)
		return []message.Span{span}, ok, nil
	}
	part, ok := root.Message(item.Section.Path)
	if !ok {
		return nil, false, nil
	}
	var spans []message.Span
	err := message.ReadFields(body, part, item.Fields, item.Not, func(s message.Span) error {
		if len(spans) == maxSpans {
			return errManySpans
		}
		spans = append(spans, s)
		return nil
	})
	return spans, true, err
}

// maxSpans bounds what is remembered of a header whose wanted fields are
// scattered: no mail has so many, an attack may.
const maxSpans = 20000

var errManySpans = fmt.Errorf("%w: a header with more than %d separate fields", backend.ErrTooMany, maxSpans)

// clip applies <offset.count> to a text of total bytes: how many to skip, and
// how many to send.
func clip(item *syntax.Item, total int64) (skip, take int64) {
	if !item.Partial {
		return 0, total
	}
	skip = min(item.Offset, total)
	return skip, min(item.Count, total-skip)
}

// copy streams n bytes. Once a literal has been announced nothing can be taken
// back: when the store fails here, the connection ends. A plain literal may
// not hold NUL (RFC 9051 §4.3): the client gets 0x80 in its place.
func (f *fetcher) copy(to io.Writer, from io.Reader, n int64, binary bool) error {
	if f.buf == nil {
		f.buf = make([]byte, copyBuffer)
	}
	for n > 0 {
		b := f.buf[:min(n, copyBuffer)]
		if _, err := io.ReadFull(from, b); err != nil {
			return &ending{reason: "message unreadable", err: err}
		}
		if !binary {
			for i := bytes.IndexByte(b, 0); i >= 0; i = bytes.IndexByte(b, 0) {
				b[i] = 0x80
			}
		}
		if _, err := to.Write(b); err != nil {
			return lost(err)
		}
		n -= int64(len(b))
	}
	return nil
}

// binary answers BINARY[…] and BINARY.SIZE[…] (RFC 3516): the part without its
// transfer encoding. It is decoded twice, once for its size, so that no part
// is ever in memory.
func (f *fetcher) binary(item *syntax.Item, root *message.Part, body backend.Body) error {
	part, ok := root.Find(item.Section.Path)
	if !ok {
		f.out.ItemName(item).Raw(map[bool]string{true: " 0", false: " NIL"}[item.Kind == syntax.BinarySize])
		return nil
	}
	open := func() (io.Reader, bool) {
		switch {
		case len(item.Section.Path) == 0:
			return io.NewSectionReader(body, part.HeaderStart, part.End-part.HeaderStart), true
		case len(part.Parts) > 0:
			return io.NewSectionReader(body, part.BodyStart, part.End-part.BodyStart), true
		}
		return message.DecodeBody(body, part)
	}
	r, ok := open()
	if !ok {
		return errUnknownEncoding
	}
	var c counter
	if _, err := io.Copy(&c, r); err != nil {
		return err
	}
	f.out.ItemName(item).Raw(" ")
	if item.Kind == syntax.BinarySize {
		f.out.Num(uint64(c.n))
		return nil
	}
	skip, take := clip(item, c.n)
	f.out.LiteralHeader(take, c.nul)
	to := f.out.Stream()
	r, _ = open()
	if _, err := io.CopyN(io.Discard, r, skip); err != nil {
		return &ending{reason: "message unreadable", err: err}
	}
	return f.copy(to, r, take, c.nul)
}

// errUnknownEncoding: BINARY of a part whose transfer encoding nobody knows.
var errUnknownEncoding = errors.New("unknown transfer encoding")

// counter counts bytes and looks for NUL.
type counter struct {
	n   int64
	nul bool
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	c.nul = c.nul || bytes.IndexByte(p, 0) >= 0
	return len(p), nil
}
