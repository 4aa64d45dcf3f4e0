package sieve

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"switchyard/backend/sieve/syntax"
)

// choice is if, with elsif and else.
type choice struct {
	branches  []branch
	otherwise *[]step
}

type branch struct {
	when test
	then []step
}

func (c *compiler) choice(n *syntax.Node) (step, error) {
	s := &choice{}
	return s, c.addBranch(s, n)
}

func (c *compiler) addBranch(s *choice, n *syntax.Node) error {
	if len(n.Tests) != 1 || n.List || len(n.Args) > 0 {
		return syntax.Errorf(n.Pos, "%s takes one test", n.Name)
	}
	when, err := c.test(n.Tests[0])
	if err != nil {
		return err
	}
	then, err := c.block(n.Block)
	s.branches = append(s.branches, branch{when, then})
	return err
}

// more adds an elsif or else.
func (c *compiler) more(s *choice, n *syntax.Node) error {
	if !n.HasBlock {
		return syntax.Errorf(n.Pos, "%s is followed by a block", n.Name)
	}
	if n.Name == "elsif" {
		return c.addBranch(s, n)
	}
	if len(n.Tests) > 0 || len(n.Args) > 0 {
		return syntax.Errorf(n.Pos, "else takes no test")
	}
	steps, err := c.block(n.Block)
	s.otherwise = &steps
	return err
}

func (s *choice) run(r *run) error {
	for _, b := range s.branches {
		hit, err := r.holds(b.when)
		if err != nil {
			return err
		}
		if hit {
			return r.block(b.then)
		}
	}
	if s.otherwise != nil {
		return r.block(*s.otherwise)
	}
	return nil
}

// stepFunc is a command that needs no type of its own.
type stepFunc func(*run) error

func (f stepFunc) run(r *run) error { return f(r) }

func (c *compiler) stop(n *syntax.Node) (step, error) {
	return stepFunc(func(*run) error { return errStop }), c.params(n).end()
}

func (c *compiler) giveBack(n *syntax.Node) (step, error) {
	return stepFunc(func(*run) error { return errReturn }), c.params(n).end()
}

// fail is error, of RFC 5463 §5.
func (c *compiler) fail(n *syntax.Node) (step, error) {
	p := c.params(n)
	why, err := p.text("a reason")
	if err != nil {
		return nil, err
	}
	return stepFunc(func(r *run) error { return failed("%s", why.in(r)) }), p.end()
}

// include runs another script (RFC 6609 §3.2).
func (c *compiler) include(n *syntax.Node) (step, error) {
	p := c.params(n)
	var once, optional, personal, global bool
	err := p.tags(map[string]func(Pos) error{
		"once": flag(&once), "optional": flag(&optional), "personal": flag(&personal), "global": flag(&global),
	})
	if err != nil {
		return nil, err
	}
	if global {
		return nil, syntax.Errorf(n.Pos, "there are no global scripts, only :personal ones")
	}
	name, err := p.text("a script's name")
	if err != nil {
		return nil, err
	}
	if !name.constant() { // RFC 6609 §3.2
		return nil, syntax.Errorf(n.Pos, "the name of an included script is constant")
	}
	return &inclusion{name.source, once, optional}, p.end()
}

type inclusion struct {
	name           string
	once, optional bool
}

func (s *inclusion) run(r *run) error {
	if s.once && r.once[s.name] {
		return nil
	}
	if slices.Contains(r.included, s.name) {
		return failed("script %q includes itself", s.name)
	}
	if len(r.included) == maxIncludes {
		return failed("scripts in scripts, more than %d deep", maxIncludes)
	}
	text, found, err := r.world.Script(s.name)
	switch {
	case err != nil:
		return err
	case !found && s.optional:
		return nil
	case !found:
		return failed("there is no script %q to include", s.name)
	}
	script, err := Compile(text)
	if err != nil {
		return failed("included script %q: %v", s.name, err)
	}
	r.once[s.name] = true
	// It has variables of its own, and shares the global ones.
	locals, shared, matches := r.locals, r.shared, r.matches
	r.locals, r.shared, r.matches = make(map[string]string), nil, nil
	r.included = append(r.included, s.name)
	err = r.block(script.steps)
	r.included = r.included[:len(r.included)-1]
	r.locals, r.shared, r.matches = locals, shared, matches
	if errors.Is(err, errReturn) {
		return nil
	}
	return err
}

// global makes variables those of all scripts (RFC 6609 §3.4.1).
func (c *compiler) global(n *syntax.Node) (step, error) {
	if !c.has("variables") {
		return nil, syntax.Errorf(n.Pos, "global needs require %q", "variables")
	}
	p := c.params(n)
	list, err := p.list("names of variables")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, t := range list {
		if !t.constant() || !isVariable(t.source) {
			return nil, syntax.Errorf(n.Pos, "%q is no variable's name", t.source)
		}
		names = append(names, strings.ToLower(t.source))
	}
	return stepFunc(func(r *run) error {
		shared := maps.Clone(r.shared)
		if shared == nil {
			shared = make(map[string]bool)
		}
		for _, name := range names {
			shared[name] = true
		}
		r.shared = shared
		return nil
	}), p.end()
}

// constant is true or false.
type constant bool

func (t constant) holds(*run) (bool, error) { return bool(t), nil }

// testFunc is a test that needs no type of its own.
type testFunc func(*run) (bool, error)

func (f testFunc) holds(r *run) (bool, error) { return f(r) }

func (c *compiler) not(n *syntax.Node) (test, error) {
	if len(n.Tests) != 1 || n.List || len(n.Args) > 0 {
		return nil, syntax.Errorf(n.Pos, "not takes one test")
	}
	t, err := c.test(n.Tests[0])
	return testFunc(func(r *run) (bool, error) {
		hit, err := r.holds(t)
		return !hit, err
	}), err
}

// combined is allof and anyof.
func (c *compiler) combined(n *syntax.Node) (test, error) {
	if len(n.Tests) == 0 || len(n.Args) > 0 {
		return nil, syntax.Errorf(n.Pos, "%s takes tests in parentheses", n.Name)
	}
	var list []test
	for _, one := range n.Tests {
		t, err := c.test(one)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	any := n.Name == "anyof"
	return testFunc(func(r *run) (bool, error) {
		for _, t := range list {
			hit, err := r.holds(t)
			if err != nil || hit == any {
				return hit, err
			}
		}
		return !any, nil
	}), nil
}

// ihave asks for extensions (RFC 5463 §4). Those it names are usable below it
// as if they were required; whether they are supported is known beforehand.
func (c *compiler) ihave(n *syntax.Node) (test, error) {
	p := c.params(n)
	list, err := p.list("names of extensions")
	if err != nil {
		return nil, err
	}
	has := true
	for _, t := range list {
		if !t.constant() {
			return nil, syntax.Errorf(n.Pos, "ihave takes constant names")
		}
		if known(t.source) {
			c.required[t.source] = true
		} else {
			has, c.lacks = false, true
		}
	}
	return constant(has), p.end()
}
