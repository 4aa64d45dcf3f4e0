package message

import "strings"

// maxAddresses bounds one address list.
const maxAddresses = 20000

// ParseAddresses reads an address list as it stands in a header field
// (RFC 5322 §3.4 and §4.4): mailboxes and groups, comments, quoted strings,
// obsolete routes. What is broken is kept as well as it can be: text without an
// @ becomes a Mailbox without a Host.
func ParseAddresses(v string) []Address {
	p := addressParser{v: v}
	for len(p.out) < maxAddresses {
		p.v = skipCFWS(p.v)
		if p.v == "" {
			break
		}
		p.item()
	}
	if p.inGroup {
		p.out = append(p.out, Address{Group: true})
	}
	return p.out
}

type addressParser struct {
	v       string
	out     []Address
	inGroup bool
}

// item reads one mailbox, the start or the end of a group, or a separator.
func (p *addressParser) item() {
	switch p.v[0] {
	case ',':
		p.v = p.v[1:]
		return
	case ';':
		p.v = p.v[1:]
		if p.inGroup {
			p.inGroup = false
			p.out = append(p.out, Address{Group: true})
		}
		return
	}
	before := p.v
	phrase, note := p.phrase()
	switch next := first(p.v); {
	case next == '<':
		p.v = p.v[1:]
		a := p.angle()
		a.Name = phrase.display()
		p.skipTo()
		p.out = append(p.out, a)
	case next == ':' && !p.inGroup && !phrase.hasAt() && phrase.display() != "":
		p.v = p.v[1:]
		p.inGroup = true
		p.out = append(p.out, Address{Mailbox: phrase.display(), Group: true})
	default:
		if a, ok := phrase.address(); ok {
			a.Name = note
			p.out = append(p.out, a)
		}
		if len(p.v) == len(before) { // a stray character
			p.v = p.v[1:]
		}
	}
}

// word is an atom, a quoted string, a domain literal or a single special.
type word struct {
	text  string
	kind  byte // 'a', 'q', 'd', or the special itself: '@' '.'
	space bool // white space or a comment stood before it
}

type phrase []word

// phrase reads words up to one of < : , ; or the end, and the text of the last
// comment between them.
func (p *addressParser) phrase() (words phrase, note string) {
	space := false
	for p.v != "" {
		switch c := p.v[0]; {
		case isSpace(c) || c == '\r' || c == '\n':
			p.v = p.v[1:]
			space = true
			continue
		case c == '(':
			note, p.v = comment(p.v)
			space = true
			continue
		case c == '<' || c == ':' || c == ',' || c == ';':
			return words, strings.TrimSpace(note)
		}
		w := p.word()
		w.space = space
		words = append(words, w)
		space = false
	}
	return words, strings.TrimSpace(note)
}

func (p *addressParser) word() word {
	switch c := p.v[0]; c {
	case '"':
		text, rest := quoted(p.v)
		p.v = rest
		return word{text: text, kind: 'q'}
	case '[':
		n := strings.IndexByte(p.v, ']') + 1
		if n == 0 {
			n = len(p.v)
		}
		w := word{text: p.v[:n], kind: 'd'}
		p.v = p.v[n:]
		return w
	case '@', '.':
		p.v = p.v[1:]
		return word{text: string(c), kind: c}
	}
	n := 1
	for n < len(p.v) && !isSpace(p.v[n]) && strings.IndexByte("\r\n()<>[]:;@,.\"", p.v[n]) < 0 {
		n++
	}
	w := word{text: p.v[:n], kind: 'a'}
	p.v = p.v[n:]
	return w
}

// display joins the words as a name: white space becomes one space each.
func (ph phrase) display() string {
	var b strings.Builder
	for i, w := range ph {
		if i > 0 && w.space {
			b.WriteByte(' ')
		}
		b.WriteString(w.text)
	}
	return b.String()
}

func (ph phrase) hasAt() bool {
	for _, w := range ph {
		if w.kind == '@' {
			return true
		}
	}
	return false
}

// address reads words as local@domain: the last @ divides.
func (ph phrase) address() (Address, bool) {
	at := -1
	for i, w := range ph {
		if w.kind == '@' {
			at = i
		}
	}
	if at < 0 {
		name := ph.display()
		return Address{Mailbox: name}, name != ""
	}
	local, host := ph[:at].tight(), ph[at+1:].tight()
	return Address{Mailbox: local, Host: host}, local != "" || host != ""
}

// tight joins words that white space may divide without meaning.
func (ph phrase) tight() string {
	var b strings.Builder
	for i, w := range ph {
		if i > 0 && w.space && w.kind != '.' && ph[i-1].kind != '.' {
			b.WriteByte(' ')
		}
		b.WriteString(w.text)
	}
	return b.String()
}

// angle reads an address up to the >. An obsolete route before it is dropped
// (RFC 5322 §4.4).
func (p *addressParser) angle() Address {
	p.v = skipCFWS(p.v)
	for strings.HasPrefix(p.v, "@") || strings.HasPrefix(p.v, ",") {
		end := strings.IndexAny(p.v, ":>")
		if end < 0 || p.v[end] == '>' {
			break
		}
		p.v = skipCFWS(p.v[end+1:])
	}
	var words phrase
	space := false
	for p.v != "" && p.v[0] != '>' {
		switch c := p.v[0]; {
		case isSpace(c) || c == '\r' || c == '\n':
			p.v = p.v[1:]
			space = true
			continue
		case c == '(':
			_, p.v = comment(p.v)
			space = true
			continue
		}
		w := p.word()
		w.space = space
		words = append(words, w)
		space = false
	}
	if p.v != "" {
		p.v = p.v[1:]
	}
	a, _ := words.address()
	return a
}

// skipTo passes over what follows an angle address, up to a separator.
func (p *addressParser) skipTo() {
	for p.v != "" && p.v[0] != ',' && p.v[0] != ';' {
		switch p.v[0] {
		case '(':
			_, p.v = comment(p.v)
		case '"':
			_, p.v = quoted(p.v)
		default:
			p.v = p.v[1:]
		}
	}
}

func first(v string) byte {
	if v == "" {
		return 0
	}
	return v[0]
}
