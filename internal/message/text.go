package message

import (
	"encoding/base64"
	"io"
	"mime"
	"mime/quotedprintable"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/transform"
)

// DecodeHeader turns a header field's value into readable UTF-8: encoded words
// (RFC 2047) are decoded, and bytes that are not UTF-8 are taken for
// Windows-1252, as mail that carries them mostly is. What cannot be decoded
// stays as it is.
func DecodeHeader(value string) string {
	if !utf8.ValidString(value) {
		if s, err := charmap.Windows1252.NewDecoder().String(value); err == nil {
			value = s
		}
	}
	if !strings.Contains(value, "=?") {
		return value
	}
	d := mime.WordDecoder{CharsetReader: func(name string, r io.Reader) (io.Reader, error) {
		enc := charset(name)
		if enc == nil {
			enc = charmap.Windows1252
		}
		return enc.NewDecoder().Reader(r), nil
	}}
	out, err := d.DecodeHeader(value)
	if err != nil {
		return value
	}
	return out
}

// charset finds an encoding by any of its names; nil when it is unknown.
func charset(name string) encoding.Encoding {
	name = strings.TrimSpace(name)
	if enc, err := htmlindex.Get(name); err == nil {
		return enc
	}
	if enc, err := ianaindex.MIME.Encoding(name); err == nil {
		return enc
	}
	return nil
}

// DecodeBody returns the body of a part that holds no parts itself with its
// transfer encoding undone. A damaged encoding ends the body where the damage
// begins. ok is false when the encoding is unknown. Errors of r pass through.
func DecodeBody(r io.ReaderAt, part *Part) (body io.Reader, ok bool) {
	raw := io.NewSectionReader(r, part.BodyStart, part.End-part.BodyStart)
	switch part.Encoding {
	case "7bit", "8bit", "binary":
		return raw, true
	case "base64":
		src := &source{r: raw}
		return &lenient{src: src, r: base64.NewDecoder(base64.RawStdEncoding, &alphabet{r: src})}, true
	case "quoted-printable":
		src := &source{r: raw}
		return &lenient{src: src, r: quotedprintable.NewReader(src)}, true
	default:
		return nil, false
	}
}

// DecodeText is DecodeBody with the part's charset turned into UTF-8.
func DecodeText(r io.ReaderAt, part *Part) (text io.Reader, ok bool) {
	body, ok := DecodeBody(r, part)
	if !ok {
		return nil, false
	}
	name := paramJoined(part.Params, "charset")
	switch strings.ToLower(name) {
	case "", "us-ascii", "utf-8":
		return body, true
	}
	enc := charset(name)
	if enc == nil {
		return body, true
	}
	return transform.NewReader(body, enc.NewDecoder()), true
}

// source remembers the store's own error, so that it is not taken for a
// damaged encoding.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// lenient ends a decoded body where a decoder gives up.
type lenient struct {
	src *source
	r   io.Reader
}

func (l *lenient) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if err != nil && err != io.EOF {
		err = io.EOF
		if l.src.err != nil {
			err = l.src.err
		}
	}
	return n, err
}

// alphabet lets only base64's letters through, up to the padding.
type alphabet struct {
	r    io.Reader
	done bool
}

func (a *alphabet) Read(p []byte) (int, error) {
	for !a.done {
		n, err := a.r.Read(p)
		kept := 0
		for _, c := range p[:n] {
			if c == '=' {
				a.done = true
				break
			}
			if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' {
				p[kept] = c
				kept++
			}
		}
		if kept > 0 || err != nil {
			return kept, err
		}
	}
	return 0, io.EOF
}
