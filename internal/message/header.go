package message

import (
	"bytes"
	"io"
	"slices"
	"strings"
)

// fields are the described fields of one header, in the order of the message:
// names in lower case, values unfolded and trimmed.
type fields []Param

func (f fields) get(name string) (string, bool) { return param(f, name) }

// mimeFields and envelopeFields are the fields that a description keeps.
var (
	mimeFields = []string{"content-type", "content-transfer-encoding", "content-id", "content-description",
		"content-md5", "content-disposition", "content-language", "content-location"}
	envelopeFields = []string{"date", "subject", "from", "sender", "reply-to", "to", "cc", "bcc", "in-reply-to", "message-id", "references"}
)

// header reads a header up to and with the empty line. ended says that there
// is no body, since a boundary or the end of the message came first.
//
// A line without a colon is part of the header, as every server has it: only
// an empty line ends a header, so that no body text is hidden or shown by a
// mistake in the middle.
func (p *parser) header(isMessage bool) (f fields, at edge, ended bool, err error) {
	cur := -1 // index in f of the field that the next folded line goes on
	var value []byte
	finish := func() {
		if cur >= 0 {
			p.kept += len(value)
			f[cur].Value = string(bytes.Trim(value, " \t"))
			value = value[:0]
		}
		cur = -1
	}
	defer finish()
	for {
		nl, lines := p.scan.nl, p.scan.lines
		l, err := p.scan.next()
		if err == io.EOF {
			return f, p.eof(), true, nil
		}
		if err != nil {
			return f, at, false, err
		}
		if m, ok := p.match(l, nl, lines); ok {
			m.end = l.start
			return f, m, true, nil
		}
		if len(l.text) == 0 {
			return f, at, false, nil
		}
		if isSpace(l.text[0]) {
			if cur >= 0 && len(value)+len(l.text) <= maxField {
				value = append(value, l.text...)
			}
			continue
		}
		finish()
		name, rest, found := bytes.Cut(l.text, []byte{':'})
		if found && p.kept < maxKept {
			if wanted, ok := wantedField(bytes.TrimRight(name, " \t"), isMessage); ok {
				cur = len(f)
				f = append(f, Param{Name: wanted})
				value = append(value, rest...)
			}
		}
	}
}

// wantedField returns the name in lower case if a description keeps it.
func wantedField(name []byte, isMessage bool) (string, bool) {
	if len(name) > len("content-transfer-encoding") {
		return "", false
	}
	list := envelopeFields
	if len(name) > 8 && (name[0] == 'C' || name[0] == 'c') && name[7] == '-' {
		list = mimeFields
	} else if !isMessage {
		return "", false
	}
	i := slices.IndexFunc(list, func(s string) bool { return len(s) == len(name) && strings.EqualFold(s, string(name)) })
	if i < 0 {
		return "", false
	}
	return list[i], true
}

// envelope makes the envelope. Of a text field that comes more than once the
// first counts; address fields are joined (RFC 5322 §4.5.3 allows it).
func (f fields) envelope() *Envelope {
	e := &Envelope{}
	e.Date, _ = f.get("date")
	e.Subject, _ = f.get("subject")
	e.InReplyTo, _ = f.get("in-reply-to")
	e.MessageID, _ = f.get("message-id")
	e.References, _ = f.get("references")
	for name, list := range map[string]*[]Address{
		"from": &e.From, "sender": &e.Sender, "reply-to": &e.ReplyTo, "to": &e.To, "cc": &e.Cc, "bcc": &e.Bcc,
	} {
		for _, field := range f {
			if field.Name == name {
				*list = append(*list, ParseAddresses(field.Value)...)
			}
		}
	}
	return e
}

// Span is a run of bytes of a message: from Start up to End.
type Span struct{ Start, End int64 }

// Len returns the number of bytes.
func (s Span) Len() int64 { return s.End - s.Start }

// Field is one field of a header, with everything: its folded lines and line
// ends.
type Field struct {
	Span
	Name string // as it stands; "" for a line without a colon
	Raw  []byte // the bytes, only the first 64 KiB of a longer field; valid until the next field
}

// Value returns the field's value, unfolded and trimmed.
func (f Field) Value() string {
	_, v, found := bytes.Cut(f.Raw, []byte{':'})
	if !found {
		return ""
	}
	return string(bytes.Trim(unfold(v), " \t"))
}

func unfold(v []byte) []byte {
	out := make([]byte, 0, len(v))
	for _, c := range v {
		if c != '\r' && c != '\n' {
			out = append(out, c)
		}
	}
	return out
}

// ReadHeader calls each for every field of the header of part, in order, until
// each returns false, and then once for the empty line if there is one (Name
// is "" and Raw is only the line end). It streams: memory is bounded whatever
// the header's size.
func ReadHeader(r io.ReaderAt, part *Part, each func(Field) bool) error {
	s := newScanner(r, part.HeaderStart, part.BodyStart)
	var f Field
	var raw []byte
	open := false
	for {
		l, err := s.next()
		if err != nil && err != io.EOF {
			return err
		}
		fold := err == nil && open && len(l.text) > 0 && isSpace(l.text[0])
		if open && !fold {
			f.Raw = raw
			if !each(f) {
				return nil
			}
			open = false
		}
		if err == io.EOF {
			return nil
		}
		if !fold {
			f, raw, open = Field{Span: Span{l.start, l.end}}, raw[:0], true
			if name, _, found := bytes.Cut(l.text, []byte{':'}); found {
				f.Name = string(bytes.TrimRight(name, " \t"))
			}
		}
		f.End = l.end
		if room := maxLine - len(raw); room > 0 {
			raw = append(raw, l.text[:min(room, len(l.text))]...)
			raw = append(raw, "\r\n"[2-s.nl:]...)
		}
	}
}

// ReadFields calls each for the bytes that BODY[HEADER.FIELDS (…)] or, with
// not, BODY[HEADER.FIELDS.NOT (…)] stands for (RFC 9051 §6.4.5.1): the fields
// that are named, in the order of the message, and the empty line. Neighbours
// come as one span.
func ReadFields(r io.ReaderAt, part *Part, names []string, not bool, each func(Span) error) error {
	var run Span
	var failed error
	err := ReadHeader(r, part, func(f Field) bool {
		blank := f.Name == "" && len(bytes.TrimRight(f.Raw, "\r\n")) == 0
		listed := slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, f.Name) })
		if !blank && listed == not {
			return true
		}
		if run.End == f.Start && run.Len() > 0 {
			run.End = f.End
			return true
		}
		if run.Len() > 0 {
			failed = each(run)
		}
		run = f.Span
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	if err == nil && run.Len() > 0 {
		err = each(run)
	}
	return err
}
