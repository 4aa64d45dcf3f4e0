package sieve

import (
	"strings"

	"switchyard/backend/sieve/syntax"
)

// params reads the arguments of a command or a test: first those with tags, in
// any order, then the others (RFC 5228 §2.6).
type params struct {
	c    *compiler
	n    *syntax.Node
	rest []syntax.Argument
}

func (c *compiler) params(n *syntax.Node) *params { return &params{c, n, n.Args} }

// tags reads the tagged arguments; each tag at most once.
func (p *params) tags(known map[string]func(at Pos) error) error {
	seen := make(map[string]bool)
	for len(p.rest) > 0 && p.rest[0].Kind == syntax.Tag {
		a := p.rest[0]
		read, ok := known[a.Tag]
		if !ok {
			return syntax.Errorf(a.Pos, "%s has no :%s", p.n.Name, a.Tag)
		}
		if seen[a.Tag] {
			return syntax.Errorf(a.Pos, ":%s is there twice", a.Tag)
		}
		seen[a.Tag] = true
		p.rest = p.rest[1:]
		if err := read(a.Pos); err != nil {
			return err
		}
	}
	return nil
}

// needs refuses a tag whose extension the script does not require.
func (p *params) needs(at Pos, tag, extension string) error {
	if !p.c.has(extension) {
		return syntax.Errorf(at, ":%s needs require %q", tag, extension)
	}
	return nil
}

// take returns the next argument, which must be of a kind.
func (p *params) take(kind syntax.Kind, what string) (syntax.Argument, error) {
	if len(p.rest) == 0 {
		return syntax.Argument{}, syntax.Errorf(p.n.Pos, "%s lacks %s", p.n.Name, what)
	}
	a := p.rest[0]
	if a.Kind != kind {
		return a, syntax.Errorf(a.Pos, "%s wants %s here", p.n.Name, what)
	}
	p.rest = p.rest[1:]
	return a, nil
}

// text reads one string.
func (p *params) text(what string) (text, error) {
	a, err := p.take(syntax.Strings, what)
	if err != nil {
		return text{}, err
	}
	if a.List && len(a.Strings) != 1 {
		return text{}, syntax.Errorf(a.Pos, "%s wants one string here, not a list", p.n.Name)
	}
	return p.c.text(a.Pos, a.Strings[0])
}

// list reads a string or a list of strings.
func (p *params) list(what string) ([]text, error) {
	a, err := p.take(syntax.Strings, what)
	if err != nil {
		return nil, err
	}
	var list []text
	for _, s := range a.Strings {
		t, err := p.c.text(a.Pos, s)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, nil
}

// more reports whether an argument is left.
func (p *params) more() bool { return len(p.rest) > 0 }

func (p *params) number(what string) (uint64, error) {
	a, err := p.take(syntax.Number, what)
	return a.Number, err
}

// end refuses arguments that are left.
func (p *params) end() error {
	if len(p.rest) > 0 {
		return syntax.Errorf(p.rest[0].Pos, "%s has an argument too many", p.n.Name)
	}
	return nil
}

// flag is a tag without a value.
func flag(to *bool) func(Pos) error {
	return func(Pos) error { *to = true; return nil }
}

// fieldName checks a header field's name where it is constant.
func fieldName(at Pos, t text) error {
	if t.constant() && !isFieldName(t.source) {
		return syntax.Errorf(at, "%q is no name of a header field", t.source)
	}
	return nil
}

// isFieldName follows RFC 5322 §2.2.
func isFieldName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == ':' || r >= 0x7f })
}
