package sieve

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"switchyard/internal/message"
)

// Mail is the message that a script looks at.
type Mail struct {
	Body io.ReaderAt
	Size int64
	Root *message.Part
}

// Envelope is how the message came.
type Envelope struct {
	From string // "" for a bounce
	To   string // the recipient as it was given
}

// Environment is what the tests environment and currentdate see (RFC 5183).
type Environment struct {
	Name, Version string
	Domain, Host  string
	RemoteIP      string
	RemoteHost    string
	Now           time.Time
}

// World is what a script may ask of the account. An error of it ends the script.
type World interface {
	// Script returns another personal script, for include; ok is false when
	// there is none.
	Script(name string) (text string, ok bool, err error)

	// MailboxExists reports whether mail can be filed into a mailbox.
	MailboxExists(name string) (bool, error)

	// MailboxOfID and MailboxOfUse return a mailbox's name, "" for none.
	MailboxOfID(id string) (string, error)
	MailboxOfUse(use string) (string, error)

	// Seen reports whether an id was seen before, and remembers it for so
	// long from now on (RFC 7352). With last the time begins anew each time.
	// It is remembered only when the delivery succeeds.
	Seen(id string, keep time.Duration, last bool) (bool, error)
}

// run is a script that is running.
type run struct {
	mail     Mail
	envelope Envelope
	env      Environment
	world    World

	steps    int
	included []string        // names of the scripts in which this is
	once     map[string]bool // includes with :once that were run

	fields  *fields
	matches []string // of the last :matches or :regex that held
	locals  map[string]string
	globals map[string]string
	shared  map[string]bool // names that are global here
	flags   []string        // imap4flags' own variable

	result Result
}

// errStop and errReturn end a script, or an included one, in order.
var (
	errStop   = errors.New("stop")
	errReturn = errors.New("return")
)

// RuntimeError is why a script could not go on.
type RuntimeError struct{ Text string }

func (e *RuntimeError) Error() string { return e.Text }

func failed(format string, args ...any) error {
	return &RuntimeError{fmt.Sprintf(format, args...)}
}

// Run runs the script over a message. The world may be asked while it runs, and
// nothing else is. Result.Err says what went wrong, if anything did; the message
// is kept then.
func (s *Script) Run(m Mail, e Envelope, env Environment, w World) Result {
	r := &run{
		mail: m, envelope: e, env: env, world: w,
		locals: make(map[string]string), globals: make(map[string]string), once: make(map[string]bool),
		result: Result{implicit: true},
	}
	var err error
	if r.fields, err = readFields(m); err == nil {
		err = r.block(s.steps)
	}
	if err != nil && !errors.Is(err, errStop) && !errors.Is(err, errReturn) {
		r.result.Err = err
		r.result.implicit = true
	}
	return r.result.settle(r)
}

// block runs commands.
func (r *run) block(steps []step) error {
	for _, s := range steps {
		if err := r.count(); err != nil {
			return err
		}
		if err := s.run(r); err != nil {
			return err
		}
	}
	return nil
}

// count bounds what a script does.
func (r *run) count() error {
	if r.steps++; r.steps > maxSteps {
		return failed("the script does more than %d steps", maxSteps)
	}
	return nil
}

// holds asks a test.
func (r *run) holds(t test) (bool, error) {
	if err := r.count(); err != nil {
		return false, err
	}
	return t.holds(r)
}

// variable returns a variable's value; one that was never set is empty
// (RFC 5229 §3).
func (r *run) variable(name string) string {
	if rest, found := strings.CutPrefix(name, "global."); found {
		return r.globals[rest]
	}
	if r.shared[name] {
		return r.globals[name]
	}
	return r.locals[name]
}

func (r *run) setVariable(name, value string) error {
	to := r.locals
	if rest, found := strings.CutPrefix(name, "global."); found {
		name, to = rest, r.globals
	} else if r.shared[name] {
		to = r.globals
	}
	if _, there := to[name]; !there && len(r.locals)+len(r.globals) >= maxVariables {
		return failed("more than %d variables", maxVariables)
	}
	to[name] = bounded(value)
	return nil
}

// setFlags changes the list of flags: of the run, or of a variable.
func (r *run) setFlags(variable string, flags []string) error {
	if variable == "" {
		r.flags = flags
		return nil
	}
	return r.setVariable(variable, strings.Join(flags, " "))
}

func (r *run) flagsOf(variable string) []string {
	if variable == "" {
		return r.flags
	}
	return splitFlags([]string{r.variable(variable)})
}

// splitFlags cuts lists of flags, with spaces between them, and leaves out what
// is no flag and what was there (RFC 5232 §2).
func splitFlags(lists []string) (flags []string) {
	for _, list := range lists {
		for _, f := range strings.Fields(list) {
			same := func(other string) bool { return strings.EqualFold(f, other) }
			if isFlag(f) && !slices.ContainsFunc(flags, same) {
				flags = append(flags, f)
			}
		}
	}
	return flags
}

func isFlag(f string) bool {
	name := strings.TrimPrefix(f, `\`)
	return name != "" && len(f) <= 100 && !strings.EqualFold(f, `\Recent`) &&
		!strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(`(){%*"\]`, c) })
}
