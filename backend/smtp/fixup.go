package smtp

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// errLoop: a message has passed so many servers that it must be going round
// (RFC 5321 §6.3).
var errLoop = errors.New("too many Received fields, the message is in a loop")

const maxReceived = 100

// fixUp copies a submitted message and puts right what RFC 6409 §8 lets a
// submission server: a missing Date and a missing Message-ID are added at the
// end of the header, Bcc fields are removed, nothing else is changed. A message
// that begins without a header gets one. Memory is bounded by the reader's
// buffer, whatever the lines are.
func fixUp(w io.Writer, r io.Reader, hostname string, now time.Time) error {
	out := bufio.NewWriterSize(w, 4096)
	f := &fixer{in: bufio.NewReaderSize(r, 4096), out: out}
	if err := f.header(); err != nil {
		return err
	}
	if f.open {
		out.WriteString("\r\n") // by BDAT a message may end within a field
	}
	if !f.date {
		fmt.Fprintf(out, "Date: %s\r\n", now.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	}
	if !f.messageID {
		fmt.Fprintf(out, "Message-ID: <%s@%s>\r\n", strings.ToLower(rand.Text()), hostname)
	}
	out.WriteString("\r\n")
	out.Write(f.first)
	if _, err := io.Copy(out, f.in); err != nil {
		return err
	}
	return out.Flush()
}

// fixer copies a header.
type fixer struct {
	in  *bufio.Reader
	out *bufio.Writer

	date, messageID bool
	received        int
	open            bool   // the line written last has no end
	first           []byte // of the body, when there was no empty line before it
}

// header copies up to the empty line, which it reads and does not write.
func (f *fixer) header() error {
	drop := false // the field in hand is a Bcc
	started := false
	for {
		line, err := f.in.ReadSlice('\n')
		more := err == bufio.ErrBufferFull
		if err != nil && err != io.EOF && !more {
			return err
		}
		text := bytes.TrimRight(line, "\r\n")
		switch {
		case len(text) == 0 && !more:
			return nil // the empty line, or the end
		case started && (line[0] == ' ' || line[0] == '\t'):
		default:
			name, ok := fieldName(line)
			if !ok {
				f.first = bytes.Clone(line) // the body begins without an empty line
				return nil
			}
			started = true
			if drop = f.field(name); f.received > maxReceived {
				return errLoop
			}
		}
		if err := f.copyLine(line, more, drop); err != nil {
			return err
		}
	}
}

// field notes a field's name and reports whether it is to be dropped.
func (f *fixer) field(name string) (drop bool) {
	switch strings.ToLower(name) {
	case "bcc", "resent-bcc":
		return true
	case "date":
		f.date = true
	case "message-id":
		f.messageID = true
	case "received":
		f.received++
	}
	return false
}

// copyLine writes a line of the header, and what of it did not fit the buffer.
func (f *fixer) copyLine(line []byte, more, drop bool) error {
	for {
		if !drop && len(line) > 0 {
			f.out.Write(line)
			f.open = line[len(line)-1] != '\n'
		}
		if !more {
			return nil
		}
		var err error
		line, err = f.in.ReadSlice('\n')
		more = err == bufio.ErrBufferFull
		if err != nil && err != io.EOF && !more {
			return err
		}
	}
}

// fieldName returns the name of the field that a line begins (RFC 5322 §2.2;
// spaces before the colon are the obsolete form).
func fieldName(line []byte) (string, bool) {
	name, _, found := bytes.Cut(line, []byte(":"))
	name = bytes.TrimRight(name, " \t")
	if !found || len(name) == 0 {
		return "", false
	}
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return "", false
		}
	}
	return string(name), true
}
