package syntax

// Parse reads a script. Errors are *Error.
func Parse(script string) ([]*Node, error) {
	p := &parser{lex: lexer{rest: script, pos: Pos{1, 1}}}
	if len(script) > MaxScript {
		return nil, Errorf(p.lex.pos, "the script is longer than %d bytes", MaxScript)
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	nodes, err := p.commands(0)
	if err != nil {
		return nil, err
	}
	if p.tok.kind != end {
		return nil, Errorf(p.tok.Pos, "a } without its {")
	}
	return nodes, nil
}

// parser looks at one token.
type parser struct {
	lex lexer
	tok token
}

func (p *parser) advance() (err error) {
	p.tok, err = p.lex.next()
	return err
}

// is reports whether the token is this punctuation.
func (p *parser) is(c string) bool { return p.tok.kind == punctuation && p.tok.text == c }

// commands reads commands up to the end of the block or the script.
func (p *parser) commands(depth int) ([]*Node, error) {
	var nodes []*Node
	for p.tok.kind != end && !p.is("}") {
		n, err := p.command(depth)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func (p *parser) command(depth int) (*Node, error) {
	if depth == maxDepth {
		return nil, Errorf(p.tok.Pos, "blocks in blocks, more than %d deep", maxDepth)
	}
	n, err := p.node(depth)
	if err != nil {
		return nil, err
	}
	switch {
	case p.is(";"):
		return n, p.advance()
	case !p.is("{"):
		return nil, Errorf(p.tok.Pos, "a semicolon is missing behind %s", n.Name)
	}
	open := p.tok.Pos
	if err := p.advance(); err != nil {
		return nil, err
	}
	n.HasBlock = true
	if n.Block, err = p.commands(depth + 1); err != nil {
		return nil, err
	}
	if !p.is("}") {
		return nil, Errorf(open, "this { has no }")
	}
	return n, p.advance()
}

// node reads a name with its arguments and tests.
func (p *parser) node(depth int) (*Node, error) {
	if p.tok.kind != identifier {
		return nil, Errorf(p.tok.Pos, "the name of a command or a test is missing")
	}
	n := &Node{Pos: p.tok.Pos, Name: p.tok.text}
	if err := p.advance(); err != nil {
		return nil, err
	}
	for {
		a := Argument{Pos: p.tok.Pos}
		switch {
		case p.tok.kind == tag:
			a.Kind, a.Tag = Tag, p.tok.text
		case p.tok.kind == number:
			a.Kind, a.Number = Number, p.tok.number
		case p.tok.kind == quoted:
			a.Kind, a.Strings = Strings, []string{p.tok.text}
		case p.is("["):
			list, err := p.list()
			if err != nil {
				return nil, err
			}
			a.Kind, a.Strings, a.List = Strings, list, true
		default:
			return n, p.tests(n, depth)
		}
		n.Args = append(n.Args, a)
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
}

// list reads the strings of a list; the token is the closing bracket then.
func (p *parser) list() ([]string, error) {
	open := p.tok.Pos
	var list []string
	for {
		if err := p.advance(); err != nil {
			return nil, err
		}
		if p.tok.kind != quoted {
			return nil, Errorf(p.tok.Pos, "a list has strings, with commas between them")
		}
		if list = append(list, p.tok.text); len(list) > maxList {
			return nil, Errorf(open, "the list has more than %d strings", maxList)
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
		if p.is("]") {
			return list, nil
		}
		if !p.is(",") {
			return nil, Errorf(p.tok.Pos, "a list has strings, with commas between them")
		}
	}
}

// tests reads a test, or several in parentheses, or none.
func (p *parser) tests(n *Node, depth int) error {
	if (p.tok.kind == identifier || p.is("(")) && depth == maxDepth {
		return Errorf(p.tok.Pos, "tests in tests, more than %d deep", maxDepth)
	}
	if p.tok.kind == identifier {
		t, err := p.node(depth + 1)
		n.Tests = append(n.Tests, t)
		return err
	}
	if !p.is("(") {
		return nil
	}
	n.List = true
	for {
		if err := p.advance(); err != nil {
			return err
		}
		t, err := p.node(depth + 1)
		if err != nil {
			return err
		}
		if n.Tests = append(n.Tests, t); len(n.Tests) > maxList {
			return Errorf(n.Pos, "more than %d tests", maxList)
		}
		if p.is(")") {
			return p.advance()
		}
		if !p.is(",") {
			return Errorf(p.tok.Pos, "tests in parentheses have commas between them")
		}
	}
}
