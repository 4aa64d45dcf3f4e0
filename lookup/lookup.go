// Package lookup is the vocabulary of the directory: what an account is, how
// to ask for one, and the only answers there are.
//
// A question about an account ends in one of three answers, and they are kept
// apart all the way to the wire:
//
//	found        an Account
//	absent       ErrAbsent: the directory is sure that there is no such account
//	unavailable  ErrUnavailable: the directory cannot say now
//
// A login has a fourth: ErrRejected, "no", for a wrong password or an account
// that does not exist; the two must look alike to the client.
//
// An error that is none of these is treated as unavailable (see AnswerOf), so
// that a bug or a new failure can never turn into "no such user", "wrong
// password" or the default backend.
package lookup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

var (
	// ErrAbsent says that the directory knows for sure that no such account
	// exists. Only an answer from a directory that proved it can see may be
	// turned into ErrAbsent.
	ErrAbsent = errors.New("no such account")

	// ErrUnavailable says that the directory cannot answer now. It is always
	// wrapped with the step that failed.
	ErrUnavailable = errors.New("directory unavailable")

	// ErrRejected is Check's "no": the credentials are wrong, or nobody has
	// that name. Callers cannot tell which, and must not.
	ErrRejected = errors.New("credentials rejected")

	// ErrNoFeed is a Watcher's answer when its directory cannot tell of
	// changes after all: an old server, a server without the extension.
	ErrNoFeed = errors.New("directory has no feed of changes")
)

// Unavailable wraps cause so that errors.Is(err, ErrUnavailable) holds. The
// step names what was being done ("dial ldap://…", "search"); it must not
// contain a secret.
func Unavailable(step string, cause error) error {
	return &unavailableError{step: step, cause: cause}
}

type unavailableError struct {
	step  string
	cause error
}

func (e *unavailableError) Error() string {
	if e.cause == nil {
		return fmt.Sprintf("%s: %v", e.step, ErrUnavailable)
	}
	return fmt.Sprintf("%s: %v: %v", e.step, ErrUnavailable, e.cause)
}

func (e *unavailableError) Is(target error) bool { return target == ErrUnavailable }
func (e *unavailableError) Unwrap() error        { return e.cause }

// Directory answers questions about accounts. Implementations are safe for
// concurrent use. Every method blocks at most until ctx ends or a time-out of
// the implementation's own passes, whichever is first, and then answers
// ErrUnavailable.
type Directory interface {
	// Lookup finds an account by name, without a password. The name has been
	// through CleanName. Errors: ErrAbsent, ErrUnavailable.
	Lookup(ctx context.Context, name string) (Account, error)

	// Check verifies a password and returns the account it belongs to. It
	// says nothing about the account's status: the caller asks
	// Account.Status, after the password was right and not before.
	// Errors: ErrRejected, ErrUnavailable.
	Check(ctx context.Context, c Credentials) (Account, error)
}

// Credentials is a login as the client made it.
type Credentials struct {
	Name     string // cleaned by CleanName
	Password string
	Client   netip.Addr // the client's own address; invalid when unknown
	Protocol string     // "imap", "pop3", "submission", …; may be empty
}

// String never shows the password.
func (c Credentials) String() string {
	return fmt.Sprintf("credentials of %q", c.Name)
}

// GoString never shows the password.
func (c Credentials) GoString() string { return c.String() }

// Answer is the kind of an answer.
type Answer int

// The answers. Unavailable is also what any unknown error means.
const (
	AnswerFound Answer = iota
	AnswerAbsent
	AnswerRejected
	AnswerUnavailable
)

func (a Answer) String() string {
	switch a {
	case AnswerFound:
		return "found"
	case AnswerAbsent:
		return "absent"
	case AnswerRejected:
		return "rejected"
	default:
		return "unavailable"
	}
}

// AnswerOf classifies what Lookup or Check returned.
func AnswerOf(err error) Answer {
	switch {
	case err == nil:
		return AnswerFound
	case errors.Is(err, ErrUnavailable):
		return AnswerUnavailable
	case errors.Is(err, ErrAbsent):
		return AnswerAbsent
	case errors.Is(err, ErrRejected):
		return AnswerRejected
	default:
		return AnswerUnavailable
	}
}
