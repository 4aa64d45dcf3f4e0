package pop

import (
	"bytes"
	"io"
)

// dots writes a message as a multi-line response (RFC 1939 §3): lines end in
// CRLF also where the message has a bare LF, a line that begins with a dot gets
// another one, and end writes the final dot.
type dots struct {
	w    io.Writer
	last byte // the byte written last; '\n' at the start
}

func newDots(w io.Writer) *dots { return &dots{w: w, last: '\n'} }

var (
	dot  = []byte{'.'}
	crlf = []byte("\r\n")
)

func (d *dots) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if d.last == '\n' && p[0] == '.' {
			if _, err := d.w.Write(dot); err != nil {
				return 0, err
			}
		}
		line := p
		end := bytes.IndexByte(p, '\n')
		if end >= 0 {
			line = p[:end]
		}
		if len(line) > 0 {
			if _, err := d.w.Write(line); err != nil {
				return 0, err
			}
			d.last = line[len(line)-1]
		}
		if end < 0 {
			break
		}
		eol := crlf
		if d.last == '\r' {
			eol = crlf[1:]
		}
		if _, err := d.w.Write(eol); err != nil {
			return 0, err
		}
		d.last = '\n'
		p = p[end+1:]
	}
	return written, nil
}

// end finishes the last line and the response.
func (d *dots) end() error {
	rest := ".\r\n"
	if d.last != '\n' {
		rest = "\r\n.\r\n"
	}
	_, err := io.WriteString(d.w, rest)
	return err
}

// topReader passes on a message's header, the empty line, and the first lines
// of its body.
type topReader struct {
	r      io.Reader
	lines  int64
	inBody bool
	start  bool // at the start of a line (a lone CR may have come)
	done   bool
}

func newTop(r io.Reader, lines int64) *topReader { return &topReader{r: r, lines: lines, start: true} }

func (t *topReader) Read(p []byte) (int, error) {
	if t.done {
		return 0, io.EOF
	}
	n, err := t.r.Read(p)
	for i := 0; i < n; i++ {
		if c := p[i]; c != '\n' {
			t.start = t.start && c == '\r'
			continue
		}
		switch {
		case t.inBody:
			t.lines--
		case t.start: // an empty line
			t.inBody = true
		}
		t.start = true
		if t.inBody && t.lines <= 0 {
			t.done = true
			return i + 1, nil
		}
	}
	return n, err
}
