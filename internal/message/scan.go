package message

import (
	"bufio"
	"bytes"
	"io"
)

// maxLine is the longest line that is looked at as a whole: of a longer one
// only the start is parsed. It is the buffer of a parse, too.
const maxLine = 64 << 10

// line is one line of a message.
type line struct {
	text  []byte // without its end; only the start of a line longer than maxLine; valid until the next line
	start int64
	end   int64 // the start of the next line
}

// scanner reads a message line by line. Lines end in LF or CRLF, each as it
// comes; the last one may have no end at all.
type scanner struct {
	r     *bufio.Reader
	pos   int64 // start of the next line
	lines int64 // line feeds before pos
	nl    int   // length of the line end before pos: 0, 1 or 2
}

func newScanner(r io.ReaderAt, start, end int64) *scanner {
	size := min(max(end-start, 16), maxLine)
	return &scanner{r: bufio.NewReaderSize(io.NewSectionReader(r, start, end-start), int(size)), pos: start}
}

// next reads a line; io.EOF when there is none.
func (s *scanner) next() (line, error) {
	text, err := s.r.ReadSlice('\n')
	l := line{start: s.pos}
	s.pos += int64(len(text))
	if err == bufio.ErrBufferFull {
		return s.long(l, bytes.Clone(text))
	}
	if err == io.EOF && len(text) > 0 {
		err = nil
	}
	s.nl = newlineLen(text)
	if s.nl > 0 {
		s.lines++
	}
	l.text, l.end = text[:len(text)-s.nl], s.pos
	return l, err
}

// long passes over the rest of a line that is longer than the buffer.
func (s *scanner) long(l line, start []byte) (line, error) {
	last := start[len(start)-1]
	for {
		more, err := s.r.ReadSlice('\n')
		s.pos += int64(len(more))
		if err == bufio.ErrBufferFull {
			last = more[len(more)-1]
			continue
		}
		if err != nil && err != io.EOF {
			return l, err
		}
		s.nl = newlineLen(more)
		if s.nl > 0 {
			s.lines++
		}
		if len(more) == 1 && s.nl == 1 && last == '\r' {
			s.nl = 2
		}
		l.text, l.end = start, s.pos
		return l, nil
	}
}

// rest reads everything to the end, for bodies in which no line matters.
func (s *scanner) rest() error {
	var last, before byte
	n := 0
	for {
		_, err := s.r.Peek(1)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		block, err := s.r.Peek(s.r.Buffered())
		if err != nil {
			return err
		}
		s.lines += int64(bytes.Count(block, []byte{'\n'}))
		s.pos += int64(len(block))
		n += len(block)
		if len(block) > 1 {
			before = block[len(block)-2]
		} else {
			before = last
		}
		last = block[len(block)-1]
		if _, err := s.r.Discard(len(block)); err != nil {
			return err
		}
	}
	switch {
	case n == 0:
	case last != '\n':
		s.nl = 0
	case n > 1 && before == '\r':
		s.nl = 2
	default:
		s.nl = 1
	}
	return nil
}

func newlineLen(text []byte) int {
	switch n := len(text); {
	case n == 0 || text[n-1] != '\n':
		return 0
	case n > 1 && text[n-2] == '\r':
		return 2
	default:
		return 1
	}
}
