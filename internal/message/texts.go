package message

import (
	"io"
	"strings"

	"golang.org/x/text/transform"
)

// EachText gives everything that Needle looks at in a message, folded, text by
// text: each field of the header with its name, and then, with body true, what
// InBody reads: the headers of parts and of messages inside, and the text parts,
// decoded. A needle is in the header or in the body exactly if one of these
// texts contains it. A text is to be read before each returns; what is left is
// passed over. An error of each, or of r, ends it.
func EachText(r io.ReaderAt, root *Part, each func(body bool, folded io.Reader) error) error {
	if err := eachField(r, root, false, each); err != nil {
		return err
	}
	return eachBodyText(r, root, each)
}

func eachField(r io.ReaderAt, part *Part, body bool, each func(bool, io.Reader) error) error {
	var failed error
	err := ReadHeader(r, part, func(f Field) bool {
		text := f.Name + ": " + DecodeHeader(f.Value())
		if f.Name == "" {
			text = DecodeHeader(string(unfold(f.Raw)))
		}
		failed = each(body, strings.NewReader(fold(text)))
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

func eachBodyText(r io.ReaderAt, part *Part, each func(bool, io.Reader) error) error {
	for _, child := range part.Parts {
		if err := eachField(r, child, true, each); err != nil {
			return err
		}
		if err := eachBodyText(r, child, each); err != nil {
			return err
		}
	}
	if len(part.Parts) > 0 || part.Type != "text" && part.Type != "message" {
		return nil
	}
	text, ok := DecodeText(r, part)
	if !ok {
		return nil
	}
	src := &source{r: text}
	return each(true, &lenient{src: src, r: transform.NewReader(src, folding())})
}
