package syntax

import (
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"switchyard/internal/message"
)

// Writer builds responses. What is written is kept until End, the end of a
// response line, and then goes to the connection's buffer at once; nobody
// flushes a line at a time. Errors are the connection's and stay.
type Writer struct {
	UTF8 bool // the client has enabled UTF-8 (RFC 6855, RFC 9051)

	w   io.Writer
	buf []byte
	err error
}

// NewWriter makes a writer onto a buffered connection.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// maxKept is the biggest buffer that a writer keeps for the next line.
const maxKept = 4096

// Err returns the first error of the connection.
func (w *Writer) Err() error { return w.err }

// Raw writes text as it is.
func (w *Writer) Raw(s string) *Writer {
	w.buf = append(w.buf, s...)
	return w
}

// Num writes a number.
func (w *Writer) Num(n uint64) *Writer {
	w.buf = strconv.AppendUint(w.buf, n, 10)
	return w
}

// Bytes writes bytes as they are.
func (w *Writer) Bytes(b []byte) *Writer {
	w.buf = append(w.buf, b...)
	return w
}

// End ends the line.
func (w *Writer) End() {
	w.buf = append(w.buf, "\r\n"...)
	w.push()
}

func (w *Writer) push() {
	if w.err == nil && len(w.buf) > 0 {
		_, w.err = w.w.Write(w.buf)
	}
	if cap(w.buf) > maxKept {
		w.buf = nil
	}
	w.buf = w.buf[:0]
}

// Drop takes back what was written since the last End, and returns it to the
// length it had when Mark returned mark.
func (w *Writer) Drop(mark int) { w.buf = w.buf[:mark] }

// Mark returns the length of the line so far.
func (w *Writer) Mark() int { return len(w.buf) }

// String writes a quoted string, or a literal when it cannot be quoted. NUL,
// which neither may hold, is left out.
func (w *Writer) String(s string) *Writer {
	s = strings.ReplaceAll(s, "\x00", "")
	if !w.quotable(s) {
		return w.Raw("{").Num(uint64(len(s))).Raw("}\r\n").Raw(s)
	}
	w.buf = append(w.buf, '"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			w.buf = append(w.buf, '\\')
		}
		w.buf = append(w.buf, s[i])
	}
	w.buf = append(w.buf, '"')
	return w
}

func (w *Writer) quotable(s string) bool {
	if len(s) > 1000 {
		return false
	}
	ascii := true
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\r' || c == '\n':
			return false
		case c >= 0x80:
			ascii = false
		}
	}
	return ascii || w.UTF8 && utf8.ValidString(s)
}

// NString writes a string, or NIL for none.
func (w *Writer) NString(s string) *Writer {
	if s == "" {
		return w.Raw("NIL")
	}
	return w.String(s)
}

// AString writes an atom where that is possible, else a string.
func (w *Writer) AString(s string) *Writer {
	if s == "" || strings.EqualFold(s, "NIL") {
		return w.String(s)
	}
	for i := 0; i < len(s); i++ {
		if !isAString(s[i]) {
			return w.String(s)
		}
	}
	return w.Raw(s)
}

// Mailbox writes a mailbox name, in modified UTF-7 unless the client has
// enabled UTF-8.
func (w *Writer) Mailbox(name string) *Writer {
	if !w.UTF8 {
		name = EncodeUTF7(name)
	}
	return w.String(name)
}

// FlagList writes a parenthesised list of flags.
func (w *Writer) FlagList(flags []string) *Writer {
	w.buf = append(w.buf, '(')
	for i, f := range flags {
		if i > 0 {
			w.buf = append(w.buf, ' ')
		}
		w.buf = append(w.buf, f...)
	}
	w.buf = append(w.buf, ')')
	return w
}

// DateTime writes a date and time in quotes.
func (w *Writer) DateTime(t time.Time) *Writer {
	w.buf = append(w.buf, '"')
	w.buf = t.AppendFormat(w.buf, dateTimeLayout)
	w.buf = append(w.buf, '"')
	return w
}

// Envelope writes an envelope (RFC 9051 §7.5.2): Sender and Reply-To stand for
// From when the message has none.
func (w *Writer) Envelope(e *message.Envelope) *Writer {
	if e == nil {
		e = &message.Envelope{}
	}
	or := func(list []message.Address) []message.Address {
		if len(list) == 0 {
			return e.From
		}
		return list
	}
	w.Raw("(").NString(e.Date).Raw(" ").NString(e.Subject)
	for _, list := range [][]message.Address{e.From, or(e.Sender), or(e.ReplyTo), e.To, e.Cc, e.Bcc} {
		w.Raw(" ").addresses(list)
	}
	return w.Raw(" ").NString(e.InReplyTo).Raw(" ").NString(e.MessageID).Raw(")")
}

func (w *Writer) addresses(list []message.Address) *Writer {
	if len(list) == 0 {
		return w.Raw("NIL")
	}
	w.Raw("(")
	for _, a := range list {
		switch {
		case a.Group && a.Mailbox == "":
			w.Raw("(NIL NIL NIL NIL)")
		case a.Group:
			w.Raw("(NIL NIL ").String(a.Mailbox).Raw(" NIL)")
		default: // not NIL: that would make a group of it
			w.Raw("(").NString(a.Name).Raw(" NIL ").String(a.Mailbox).Raw(" ").String(a.Host).Raw(")")
		}
	}
	return w.Raw(")")
}

// Structure writes BODYSTRUCTURE, or BODY without the extension data.
func (w *Writer) Structure(p *message.Part, extended bool) *Writer {
	w.Raw("(")
	if p.Type == "multipart" {
		for _, child := range p.Parts {
			w.Structure(child, extended)
		}
		if len(p.Parts) == 0 { // the grammar wants one
			w.Raw(`("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0)`)
		}
		w.Raw(" ").String(p.Subtype)
		if extended {
			w.Raw(" ").params(p.Params).extension(p)
		}
		return w.Raw(")")
	}
	w.String(p.Type).Raw(" ").String(p.Subtype).Raw(" ").params(p.Params).Raw(" ").NString(p.ID).
		Raw(" ").NString(p.Description).Raw(" ").String(p.Encoding).Raw(" ").Num(uint64(p.End - p.BodyStart))
	// RFC 3501 knows no MESSAGE/GLOBAL: only clients that speak UTF-8 get its
	// inside.
	if inner := p.IsMessage() && (p.Subtype == "rfc822" || w.UTF8); inner {
		w.Raw(" ").Envelope(p.Parts[0].Envelope).Raw(" ").Structure(p.Parts[0], extended).Raw(" ").Num(uint64(p.Lines))
	} else if p.Type == "text" {
		w.Raw(" ").Num(uint64(p.Lines))
	}
	if extended {
		w.Raw(" ").NString(p.MD5).extension(p)
	}
	return w.Raw(")")
}

// extension writes disposition, language and location.
func (w *Writer) extension(p *message.Part) {
	if p.Disposition == "" {
		w.Raw(" NIL ")
	} else {
		w.Raw(" (").String(p.Disposition).Raw(" ").params(p.DispParams).Raw(") ")
	}
	switch len(p.Language) {
	case 0:
		w.Raw("NIL")
	case 1:
		w.String(p.Language[0])
	default:
		w.Raw("(")
		for i, l := range p.Language {
			if i > 0 {
				w.Raw(" ")
			}
			w.String(l)
		}
		w.Raw(")")
	}
	w.Raw(" ").NString(p.Location)
}

func (w *Writer) params(params []message.Param) *Writer {
	if len(params) == 0 {
		return w.Raw("NIL")
	}
	w.Raw("(")
	for i, p := range params {
		if i > 0 {
			w.Raw(" ")
		}
		w.String(p.Name).Raw(" ").String(p.Value)
	}
	return w.Raw(")")
}

// ItemName writes how the answer names a BODY or BINARY item.
func (w *Writer) ItemName(item *Item) *Writer {
	if item.Name != "" {
		return w.Raw(item.Name)
	}
	switch item.Kind {
	case Binary:
		w.Raw("BINARY[")
	case BinarySize:
		w.Raw("BINARY.SIZE[")
	default:
		w.Raw("BODY[")
	}
	for i, n := range item.Section.Path {
		if i > 0 {
			w.Raw(".")
		}
		w.Num(uint64(n))
	}
	if item.Section.Text != message.Whole && len(item.Section.Path) > 0 {
		w.Raw(".")
	}
	switch item.Section.Text {
	case message.Header:
		w.Raw("HEADER")
	case message.Body:
		w.Raw("TEXT")
	case message.MIME:
		w.Raw("MIME")
	}
	if item.Fields != nil {
		w.Raw(".FIELDS")
		if item.Not {
			w.Raw(".NOT")
		}
		for i, f := range item.Fields {
			if i == 0 {
				w.Raw(" (")
			} else {
				w.Raw(" ")
			}
			w.AString(f)
		}
		w.Raw(")")
	}
	w.Raw("]")
	if item.Partial {
		w.Raw("<").Num(uint64(item.Offset)).Raw(">")
	}
	return w
}

// LiteralHeader announces a literal of n bytes; the caller writes them, past
// this writer, with Stream.
func (w *Writer) LiteralHeader(n int64, binary bool) *Writer {
	if binary {
		w.Raw("~")
	}
	return w.Raw("{").Num(uint64(n)).Raw("}\r\n")
}

// Stream gives what was written so far to the connection and returns it, for
// a literal's bytes.
func (w *Writer) Stream() io.Writer {
	w.push()
	return w.w
}
