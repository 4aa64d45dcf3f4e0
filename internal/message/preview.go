package message

import (
	"html"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The bounds of a preview: RFC 8970 §3.3 wants 200 characters; of the text not
// more than previewSource bytes are read.
const (
	previewLen    = 200
	previewSource = 64 << 10
)

// Preview returns the first words of the message that part describes, as one
// line of at most 200 characters (RFC 8970): from its first text part that has
// words, plain text first, else HTML without its markup. Quoted lines of plain
// text and attachments are passed over. "" when there is no text. The errors
// are r's.
func Preview(r io.ReaderAt, part *Part) (string, error) {
	for _, subtype := range []string{"plain", "html"} {
		p := previewer{r: r, subtype: subtype, left: 20}
		if err := p.walk(part); err != nil || p.text != "" {
			return p.text, err
		}
	}
	return "", nil
}

type previewer struct {
	r       io.ReaderAt
	subtype string
	left    int // parts that may still be read
	text    string
}

// walk looks for the first part with words.
func (p *previewer) walk(part *Part) error {
	for _, child := range part.Parts {
		if err := p.walk(child); err != nil || p.text != "" {
			return err
		}
	}
	if len(part.Parts) > 0 || part.Type != "text" || part.Subtype != p.subtype ||
		part.Disposition == "attachment" || p.left == 0 {
		return nil
	}
	p.left--
	text, ok := DecodeText(p.r, part)
	if !ok {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(text, previewSource))
	if err != nil {
		return err
	}
	s := strings.ToValidUTF8(string(b), "\uFFFD")
	if p.subtype == "html" {
		s = plainText(s)
	} else {
		s = ownWords(s)
	}
	p.text = oneLine(s)
	return nil
}

// ownWords leaves out what a plain text quotes, and its signature.
func ownWords(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if strings.TrimRight(line, "\r\n") == "-- " {
			break
		}
		if !strings.HasPrefix(line, ">") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// oneLine joins words with single spaces, up to the length of a preview.
func oneLine(s string) string {
	var b strings.Builder
	n, space := 0, false
	for _, r := range s {
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			space = n > 0
			continue
		case r == '\u200b' || r == '\u200c' || r == '\u200d' || r == '\u00ad' || r == '\ufeff' || r == '\u034f':
			continue // padding that hides what follows in other previews
		}
		if space {
			b.WriteByte(' ')
			n++
			space = false
		}
		if n >= previewLen {
			break
		}
		b.WriteRune(r)
		n++
	}
	return strings.TrimRight(b.String(), " ")
}

// plainText takes the markup out of HTML: tags, comments, and the elements
// whose content is not shown. It is made for previews, not for safety: what it
// returns is text, never markup.
func plainText(s string) string {
	var b strings.Builder
	for s != "" {
		text, behind, found := strings.Cut(s, "<")
		b.WriteString(text)
		if !found {
			break
		}
		if strings.HasPrefix(behind, "!--") {
			_, s, _ = strings.Cut(behind, "-->")
			continue
		}
		if r, _ := utf8.DecodeRuneInString(behind); r != '/' && r != '!' && r != '?' && !unicode.IsLetter(r) {
			b.WriteByte('<') // no tag
			s = behind
			continue
		}
		tag, rest, _ := strings.Cut(behind, ">")
		s = rest
		name := strings.ToLower(firstToken(tag))
		switch name {
		case "b", "i", "u", "em", "strong", "span", "font", "a", "big", "small", "tt", "code", "/":
		default:
			if !strings.HasPrefix(tag, "/") || !inline(tag[1:]) {
				b.WriteByte(' ')
			}
		}
		if name == "style" || name == "script" || name == "head" || name == "title" {
			s = behindEnd(s, name)
		}
	}
	return html.UnescapeString(b.String())
}

func inline(name string) bool {
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "b", "i", "u", "em", "strong", "span", "font", "a", "big", "small", "tt", "code":
		return true
	}
	return false
}

// behindEnd passes over an element whose content is not shown.
func behindEnd(s, name string) string {
	for s != "" {
		_, behind, found := strings.Cut(s, "</")
		if !found {
			return ""
		}
		if rest, ok := cutPrefixFold(behind, name); ok {
			_, s, _ = strings.Cut(rest, ">")
			return s
		}
		s = behind
	}
	return ""
}
