package module

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
	"switchyard/lookup/internal/netwin"
)

// maxPassword is the longest password in bytes that is asked about.
const maxPassword = 1024

// Lookup implements lookup.Directory. A name that no account of the module can
// have is absent without a question.
func (m *Module) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	if m.checkName(name) != nil {
		return lookup.Account{}, lookup.ErrAbsent
	}
	return m.account(ctx, authent.Request{Verb: authent.Lookup, Name: name}, lookup.ErrAbsent)
}

// Check implements lookup.Directory. A password that the grammar cannot carry
// is rejected without a question: nobody could have set it.
func (m *Module) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	if m.checkName(c.Name) != nil || m.checkPassword(c.Password) != nil {
		return lookup.Account{}, lookup.ErrRejected
	}
	r := authent.Request{Verb: authent.Check, Name: c.Name, Password: &c.Password, Client: c.Client}
	account, err := m.account(ctx, r, lookup.ErrRejected)
	if errors.As(err, new(*RefusedError)) {
		return lookup.Account{}, lookup.ErrRejected
	}
	return account, err
}

// checkName says why the module cannot have an account of a name. Errors:
// RefusedError.
func (m *Module) checkName(name string) error {
	clean, err := lookup.CleanName(name, "")
	switch {
	case err != nil:
		return netwin.Refuse("%v", err)
	case clean != name:
		return netwin.Refuse("the name %.80q is not in lower case", name)
	case m.opts.ASCII && !isASCII(name):
		return netwin.Refuse("the module takes no name with other characters than ASCII")
	}
	return nil
}

// checkPassword says why a password cannot be sent. Errors: RefusedError.
func (m *Module) checkPassword(password string) error {
	switch {
	case password == "":
		return netwin.Refuse("the password is empty")
	case password == netwin.NoPassword:
		return netwin.Refuse("%s is never a password", netwin.NoPassword)
	case len(password) > maxPassword:
		return netwin.Refuse("the password is longer than %d bytes", maxPassword)
	case strings.ContainsAny(password, ` "`) || netwin.HasControl(password):
		return netwin.Refuse("the password has a space, quote or control character, which the module cannot be told")
	case m.opts.ASCII && !isASCII(password):
		return netwin.Refuse("the module takes no password with other characters than ASCII")
	}
	return nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// account asks a question whose -ERR means no.
func (m *Module) account(ctx context.Context, r authent.Request, no error) (lookup.Account, error) {
	// The worker may still be reading when the caller has given up.
	found := make(chan lookup.Account, 1)
	err := m.ask(ctx, question{request: r, read: func(reply authent.Reply) (bool, error) {
		switch reply.Kind {
		case authent.Err:
			return true, answered{no}
		case authent.OK:
			account, err := authent.ParseAccount(reply.Text, r.Name)
			if err == nil {
				found <- account
			}
			return true, err
		}
		return true, fmt.Errorf("%w: %s to %s", authent.ErrGarbage, reply.Kind, r.Verb)
	}})
	if err != nil {
		return lookup.Account{}, err
	}
	return <-found, nil
}
