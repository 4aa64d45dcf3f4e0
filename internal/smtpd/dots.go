package smtpd

import (
	"bufio"
	"bytes"
	"io"
)

// dots reads the body that follows DATA: it takes the leading dots away and
// ends at CRLF.CRLF and nowhere else (RFC 5321 §4.5.2). It looks at windows of
// the connection's buffer and not at bytes, and reads nothing behind the end.
type dots struct {
	r    *bufio.Reader
	mid  bool // not at the start of a line: only CRLF ends one
	cr   bool // the last byte was a CR
	done bool
}

// maxDrain bounds what is read over of a message that was refused before its
// end.
const maxDrain = 64 << 20

// Read implements io.Reader. A connection that ends too early is
// io.ErrUnexpectedEOF.
func (d *dots) Read(p []byte) (n int, err error) {
	if d.done {
		return 0, io.EOF
	}
	for n == 0 && len(p) > 0 {
		w, err := d.window()
		if err != nil {
			return 0, unexpected(err)
		}
		if !d.mid && w[0] == '.' {
			// Behind a dot at the start of a line at least CRLF must follow.
			if w, err = d.r.Peek(3); err != nil {
				return 0, unexpected(err)
			}
			if w[1] == '\r' && w[2] == '\n' {
				d.done = true
				d.r.Discard(3)
				return 0, io.EOF
			}
			d.r.Discard(1)
			d.mid, d.cr = true, false
			continue
		}
		n = d.take(p, w)
	}
	return n, nil
}

// window returns what is in the buffer, at least a byte.
func (d *dots) window() ([]byte, error) {
	if d.r.Buffered() == 0 {
		if _, err := d.r.Peek(1); err != nil {
			return nil, err
		}
	}
	return d.r.Peek(d.r.Buffered())
}

var lfDot = []byte("\n.")

// take copies from w up to a dot that may be the first of a line, which Read
// looks at, or to the end of w or p.
func (d *dots) take(p, w []byte) int {
	n := 0
	for n < len(p) && len(w) > 0 {
		segment := w
		if k := bytes.Index(w, lfDot); k >= 0 {
			segment = w[:k+1]
		}
		m := copy(p[n:], segment)
		n += m
		d.r.Discard(m)
		last := w[m-1]
		before := d.cr
		if m > 1 {
			before = w[m-2] == '\r'
		}
		d.mid, d.cr = last != '\n' || !before, last == '\r'
		if w = w[m:]; !d.mid && len(w) > 0 && w[0] == '.' {
			break
		}
	}
	return n
}

// skip reads over the rest.
func (d *dots) skip() error {
	if d.done {
		return nil
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(d, maxDrain)); err != nil {
		return err
	}
	if !d.done {
		return ErrEndless
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// lineEnds checks that CR and LF come in pairs only (RFC 5321 §2.3.8). A
// message that another server would divide into lines differently is how mail is
// smuggled.
type lineEnds struct{ cr bool }

// check looks at the next bytes. A CR at their end is judged with the next.
func (l *lineEnds) check(p []byte) bool {
	for len(p) > 0 {
		if l.cr {
			if p[0] != '\n' {
				return false
			}
			l.cr = false
			p = p[1:]
			continue
		}
		lf := bytes.IndexByte(p, '\n')
		line := p
		if lf >= 0 {
			line = p[:lf]
		}
		cr := bytes.IndexByte(line, '\r')
		switch {
		case cr >= 0 && cr != len(line)-1, cr < 0 && lf >= 0:
			return false
		case lf < 0:
			l.cr = cr >= 0
			return true
		}
		p = p[lf+1:]
	}
	return true
}
