package textindex

import (
	"bytes"

	"switchyard/internal/message"
)

// needle is a text to look for, cut into pieces that lie in words.
type needle struct {
	pieces []piece
	exact  bool // the one piece is all of it
}

// piece is a part of the needle and how it lies in a word.
type piece struct {
	text       []byte
	begin, end bool // it begins the word, it ends it
}

// newNeedle cuts a needle. Without a piece it says nothing: every message may
// have it.
func newNeedle(text string) needle {
	folded := []byte(message.Fold(text))
	var n needle
	for i := 0; i < len(folded); {
		if !isWord(folded[i]) {
			i++
			continue
		}
		start := i
		for i < len(folded) && isWord(folded[i]) {
			i++
		}
		p := piece{text: folded[start:i], begin: start > 0, end: i < len(folded)}
		n.exact = start == 0 && i == len(folded) && len(p.text) <= overlap
		if len(p.text) > overlap {
			// No window of a long word need have all of it.
			p = piece{text: p.text[:overlap]}
		}
		n.pieces = append(n.pieces, p)
	}
	return n
}

// lies reports whether the piece lies in a word, found at a place in it, as it
// must. What is as long as a window's overlap may be a window, the middle of a
// word: its edges say nothing.
func (p *piece) lies(word []byte, at int) bool {
	if len(word) >= overlap {
		return true
	}
	if p.begin && at != 0 {
		return false
	}
	return !p.end || at+len(p.text) == len(word)
}

// in reports whether the piece lies in a word.
func (p *piece) in(word []byte, at int) bool {
	for {
		if p.lies(word, at) {
			return true
		}
		next := bytes.Index(word[at+1:], p.text)
		if next < 0 {
			return false
		}
		at += 1 + next
	}
}
