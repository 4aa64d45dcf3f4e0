// Package sieve filters messages by users' scripts (RFC 5228): it reads a
// script, and runs it over a message to say what becomes of it. It delivers
// nothing itself.
//
//	script, err := sieve.Compile(text)              // *Error: line, column and what is wrong
//	result := script.Run(mail, envelope, world)     // never an error: at worst, the message is kept
//
// A script cannot loop, and everything it can make grow is bounded. Whatever goes
// wrong while it runs, the message is not lost: what was decided before stays, and
// the message is kept in INBOX besides (RFC 5228 §2.10.6).
package sieve

import (
	"slices"
	"strings"

	"switchyard/backend/sieve/syntax"
)

// Error says what is wrong with a script and where.
type Error = syntax.Error

// Pos is a place in a script.
type Pos = syntax.Pos

// The bounds of what a script does.
const (
	MaxRedirects = 4    // for one message
	maxActions   = 64   // for one message
	maxSteps     = 5000 // commands and tests run
	maxIncludes  = 10   // scripts in scripts
	maxString    = 16 << 10
	maxVariables = 200
	maxRegex     = 1000 // bytes
)

// extensions are what require may name (RFC 5228 §3.2), but for comparators.
func extensions() []string {
	return []string{
		"body", "comparator-i;ascii-casemap", "comparator-i;ascii-numeric", "comparator-i;octet", "comparator-i;unicode-casemap",
		"copy", "date", "duplicate", "editheader", "encoded-character", "envelope", "environment", "ereject", "fileinto",
		"ihave", "imap4flags", "include", "index", "mailbox", "mailboxid", "regex", "reject", "relational", "special-use",
		"subaddress", "vacation", "vacation-seconds", "variables",
	}
}

// Extensions lists what scripts may require, for ManageSieve's SIEVE capability
// (RFC 5804 §1.7).
func Extensions() string { return strings.Join(extensions(), " ") }

func known(extension string) bool {
	_, found := slices.BinarySearch(extensions(), extension)
	return found
}

// Script is a script that is ready to run. It is safe for concurrent use.
type Script struct{ steps []step }

// step is a command made ready.
type step interface{ run(*run) error }

// test is a test made ready.
type test interface{ holds(*run) (bool, error) }

// Compile reads a script and checks it. Errors are *Error.
func Compile(script string) (*Script, error) {
	nodes, err := syntax.Parse(script)
	if err != nil {
		return nil, err
	}
	c := newCompiler()
	steps, err := c.block(nodes)
	if err != nil {
		return nil, err
	}
	return &Script{steps}, nil
}

// compiler makes nodes ready.
type compiler struct {
	required map[string]bool
	had      bool // a command that is not require
	lacks    bool // ihave has named what is not supported
	commands map[string]commandSpec
	tests    map[string]testSpec
}

func newCompiler() *compiler {
	return &compiler{required: make(map[string]bool), commands: commands(), tests: tests()}
}

// has reports whether the script requires an extension.
func (c *compiler) has(extension string) bool { return c.required[extension] }

// block compiles commands.
func (c *compiler) block(nodes []*syntax.Node) ([]step, error) {
	var steps []step
	var last *choice // the if that an elsif or else belongs to
	for _, n := range nodes {
		if n.Name == "elsif" || n.Name == "else" {
			if last == nil || last.otherwise != nil {
				return nil, syntax.Errorf(n.Pos, "%s without an if before it", n.Name)
			}
			if err := c.more(last, n); err != nil {
				return nil, err
			}
			continue
		}
		s, err := c.command(n)
		if err != nil && c.lacks {
			// RFC 5463 §4: what needs an extension that ihave has found
			// missing is wrong only when it is run.
			s, err = stepFunc(func(*run) error { return &RuntimeError{err.Error()} }), nil
		}
		if err != nil {
			return nil, err
		}
		last, _ = s.(*choice)
		if s != nil {
			steps = append(steps, s)
		}
	}
	return steps, nil
}

// command compiles one command.
func (c *compiler) command(n *syntax.Node) (step, error) {
	if n.Name == "require" {
		return nil, c.require(n)
	}
	c.had = true
	spec, found := c.commands[n.Name]
	if !found {
		return nil, syntax.Errorf(n.Pos, "unknown command %s", n.Name)
	}
	if spec.needs != "" && !c.hasAny(spec.needs) {
		return nil, syntax.Errorf(n.Pos, "%s needs require %q", n.Name, strings.Fields(spec.needs)[0])
	}
	if n.HasBlock != spec.block {
		if spec.block {
			return nil, syntax.Errorf(n.Pos, "%s is followed by a block", n.Name)
		}
		return nil, syntax.Errorf(n.Pos, "%s takes no block", n.Name)
	}
	if !spec.tests && len(n.Tests) > 0 {
		return nil, syntax.Errorf(n.Tests[0].Pos, "%s takes no test", n.Name)
	}
	return spec.compile(c, n)
}

// hasAny reports whether one of the extensions is required.
func (c *compiler) hasAny(extensions string) bool {
	return slices.ContainsFunc(strings.Fields(extensions), c.has)
}

// require takes the extensions that a script names (RFC 5228 §3.2).
func (c *compiler) require(n *syntax.Node) error {
	if c.had {
		return syntax.Errorf(n.Pos, "require comes before all other commands")
	}
	if len(n.Args) != 1 || n.Args[0].Kind != syntax.Strings || len(n.Tests) > 0 || n.HasBlock {
		return syntax.Errorf(n.Pos, "require takes a list of strings")
	}
	for _, name := range n.Args[0].Strings {
		if !known(name) {
			return syntax.Errorf(n.Args[0].Pos, "the extension %q is not supported", name)
		}
		c.required[name] = true
	}
	return nil
}

// test compiles one test.
func (c *compiler) test(n *syntax.Node) (test, error) {
	spec, found := c.tests[n.Name]
	if !found {
		return nil, syntax.Errorf(n.Pos, "unknown test %s", n.Name)
	}
	if spec.needs != "" && !c.hasAny(spec.needs) {
		return nil, syntax.Errorf(n.Pos, "%s needs require %q", n.Name, strings.Fields(spec.needs)[0])
	}
	if !spec.tests && len(n.Tests) > 0 {
		return nil, syntax.Errorf(n.Tests[0].Pos, "%s takes no test", n.Name)
	}
	return spec.compile(c, n)
}

// commandSpec is a command's entry in the table.
type commandSpec struct {
	needs   string // extensions, one of which must be required
	block   bool
	tests   bool
	compile func(*compiler, *syntax.Node) (step, error)
}

// testSpec is a test's.
type testSpec struct {
	needs   string
	tests   bool
	compile func(*compiler, *syntax.Node) (test, error)
}

func commands() map[string]commandSpec {
	return map[string]commandSpec{
		"if":           {block: true, tests: true, compile: (*compiler).choice},
		"stop":         {compile: (*compiler).stop},
		"keep":         {compile: (*compiler).keep},
		"discard":      {compile: (*compiler).discard},
		"redirect":     {compile: (*compiler).redirect},
		"fileinto":     {needs: "fileinto", compile: (*compiler).fileInto},
		"reject":       {needs: "reject", compile: (*compiler).reject},
		"ereject":      {needs: "ereject", compile: (*compiler).reject},
		"setflag":      {needs: "imap4flags", compile: (*compiler).flags},
		"addflag":      {needs: "imap4flags", compile: (*compiler).flags},
		"removeflag":   {needs: "imap4flags", compile: (*compiler).flags},
		"vacation":     {needs: "vacation", compile: (*compiler).vacation},
		"set":          {needs: "variables", compile: (*compiler).set},
		"addheader":    {needs: "editheader", compile: (*compiler).addHeader},
		"deleteheader": {needs: "editheader", compile: (*compiler).deleteHeader},
		"include":      {needs: "include", compile: (*compiler).include},
		"return":       {needs: "include", compile: (*compiler).giveBack},
		"global":       {needs: "include", compile: (*compiler).global},
		"error":        {needs: "ihave", compile: (*compiler).fail},
	}
}

func tests() map[string]testSpec {
	return map[string]testSpec{
		"true":              {compile: func(c *compiler, n *syntax.Node) (test, error) { return constant(true), c.params(n).end() }},
		"false":             {compile: func(c *compiler, n *syntax.Node) (test, error) { return constant(false), c.params(n).end() }},
		"not":               {tests: true, compile: (*compiler).not},
		"allof":             {tests: true, compile: (*compiler).combined},
		"anyof":             {tests: true, compile: (*compiler).combined},
		"size":              {compile: (*compiler).size},
		"exists":            {compile: (*compiler).exists},
		"header":            {compile: (*compiler).header},
		"address":           {compile: (*compiler).address},
		"envelope":          {needs: "envelope", compile: (*compiler).envelope},
		"body":              {needs: "body", compile: (*compiler).body},
		"date":              {needs: "date", compile: (*compiler).date},
		"currentdate":       {needs: "date", compile: (*compiler).currentDate},
		"hasflag":           {needs: "imap4flags", compile: (*compiler).hasFlag},
		"string":            {needs: "variables", compile: (*compiler).stringTest},
		"environment":       {needs: "environment", compile: (*compiler).environment},
		"duplicate":         {needs: "duplicate", compile: (*compiler).duplicate},
		"ihave":             {needs: "ihave", compile: (*compiler).ihave},
		"mailboxexists":     {needs: "mailbox", compile: (*compiler).mailboxExists},
		"mailboxidexists":   {needs: "mailboxid", compile: (*compiler).mailboxIDExists},
		"specialuse_exists": {needs: "special-use", compile: (*compiler).specialUseExists},
	}
}
