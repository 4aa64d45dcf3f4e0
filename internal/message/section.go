package message

// Text says which bytes of a part a Section means (RFC 9051 §6.4.5.1).
type Text int

// The kinds of text. Whole is BODY[] or BODY[1.2]; MIME needs a part number.
const (
	Whole  Text = iota
	Header      // the header of the message, or of the message inside the part
	Body        // [TEXT]: the body of the message, or of the message inside the part
	MIME        // the part's own header
)

// Section addresses bytes of a message: part numbers counted from one, and
// what of that part.
type Section struct {
	Path []int
	Text Text
}

// Find returns the part with these numbers. A message that is no multipart has
// one part, number 1, its own body. ok is false when there is no such part.
func (part *Part) Find(path []int) (*Part, bool) {
	p := part
	for i, n := range path {
		if i > 0 && p.encapsulates() {
			if len(p.Parts) == 0 {
				return nil, false
			}
			p = p.Parts[0]
		} else if i > 0 && p.Type != "multipart" {
			return nil, false
		}
		switch {
		case n < 1:
			return nil, false
		case p.Type == "multipart":
			if n > len(p.Parts) {
				return nil, false
			}
			p = p.Parts[n-1]
		case n != 1:
			return nil, false
		}
	}
	return p, true
}

// Span returns the bytes of a section. ok is false when the message has no
// such section.
func (part *Part) Span(s Section) (Span, bool) {
	p, ok := part.Find(s.Path)
	if !ok {
		return Span{}, false
	}
	if len(s.Path) == 0 {
		switch s.Text {
		case Whole:
			return Span{p.HeaderStart, p.End}, true
		case MIME:
			return Span{}, false
		}
	}
	switch s.Text {
	case Whole:
		return Span{p.BodyStart, p.End}, true
	case MIME:
		return Span{p.HeaderStart, p.BodyStart}, true
	}
	m, ok := part.Message(s.Path)
	if !ok {
		return Span{}, false
	}
	if s.Text == Header {
		return Span{m.HeaderStart, m.BodyStart}, true
	}
	return Span{m.BodyStart, m.End}, true
}

// Message returns the message that HEADER, HEADER.FIELDS and TEXT mean: the
// whole one without numbers, else the message inside the part.
func (part *Part) Message(path []int) (*Part, bool) {
	if len(path) == 0 {
		return part, true
	}
	p, ok := part.Find(path)
	if !ok || !p.encapsulates() || len(p.Parts) == 0 {
		return nil, false
	}
	return p.Parts[0], true
}

// IsMessage reports whether the part's body is a message that is described in
// Parts[0].
func (part *Part) IsMessage() bool { return part.encapsulates() && len(part.Parts) == 1 }
