package syntax

import (
	"strings"

	"switchyard/internal/message"
)

// The bounds of one FETCH.
const (
	maxItems  = 200
	maxFields = 500
	maxPath   = 200
)

// ItemKind is what a FETCH item asks for.
type ItemKind int

// The items (RFC 9051 §6.4.5, RFC 7162, RFC 8474, RFC 8514,
// RFC 8970). RFC822 and its
// kin are Body items with a Name of their own.
const (
	Envelope ItemKind = iota
	Flags
	InternalDate
	Size
	UID
	Structure // BODYSTRUCTURE
	BasicBody // BODY: without the extension data
	Body      // BODY[…]
	Binary
	BinarySize
	FetchModSeq
	FetchEmailID
	FetchThreadID
	SaveDate
	Preview
)

// Item is one thing that FETCH asks for.
type Item struct {
	Kind    ItemKind
	Name    string // how the answer names it, when it is not made from the section
	Peek    bool   // does not set \Seen
	Section message.Section
	Fields  []string // HEADER.FIELDS: the names; nil means the whole header
	Not     bool     // HEADER.FIELDS.NOT
	Partial bool
	Offset  int64
	Count   int64
}

// Marks reports whether fetching the item sets \Seen.
func (i *Item) Marks() bool { return (i.Kind == Body || i.Kind == Binary) && !i.Peek }

// Fetch is a FETCH command behind its set.
type Fetch struct {
	Items        []Item
	ChangedSince int64 // when Changed
	Changed      bool
	Vanished     bool    // only together with Changed
	Partial      Partial // zero: not asked for
}

// FetchItems reads the arguments of FETCH behind the set and a space.
func (l *Lexer) FetchItems() (Fetch, error) {
	var f Fetch
	add := func() error {
		if len(f.Items) == maxItems {
			return Errorf("more than %d FETCH items", maxItems)
		}
		item, err := l.item()
		f.Items = append(f.Items, item)
		return err
	}
	var err error
	if l.Peek() == '(' {
		err = l.List(false, add)
	} else if macro := l.macro(); macro != nil {
		for _, kind := range macro {
			f.Items = append(f.Items, Item{Kind: kind})
		}
	} else {
		err = add()
	}
	if err == nil && l.Is(' ') {
		err = l.List(false, func() error { return l.fetchModifier(&f) })
	}
	if err == nil && f.Vanished && !f.Changed { // RFC 7162 §3.2.6
		err = Errorf("VANISHED needs CHANGEDSINCE")
	}
	if err != nil {
		return Fetch{}, err
	}
	return f, l.End()
}

// fetchModifier reads CHANGEDSINCE, VANISHED (RFC 7162 §3.1.4.1 and §3.2.6)
// or PARTIAL (RFC 9394 §3.3).
func (l *Lexer) fetchModifier(f *Fetch) error {
	word, err := l.Word()
	if err != nil {
		return err
	}
	switch word {
	case "VANISHED":
		f.Vanished = true
		return nil
	case "CHANGEDSINCE":
		if err := l.SP(); err != nil {
			return err
		}
		f.Changed = true
		f.ChangedSince, err = l.Number64()
		return err
	case "PARTIAL":
		if err := l.SP(); err != nil {
			return err
		}
		f.Partial, err = l.Partial()
		return err
	default:
		return Errorf("an unknown FETCH modifier")
	}
}

// macro takes ALL, FAST or FULL.
func (l *Lexer) macro() []ItemKind {
	for name, kinds := range map[string][]ItemKind{
		"ALL":  {Flags, InternalDate, Size, Envelope},
		"FAST": {Flags, InternalDate, Size},
		"FULL": {Flags, InternalDate, Size, Envelope, BasicBody},
	} {
		n := len(name)
		if len(l.rest) >= n && strings.EqualFold(string(l.rest[:n]), name) && (len(l.rest) == n || l.rest[n] == ' ') {
			l.rest = l.rest[n:]
			return kinds
		}
	}
	return nil
}

func isItemChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.'
}

// item reads one item.
func (l *Lexer) item() (Item, error) {
	name := strings.ToUpper(l.take(isItemChar))
	section := l.Peek() == '['
	switch {
	case section && (name == "BODY" || name == "BODY.PEEK"):
		return l.body(Item{Kind: Body, Peek: name == "BODY.PEEK"})
	case section && (name == "BINARY" || name == "BINARY.PEEK"):
		return l.body(Item{Kind: Binary, Peek: name == "BINARY.PEEK"})
	case section && name == "BINARY.SIZE":
		return l.body(Item{Kind: BinarySize})
	}
	item, ok := map[string]Item{
		"ENVELOPE": {Kind: Envelope}, "FLAGS": {Kind: Flags}, "INTERNALDATE": {Kind: InternalDate},
		"RFC822.SIZE": {Kind: Size}, "UID": {Kind: UID}, "BODYSTRUCTURE": {Kind: Structure}, "BODY": {Kind: BasicBody},
		"MODSEQ": {Kind: FetchModSeq}, "EMAILID": {Kind: FetchEmailID}, "THREADID": {Kind: FetchThreadID}, "SAVEDATE": {Kind: SaveDate},
		"PREVIEW":       {Kind: Preview},
		"RFC822":        {Kind: Body, Name: "RFC822"},
		"RFC822.HEADER": {Kind: Body, Name: "RFC822.HEADER", Peek: true, Section: message.Section{Text: message.Header}},
		"RFC822.TEXT":   {Kind: Body, Name: "RFC822.TEXT", Section: message.Section{Text: message.Body}},
	}[name]
	if !ok || section {
		return Item{}, Errorf("an unknown FETCH item")
	}
	if item.Kind == Preview {
		return item, l.previewModifiers()
	}
	return item, nil
}

// previewModifiers reads " (LAZY)" behind PREVIEW, if it is there. A preview
// is made at once, so that LAZY (RFC 8970 §4.1) changes nothing. In a FETCH of
// one item without parentheses a list is FETCH's modifiers, unless it begins
// with LAZY.
func (l *Lexer) previewModifiers() error {
	const lazy = " (LAZY"
	if len(l.rest) < len(lazy) || !strings.EqualFold(string(l.rest[:len(lazy)]), lazy) {
		return nil
	}
	l.rest = l.rest[1:]
	return l.List(false, func() error {
		if word, err := l.Word(); err != nil || word != "LAZY" {
			return Errorf("an unknown PREVIEW modifier")
		}
		return nil
	})
}

// body reads [section]<partial>.
func (l *Lexer) body(item Item) (Item, error) {
	if err := l.Want('['); err != nil {
		return item, err
	}
	if err := l.section(&item); err != nil {
		return item, err
	}
	if err := l.Want(']'); err != nil {
		return item, err
	}
	if item.Kind == BinarySize || !l.Is('<') {
		return item, nil
	}
	var err error
	item.Partial = true
	if item.Offset, err = l.Number64(); err != nil {
		return item, err
	}
	if err := l.Want('.'); err != nil {
		return item, err
	}
	if item.Count, err = l.Number64(); err != nil {
		return item, err
	}
	if item.Count == 0 {
		return item, Errorf("a partial FETCH of no bytes")
	}
	return item, l.Want('>')
}

func (l *Lexer) section(item *Item) error {
	for c := l.Peek(); c >= '0' && c <= '9'; c = l.Peek() {
		n, err := l.Number()
		if err != nil || n == 0 || n > 1<<30 || len(item.Section.Path) == maxPath {
			return Errorf("a part number is malformed")
		}
		item.Section.Path = append(item.Section.Path, int(n))
		if !l.Is('.') {
			return nil
		}
	}
	name := strings.ToUpper(l.take(isItemChar))
	if name == "" {
		if len(item.Section.Path) > 0 {
			return Errorf("a section ends in a dot")
		}
		return nil
	}
	if item.Kind != Body {
		return Errorf("BINARY takes part numbers only")
	}
	switch name {
	case "HEADER":
		item.Section.Text = message.Header
	case "TEXT":
		item.Section.Text = message.Body
	case "MIME":
		if len(item.Section.Path) == 0 {
			return Errorf("MIME needs a part number")
		}
		item.Section.Text = message.MIME
	case "HEADER.FIELDS", "HEADER.FIELDS.NOT":
		item.Section.Text = message.Header
		item.Not = name == "HEADER.FIELDS.NOT"
		return l.fields(item)
	default:
		return Errorf("an unknown section")
	}
	return nil
}

func (l *Lexer) fields(item *Item) error {
	if err := l.SP(); err != nil {
		return err
	}
	return l.List(false, func() error {
		if len(item.Fields) == maxFields {
			return Errorf("more than %d header fields", maxFields)
		}
		name, err := l.AString()
		item.Fields = append(item.Fields, name)
		return err
	})
}
