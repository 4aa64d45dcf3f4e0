package message

import (
	"bytes"
	"io"
	"strings"
	"unicode"

	"golang.org/x/text/runes"
	"golang.org/x/text/transform"
	"golang.org/x/text/unicode/norm"
)

// Needle is a text to search for, prepared once. It compares as
// i;unicode-casemap does (RFC 5051): without regard to case, and with
// characters in their decomposed form.
type Needle struct{ folded []byte }

// NewNeedle prepares s, which is UTF-8.
func NewNeedle(s string) Needle { return Needle{[]byte(fold(s))} }

func folding() transform.Transformer {
	return transform.Chain(runes.Map(unicode.ToTitle), norm.NFKD)
}

// Fold returns s, UTF-8, as i;unicode-casemap compares it (RFC 5051): strings
// are equal, and sort, as their folded forms do byte by byte.
func Fold(s string) string { return fold(s) }

func fold(s string) string {
	ascii := true
	for i := 0; i < len(s) && ascii; i++ {
		ascii = s[i] < 0x80
	}
	if ascii {
		return strings.ToUpper(s)
	}
	out, _, err := transform.String(folding(), s)
	if err != nil {
		return strings.ToUpper(s)
	}
	return out
}

// InString reports whether s, UTF-8, contains the needle.
func (n Needle) InString(s string) bool {
	return strings.Contains(fold(s), string(n.folded))
}

// InFolded is InString for a string that Fold has returned.
func (n Needle) InFolded(s string) bool { return strings.Contains(s, string(n.folded)) }

// In reports whether the text that r gives, UTF-8, contains the needle. It
// reads no further than it must.
func (n Needle) In(r io.Reader) (bool, error) {
	if len(n.folded) == 0 {
		return true, nil
	}
	src := &source{r: r}
	folded := transform.NewReader(src, folding())
	keep := len(n.folded) - 1
	window := make([]byte, 0, keep+4<<10)
	for {
		got, err := folded.Read(window[len(window):cap(window)])
		window = window[:len(window)+got]
		if bytes.Contains(window, n.folded) {
			return true, nil
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, src.err // nil when only the text was odd
		}
		if drop := len(window) - keep; drop > 0 {
			window = append(window[:0], window[drop:]...)
		}
	}
}

// InHeader reports whether a field of part's header with that name contains
// the needle; an empty name means any field, with its name. An empty needle
// asks only for the field (RFC 9051 §6.4.4).
func (n Needle) InHeader(r io.ReaderAt, part *Part, name string) (bool, error) {
	found := false
	err := ReadHeader(r, part, func(f Field) bool {
		switch {
		case name == "":
			found = n.InString(f.Name+": "+DecodeHeader(f.Value())) || f.Name == "" && n.InString(DecodeHeader(string(unfold(f.Raw))))
		case strings.EqualFold(f.Name, name):
			found = len(n.folded) == 0 || n.InString(DecodeHeader(f.Value()))
		}
		return !found
	})
	return found, err
}

// InBody reports whether the body of the message contains the needle: in the
// text of its text parts, decoded, and in the headers of its parts and of the
// messages inside it.
func (n Needle) InBody(r io.ReaderAt, part *Part) (bool, error) {
	for _, child := range part.Parts {
		if found, err := n.InHeader(r, child, ""); found || err != nil {
			return found, err
		}
		if found, err := n.InBody(r, child); found || err != nil {
			return found, err
		}
	}
	if len(part.Parts) > 0 || part.Type != "text" && part.Type != "message" {
		return false, nil
	}
	text, ok := DecodeText(r, part)
	if !ok {
		return false, nil
	}
	return n.In(text)
}
