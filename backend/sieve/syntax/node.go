// Package syntax reads the grammar of Sieve (RFC 5228 §8): commands, tests and
// their arguments, whatever they mean.
package syntax

import "fmt"

// The bounds of a script.
const (
	MaxScript = 256 << 10 // bytes
	maxDepth  = 32        // of blocks, and of tests in tests
	maxList   = 1000      // strings in a list, tests in a list
)

// Pos is a place in a script, counted from one.
type Pos struct{ Line, Column int }

func (p Pos) String() string { return fmt.Sprintf("line %d, column %d", p.Line, p.Column) }

// Error says what is wrong with a script and where.
type Error struct {
	Pos
	Text string
}

func (e *Error) Error() string { return e.Pos.String() + ": " + e.Text }

// Errorf makes an *Error.
func Errorf(at Pos, format string, args ...any) error {
	return &Error{at, fmt.Sprintf(format, args...)}
}

// Kind is what an argument is.
type Kind int

// The kinds of arguments.
const (
	Tag Kind = iota
	Number
	Strings // a string, or a list of strings
)

// Argument is one argument.
type Argument struct {
	Pos
	Kind    Kind
	Tag     string // in lower case, without the colon
	Number  uint64
	Strings []string
	List    bool // written in brackets
}

// Node is a command or a test.
type Node struct {
	Pos
	Name     string // in lower case
	Args     []Argument
	Tests    []*Node
	List     bool // the tests are written in parentheses
	Block    []*Node
	HasBlock bool
}
