package syntax

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The bounds of a search program: beyond them it is a mistake or an attack.
const (
	maxSearchDepth = 50
	maxSearchKeys  = 2000
	maxSearchTexts = 100 // keys that read messages
)

// Op is what a search key asks.
type Op int

// The search keys (RFC 9051 §6.4.4, RFC 5032, RFC 7162 §3.1.5, RFC 8474 §5.3,
// RFC 8514 §4.3). Those for flags are HasFlag, alone or under Not.
const (
	All        Op = iota
	And           // all of Keys
	Or            // one of Keys, which are two
	Not           // not Keys[0]
	InSet         // message numbers in Set
	InUIDs        // UIDs in Set
	HasFlag       // Text is the flag
	IsRecent      // carries \Recent
	Larger        // more than Number bytes
	Smaller       // fewer than Number bytes
	Before        // internal date before Date
	On            // internal date on Date
	Since         // internal date on Date or later
	SentBefore    // the Date field, likewise
	SentOn
	SentSince
	SavedBefore // the date of arrival in the mailbox, likewise
	SavedOn
	SavedSince
	SaveDateSupported
	Younger  // internal date within Number seconds
	Older    // internal date not within Number seconds
	InHeader // header field Field contains Text
	InBody   // the body contains Text
	InText   // header or body contains Text
	ModSeq   // mod-sequence is Number or higher
	EmailID  // the object id is Text
	ThreadID // the thread's id is Text
)

// Key is one search key.
type Key struct {
	Op    Op
	Keys  []Key
	Set   Set
	Text  string
	Field string

	// Envelope says that a header key is one of BCC, CC, FROM, SUBJECT and TO,
	// which ask for the envelope and not for the header's text.
	Envelope bool

	Number int64
	Date   time.Time
}

// Search is a SEARCH command.
type Search struct {
	Extended bool // RETURN was there: the answer is ESEARCH
	Min      bool
	Max      bool
	All      bool
	Count    bool
	Save     bool
	Partial  Partial // zero: not asked for (RFC 9394)

	Charset string // in upper case; "" when not given
	ModSeq  bool   // a MODSEQ key was used: the answer carries the highest
	Numbers bool   // a key has message numbers
	Key     Key    // an And
}

// Search reads the arguments of SEARCH.
func (l *Lexer) Search() (Search, error) {
	p := searchParser{Lexer: l}
	if err := p.SP(); err != nil {
		return Search{}, err
	}
	if err := p.returns(); err != nil {
		return Search{}, err
	}
	if p.keyword("CHARSET") {
		if err := p.SP(); err != nil {
			return Search{}, err
		}
		if err := p.charset(); err != nil {
			return Search{}, err
		}
	}
	return p.program()
}

// program reads the keys, up to the end of the command.
func (p *searchParser) program() (Search, error) {
	p.s.Key.Op = And
	for {
		k, err := p.key(0)
		if err != nil {
			return Search{}, err
		}
		p.s.Key.Keys = append(p.s.Key.Keys, k)
		if !p.Is(' ') {
			break
		}
	}
	if err := p.End(); err != nil {
		return Search{}, err
	}
	if known := p.s.KnownCharset(); known && p.odd {
		return Search{}, Errorf("a search string is not in the charset")
	}
	return p.s, nil
}

// KnownCharset reports whether the search's strings are UTF-8.
func (s *Search) KnownCharset() bool {
	return s.Charset == "" || s.Charset == "UTF-8" || s.Charset == "US-ASCII"
}

type searchParser struct {
	*Lexer
	s     Search
	keys  int
	texts int
	odd   bool // a string is not UTF-8
}

// returns reads RETURN (…) and a space, when they are there.
func (p *searchParser) returns() error {
	if !p.keyword("RETURN") {
		return nil
	}
	if err := p.SP(); err != nil {
		return err
	}
	if err := p.List(true, p.option); err != nil {
		return err
	}
	p.s.Extended = true
	if p.s.Partial.First != 0 && p.s.All { // RFC 9394 §3.1
		return Errorf("PARTIAL and ALL exclude each other")
	}
	if !p.s.Min && !p.s.Max && !p.s.Count && !p.s.Save && p.s.Partial.First == 0 {
		p.s.All = true // RFC 4731 §3.1: () means ALL
	}
	return p.SP()
}

// charset reads a charset's name and a space.
func (p *searchParser) charset() error {
	name, err := p.AString()
	if err != nil {
		return err
	}
	p.s.Charset = strings.ToUpper(name)
	return p.SP()
}

func (p *searchParser) option() error {
	word, err := p.Word()
	if err != nil {
		return err
	}
	switch word {
	case "MIN":
		p.s.Min = true
	case "MAX":
		p.s.Max = true
	case "ALL":
		p.s.All = true
	case "COUNT":
		p.s.Count = true
	case "SAVE":
		p.s.Save = true
	case "PARTIAL":
		if p.s.Partial.First != 0 {
			return Errorf("more than one PARTIAL")
		}
		if err := p.SP(); err != nil {
			return err
		}
		p.s.Partial, err = p.Lexer.Partial()
		return err
	default:
		return Errorf("an unknown SEARCH return option")
	}
	return nil
}

// keyword takes a word if it is the next, followed by a space.
func (l *Lexer) keyword(word string) bool {
	n := len(word)
	if len(l.rest) > n && l.rest[n] == ' ' && strings.EqualFold(string(l.rest[:n]), word) {
		l.rest = l.rest[n:]
		return true
	}
	return false
}

// key reads one search key.
func (p *searchParser) key(depth int) (Key, error) {
	if depth > maxSearchDepth {
		return Key{}, Errorf("search keys are nested more than %d deep", maxSearchDepth)
	}
	if p.keys++; p.keys > maxSearchKeys {
		return Key{}, Errorf("more than %d search keys", maxSearchKeys)
	}
	switch c := p.Peek(); {
	case c == '(':
		k := Key{Op: And}
		err := p.List(false, func() error {
			child, err := p.key(depth + 1)
			k.Keys = append(k.Keys, child)
			return err
		})
		return k, err
	case c >= '0' && c <= '9', c == '*', c == '$':
		set, err := p.Set()
		p.s.Numbers = p.s.Numbers || !set.Saved
		return Key{Op: InSet, Set: set}, err
	}
	word, err := p.Word()
	if err != nil {
		return Key{}, Errorf("a search key is missing")
	}
	if k, ok := plainKeys[word]; ok {
		return k, nil
	}
	if !takesArgument(word) {
		return Key{}, Errorf("an unknown search key")
	}
	if err := p.SP(); err != nil {
		return Key{}, err
	}
	return p.argument(word, depth)
}

func flagKey(flag string) Key { return Key{Op: HasFlag, Text: flag} }
func not(k Key) Key           { return Key{Op: Not, Keys: []Key{k}} }

// plainKeys have no argument.
var plainKeys = map[string]Key{
	"ALL":               {Op: All},
	"ANSWERED":          flagKey(`\Answered`),
	"DELETED":           flagKey(`\Deleted`),
	"DRAFT":             flagKey(`\Draft`),
	"FLAGGED":           flagKey(`\Flagged`),
	"SEEN":              flagKey(`\Seen`),
	"UNANSWERED":        not(flagKey(`\Answered`)),
	"UNDELETED":         not(flagKey(`\Deleted`)),
	"UNDRAFT":           not(flagKey(`\Draft`)),
	"UNFLAGGED":         not(flagKey(`\Flagged`)),
	"UNSEEN":            not(flagKey(`\Seen`)),
	"RECENT":            {Op: IsRecent},
	"OLD":               not(Key{Op: IsRecent}),
	"NEW":               {Op: And, Keys: []Key{{Op: IsRecent}, not(flagKey(`\Seen`))}},
	"SAVEDATESUPPORTED": {Op: SaveDateSupported},
}

// argument reads what follows a key's name.
func (p *searchParser) argument(name string, depth int) (Key, error) {
	if op, ok := dateKeys[name]; ok {
		d, err := p.Date()
		return Key{Op: op, Date: d}, err
	}
	if op, ok := numberKeys[name]; ok {
		n, err := p.Number64()
		if err == nil && n == 0 && (op == Younger || op == Older) {
			err = Errorf("an interval of nothing")
		}
		return Key{Op: op, Number: n}, err
	}
	switch name {
	case "BCC", "CC", "FROM", "SUBJECT", "TO":
		return p.text(Key{Op: InHeader, Field: name, Envelope: true})
	case "BODY":
		return p.text(Key{Op: InBody})
	case "TEXT":
		return p.text(Key{Op: InText})
	case "EMAILID":
		return p.text(Key{Op: EmailID})
	case "THREADID":
		return p.text(Key{Op: ThreadID})
	case "HEADER":
		return p.header()
	case "KEYWORD":
		flag, err := p.Flag()
		return flagKey(flag), err
	case "UNKEYWORD":
		flag, err := p.Flag()
		return not(flagKey(flag)), err
	case "UID":
		set, err := p.Set()
		return Key{Op: InUIDs, Set: set}, err
	case "NOT":
		k, err := p.key(depth + 1)
		return not(k), err
	case "OR":
		return p.or(depth)
	default:
		return p.modSeq()
	}
}

// The keys whose argument is a date or a number, and the others that have one.
var (
	dateKeys = map[string]Op{
		"BEFORE": Before, "ON": On, "SINCE": Since,
		"SENTBEFORE": SentBefore, "SENTON": SentOn, "SENTSINCE": SentSince,
		"SAVEDBEFORE": SavedBefore, "SAVEDON": SavedOn, "SAVEDSINCE": SavedSince,
	}
	numberKeys   = map[string]Op{"LARGER": Larger, "SMALLER": Smaller, "YOUNGER": Younger, "OLDER": Older}
	argumentKeys = []string{"BCC", "CC", "FROM", "SUBJECT", "TO", "BODY", "TEXT", "EMAILID", "THREADID", "HEADER",
		"KEYWORD", "UNKEYWORD", "UID", "NOT", "OR", "MODSEQ"}
)

func takesArgument(name string) bool {
	_, date := dateKeys[name]
	_, number := numberKeys[name]
	return date || number || slices.Contains(argumentKeys, name)
}

// text reads a string to search for.
func (p *searchParser) text(k Key) (Key, error) {
	if p.texts++; p.texts > maxSearchTexts {
		return k, Errorf("more than %d search strings", maxSearchTexts)
	}
	s, err := p.AString()
	k.Text = s
	if !utf8.ValidString(s) {
		p.odd = true
	}
	return k, err
}

func (p *searchParser) header() (Key, error) {
	field, err := p.AString()
	if err != nil {
		return Key{}, err
	}
	if field == "" {
		return Key{}, Errorf("a header field's name is empty")
	}
	if err := p.SP(); err != nil {
		return Key{}, err
	}
	return p.text(Key{Op: InHeader, Field: field})
}

func (p *searchParser) or(depth int) (Key, error) {
	a, err := p.key(depth + 1)
	if err != nil {
		return Key{}, err
	}
	if err := p.SP(); err != nil {
		return Key{}, err
	}
	b, err := p.key(depth + 1)
	return Key{Op: Or, Keys: []Key{a, b}}, err
}

// modSeq reads MODSEQ [entry-name entry-type] number. The entry does not
// narrow the search: one mod-sequence stands for all flags of a message
// (RFC 7162 §3.1.5 allows that).
func (p *searchParser) modSeq() (Key, error) {
	p.s.ModSeq = true
	if p.Peek() == '"' {
		if _, err := p.quoted(); err != nil {
			return Key{}, err
		}
		if err := p.SP(); err != nil {
			return Key{}, err
		}
		switch kind, err := p.Word(); {
		case err != nil:
			return Key{}, err
		case kind != "PRIV" && kind != "SHARED" && kind != "ALL":
			return Key{}, Errorf("an unknown entry type")
		}
		if err := p.SP(); err != nil {
			return Key{}, err
		}
	}
	n, err := p.Number64()
	return Key{Op: ModSeq, Number: n}, err
}
