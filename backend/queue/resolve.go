package queue

import (
	"context"
	"errors"

	"switchyard/lookup"
	"switchyard/lookup/resolve"
)

// Expand returns the addresses that mail for a local address goes to: those of
// its alias, or the address itself. Addresses that lead nowhere are left out as
// long as one does not. Errors: lookup.ErrAbsent, lookup.ErrUnavailable, a
// *resolve.ChainError, ErrClosed, ErrNoRelay.
func (q *Queue) Expand(ctx context.Context, address string) ([]string, error) {
	result, err := q.o.Resolver.Resolve(ctx, address)
	if err != nil {
		return nil, err
	}
	var out []string
	closed := false
	for _, t := range result.Targets {
		switch {
		case t.Kind != resolve.Mailbox:
			if !q.Relays() {
				return nil, ErrNoRelay
			}
			out = append(out, t.Address)
		case !t.Account.Status.MayReceive():
			closed = true
		default:
			if err := q.Chain(ctx, t.Account); err != nil {
				return nil, err
			}
			out = append(out, t.Mail(address))
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case closed:
		return nil, ErrClosed
	}
	return nil, lookup.ErrAbsent
}

// Resolves reports whether there is a Resolver, which Expand needs.
func (q *Queue) Resolves() bool { return q.o.Resolver != nil }

var (
	// ErrClosed: nobody behind the address may receive mail.
	ErrClosed = errors.New("mailbox is closed")

	// ErrNoRelay: the address leads to another domain, and there is no relay to
	// take the mail there. That is the operator's to mend.
	ErrNoRelay = errors.New("this node has no relay for mail to other domains")
)

// Chain returns a *resolve.ChainError when an account's forwards lead in a
// circle, or too far. That the directory cannot say is no error here: the mail
// is stopped where it comes back.
func (q *Queue) Chain(ctx context.Context, a lookup.Account) error {
	if q.o.Chains == nil || len(a.Forwards) == 0 {
		return nil
	}
	_, err := q.o.Chains.Resolve(ctx, a.Name)
	var chain *resolve.ChainError
	if errors.As(err, &chain) {
		return chain
	}
	return nil
}
