package textindex

import (
	"errors"
	"io"

	"switchyard/internal/message"
)

// The bounds of what is kept of one message.
const (
	maxWords = 20_000 // different words; more make the message a Maybe for every needle
	maxText  = 4 << 20
)

// Words longer than a window are cut into overlapping windows: a needle of up
// to overlap bytes lies in one of them whole.
const (
	window  = 96
	overlap = 48
)

// isWord reports whether a byte of folded text belongs to a word.
func isWord(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 0x80
}

// where is which texts of a message have a word.
type where uint8

const (
	inHeader where = 1 << iota
	inBody
)

var errEnough = errors.New("enough words")

// words are the words of one message.
type words struct {
	all  map[string]where
	text int  // bytes looked at
	over bool // not all are there
}

// wordsOf reads a message's words.
func wordsOf(r io.ReaderAt, root *message.Part) (*words, error) {
	w := &words{all: make(map[string]where)}
	buf := make([]byte, 8<<10)
	err := message.EachText(r, root, func(body bool, text io.Reader) error {
		at := inHeader
		if body {
			at = inBody
		}
		kept := 0 // bytes at the start of buf that began a word
		for !w.over {
			n, err := text.Read(buf[kept:])
			w.text += n
			rest := w.cut(buf[:kept+n], at, err != nil)
			kept = copy(buf, rest)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			w.over = w.over || w.text > maxText
		}
		return errEnough
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return w, nil
}

// cut takes the words of a piece of text. A word that the piece ends in is
// returned, for the next piece, unless the text ends there too.
func (w *words) cut(text []byte, at where, last bool) []byte {
	start := -1
	for i, c := range text {
		switch {
		case isWord(c) && start < 0:
			start = i
		case !isWord(c) && start >= 0:
			w.add(text[start:i], at)
			start = -1
		case start >= 0 && i+1-start == window:
			w.add(text[start:i+1], at)
			start = i + 1 - overlap
		}
	}
	if start < 0 {
		return nil
	}
	if last {
		w.add(text[start:], at)
		return nil
	}
	return text[start:]
}

func (w *words) add(word []byte, at where) {
	if had, ok := w.all[string(word)]; ok {
		if had|at != had {
			w.all[string(word)] = had | at
		}
		return
	}
	if len(w.all) == maxWords {
		w.over = true
		return
	}
	w.all[string(word)] = at
}
