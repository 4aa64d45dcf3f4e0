package sieve

import (
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"switchyard/internal/message"

	grammar "switchyard/backend/sieve/syntax"
)

// matcher compares strings with keys (RFC 5228 §2.7): by a match type and a
// comparator.
type matcher struct {
	kind       matchKind
	relation   string // of :value and :count
	comparator string
	keys       []text
	constant   []*regexp.Regexp // for :regex with constant keys
}

type matchKind int

const (
	is matchKind = iota
	contains
	matches
	regex
	value
	count
)

const defaultComparator = "i;ascii-casemap"

// tags are the tags that choose a match type and a comparator.
func (m *matcher) tags(p *params) map[string]func(Pos) error {
	m.comparator = defaultComparator
	chosen := false
	choose := func(kind matchKind) func(Pos) error {
		return func(at Pos) error {
			if chosen {
				return grammar.Errorf(at, "%s takes one match type", p.n.Name)
			}
			m.kind, chosen = kind, true
			return nil
		}
	}
	relational := func(kind matchKind, tag string) func(Pos) error {
		return func(at Pos) error {
			if err := p.needs(at, tag, "relational"); err != nil {
				return err
			}
			if err := choose(kind)(at); err != nil {
				return err
			}
			a, err := p.take(grammar.Strings, "a relation")
			if err != nil {
				return err
			}
			switch m.relation = strings.ToLower(a.Strings[0]); m.relation {
			case "gt", "ge", "lt", "le", "eq", "ne":
				return nil
			}
			return grammar.Errorf(a.Pos, "a relation is gt, ge, lt, le, eq or ne")
		}
	}
	return map[string]func(Pos) error{
		"is": choose(is), "contains": choose(contains), "matches": choose(matches),
		"regex": func(at Pos) error {
			if err := p.needs(at, "regex", "regex"); err != nil {
				return err
			}
			return choose(regex)(at)
		},
		"value": relational(value, "value"), "count": relational(count, "count"),
		"comparator": func(at Pos) error { return m.readComparator(p) },
	}
}

func (m *matcher) readComparator(p *params) error {
	a, err := p.take(grammar.Strings, "a comparator")
	if err != nil {
		return err
	}
	m.comparator = a.Strings[0]
	switch m.comparator {
	case "i;octet", defaultComparator: // always there (RFC 5228 §2.7.3)
		return nil
	case "i;ascii-numeric", "i;unicode-casemap":
		if !p.c.has("comparator-" + m.comparator) {
			return grammar.Errorf(a.Pos, "the comparator %s needs require %q", m.comparator, "comparator-"+m.comparator)
		}
		return nil
	}
	return grammar.Errorf(a.Pos, "the comparator %q is not supported", m.comparator)
}

// readKeys reads the list of keys and prepares regular expressions.
func (m *matcher) readKeys(p *params) error {
	at := p.n.Pos
	if p.more() {
		at = p.rest[0].Pos
	}
	var err error
	if m.keys, err = p.list("a list of keys"); err != nil {
		return err
	}
	if m.comparator == "i;ascii-numeric" && (m.kind == contains || m.kind == matches || m.kind == regex) {
		// RFC 4790 §9.1: it knows no substrings.
		return grammar.Errorf(at, "the comparator i;ascii-numeric compares whole numbers only")
	}
	if m.kind != regex {
		return nil
	}
	for _, k := range m.keys {
		if !k.constant() {
			m.constant = nil
			return nil
		}
		re, err := compileRegex(k.source, m.comparator)
		if err != nil {
			return grammar.Errorf(at, "%v", err)
		}
		m.constant = append(m.constant, re)
	}
	return nil
}

// compileRegex reads a POSIX extended regular expression. It is matched in
// linear time.
func compileRegex(expression, comparator string) (*regexp.Regexp, error) {
	if len(expression) > maxRegex {
		return nil, failed("a regular expression is longer than %d bytes", maxRegex)
	}
	flags := syntax.POSIX &^ syntax.OneLine
	if comparator != "i;octet" {
		flags |= syntax.FoldCase
	}
	tree, err := syntax.Parse(expression, flags)
	if err != nil {
		return nil, failed("%q is no regular expression: %v", expression, err)
	}
	re, err := regexp.Compile(tree.String())
	if err != nil {
		return nil, failed("%q is no regular expression: %v", expression, err)
	}
	re.Longest()
	return re, nil
}

// any reports whether one of the values matches one of the keys. With :count it
// is their number that is compared.
func (m *matcher) any(r *run, values []string) (bool, error) {
	if m.kind == count {
		number := strconv.Itoa(len(values))
		for _, k := range m.keys {
			if related(compareNumeric(number, k.in(r)), m.relation) {
				return true, nil
			}
		}
		return false, nil
	}
	keys := all(m.keys, r)
	for _, v := range values {
		for i, k := range keys {
			hit, err := m.one(r, i, bounded(v), k)
			if hit || err != nil {
				return hit, err
			}
		}
	}
	return false, nil
}

// one compares a value with the i-th key.
func (m *matcher) one(r *run, i int, v, k string) (bool, error) {
	switch m.kind {
	case is:
		return m.compare(v, k) == 0, nil
	case contains:
		return strings.Contains(m.fold(v), m.fold(k)), nil
	case matches:
		found, ok := glob(v, k, m.equal())
		if ok {
			r.matches = found
		}
		return ok, nil
	case regex:
		re := (*regexp.Regexp)(nil)
		if m.constant != nil {
			re = m.constant[i]
		} else {
			var err error
			if re, err = compileRegex(k, m.comparator); err != nil {
				return false, err
			}
		}
		found := re.FindStringSubmatch(v)
		if found != nil {
			r.matches = found
		}
		return found != nil, nil
	default:
		return related(m.compare(v, k), m.relation), nil
	}
}

// fold brings a string into the form in which the comparator compares bytes.
func (m *matcher) fold(s string) string {
	switch m.comparator {
	case "i;octet":
		return s
	case "i;unicode-casemap":
		return message.Fold(s)
	default:
		return upperASCII(s)
	}
}

func (m *matcher) compare(a, b string) int {
	if m.comparator == "i;ascii-numeric" {
		return compareNumeric(a, b)
	}
	return strings.Compare(m.fold(a), m.fold(b))
}

// equal compares characters, for :matches.
func (m *matcher) equal() func(a, b rune) bool {
	switch m.comparator {
	case "i;octet":
		return func(a, b rune) bool { return a == b }
	case "i;unicode-casemap":
		return func(a, b rune) bool { return a == b || unicode.ToTitle(a) == unicode.ToTitle(b) }
	default:
		return func(a, b rune) bool { return a == b || upperRune(a) == upperRune(b) }
	}
}

func upperRune(r rune) rune {
	if r >= 'a' && r <= 'z' {
		return r - 'a' + 'A'
	}
	return r
}

func upperASCII(s string) string {
	return strings.Map(upperRune, s)
}

// compareNumeric is i;ascii-numeric (RFC 4790 §9.1): the digits in front count,
// and what does not begin with one is infinite.
func compareNumeric(a, b string) int {
	a, b = digits(a), digits(b)
	switch {
	case a == "" && b == "":
		return 0
	case a == "":
		return 1
	case b == "":
		return -1
	}
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func digits(s string) string {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return s[:n]
}

// related applies a relation of RFC 5231 §4 to a comparison.
func related(c int, relation string) bool {
	switch relation {
	case "gt":
		return c > 0
	case "ge":
		return c >= 0
	case "lt":
		return c < 0
	case "le":
		return c <= 0
	case "ne":
		return c != 0
	default:
		return c == 0
	}
}

// glob matches a value with a pattern (RFC 5228 §2.7.1): ? is one character, *
// any number, a backslash takes the meaning from what follows. It returns the
// whole value and what each of them stood for, the shortest that is possible
// from the left (RFC 5229 §3.2).
func glob(v, pattern string, equal func(a, b rune) bool) ([]string, bool) {
	atoms := globAtoms(pattern)
	type star struct {
		atom     int // behind the star
		at       int // what it ends before
		captured int
	}
	var last *star
	starts, ends := []int{}, []int{}
	at, i := 0, 0
	for {
		if i < len(atoms) && atoms[i].star {
			starts, ends = append(starts, at), append(ends, at)
			last = &star{i + 1, at, len(starts)}
			i++
			continue
		}
		if i == len(atoms) && at == len(v) {
			break
		}
		r, n := utf8.DecodeRuneInString(v[at:])
		if i < len(atoms) && n > 0 && (atoms[i].any || equal(r, atoms[i].r)) {
			if atoms[i].any {
				starts, ends = append(starts, at), append(ends, at+n)
			}
			at, i = at+n, i+1
			continue
		}
		if last == nil || last.at >= len(v) {
			return nil, false
		}
		// The last star takes one character more.
		_, n = utf8.DecodeRuneInString(v[last.at:])
		last.at += n
		starts, ends = starts[:last.captured], ends[:last.captured]
		ends[last.captured-1] = last.at
		at, i = last.at, last.atom
	}
	found := []string{v}
	for k := range starts {
		found = append(found, v[starts[k]:ends[k]])
	}
	return found, true
}

// globAtom is a piece of a pattern.
type globAtom struct {
	r         rune
	any, star bool
}

func globAtoms(pattern string) (atoms []globAtom) {
	escaped := false
	for _, r := range pattern {
		switch {
		case escaped:
			atoms = append(atoms, globAtom{r: r})
			escaped = false
		case r == '\\':
			escaped = true
		case r == '*':
			atoms = append(atoms, globAtom{star: true})
		case r == '?':
			atoms = append(atoms, globAtom{any: true})
		default:
			atoms = append(atoms, globAtom{r: r})
		}
	}
	if escaped {
		atoms = append(atoms, globAtom{r: '\\'})
	}
	return atoms
}
