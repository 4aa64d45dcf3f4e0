package resolve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"switchyard/lookup"
)

// walk is one Resolve: depth first, in the order in which the directory lists
// things, each name once.
type walk struct {
	r       *Resolver
	chain   []string        // from the address to here
	done    map[string]bool // records that were followed to their ends
	names   int             // that were met
	targets map[string]bool // by account or clean address

	open, closed []Target // by whether they accept mail
	dangling     []string
}

func (w *walk) finish() (Result, error) {
	result := Result{Targets: w.open, Dangling: w.dangling}
	if len(result.Targets) == 0 {
		result.Targets = w.closed
	}
	if len(result.Targets) == 0 {
		return Result{}, lookup.ErrAbsent // nothing but dangling targets
	}
	return result, nil
}

// local follows a clean address of a local domain. Errors are those of
// Resolve.
func (w *walk) local(ctx context.Context, address string) error {
	leave, err := w.enter(address)
	if err != nil {
		return err
	}
	defer leave()
	account, detail, err := w.record(ctx, address)
	if err != nil {
		return err
	}
	if account.Name != address {
		leave, err := w.enter(account.Name)
		if err != nil {
			return err
		}
		defer leave()
	}
	if w.done[account.Name] {
		return nil
	}
	if err := w.follow(ctx, account, detail); err != nil {
		return err
	}
	w.done[account.Name] = true
	return nil
}

// enter makes a name part of the chain until leave is called.
func (w *walk) enter(name string) (leave func(), err error) {
	reason := ""
	switch w.names++; {
	case slices.Contains(w.chain, name):
		reason = "address leads in a circle"
	case len(w.chain) > w.r.opts.MaxDepth:
		reason = fmt.Sprintf("address leads on for more than %d steps", w.r.opts.MaxDepth)
	case w.names > w.r.opts.MaxNames:
		reason = fmt.Sprintf("address leads to more than %d names", w.r.opts.MaxNames)
	}
	if reason != "" {
		return nil, &ChainError{Reason: reason, Chain: append(slices.Clone(w.chain), name)}
	}
	w.chain = append(w.chain, name)
	return func() { w.chain = w.chain[:len(w.chain)-1] }, nil
}

// record finds what the directory has for an address: the exact name, the name
// without its detail, the catch-all.
func (w *walk) record(ctx context.Context, address string) (account lookup.Account, detail string, err error) {
	account, err = w.lookup(ctx, address)
	if !errors.Is(err, lookup.ErrAbsent) {
		return account, "", err
	}
	local, domain, _ := strings.Cut(address, "@")
	suffix := address[len(local):]
	if i := strings.IndexAny(local, w.r.opts.Separator); i > 0 {
		account, err = w.lookup(ctx, local[:i]+suffix)
		if !errors.Is(err, lookup.ErrAbsent) {
			return account, local[i+1:], err
		}
	}
	if catchAll := w.r.opts.CatchAll; catchAll != "" && domain != "" && local != catchAll {
		account, err = w.lookup(ctx, catchAll+suffix)
	}
	return account, "", err
}

// lookup asks the directory. An answer that is none of the three is
// unavailable.
func (w *walk) lookup(ctx context.Context, name string) (lookup.Account, error) {
	account, err := w.r.dir.Lookup(ctx, name)
	switch lookup.AnswerOf(err) {
	case lookup.AnswerFound:
		if account.Name == "" {
			account.Name = name
		}
		return account, nil
	case lookup.AnswerAbsent:
		return lookup.Account{}, lookup.ErrAbsent
	}
	return lookup.Account{}, lookup.Unavailable("resolve "+name, err)
}

// follow goes on from a record.
func (w *walk) follow(ctx context.Context, account lookup.Account, detail string) error {
	mailbox := func() { w.add(account.Name, Target{Kind: Mailbox, Account: account, Detail: detail}) }
	if !account.Status.MayReceive() {
		mailbox()
		return nil
	}
	domain := lookup.Domain(account.Name)
	if list, ok := account.Attributes[aliasAttribute]; ok {
		for _, word := range words(list) {
			if err := w.step(ctx, word, domain); err != nil {
				return err
			}
		}
		return nil
	}
	if w.r.opts.LeaveForwards {
		mailbox()
		return nil
	}
	only := isTrue(account.Attributes[forwardOnlyAttribute]) && len(account.Forwards) > 0
	var on []string
	for _, forward := range account.Forwards {
		if clean, err := lookup.CleanName(forward, domain); err == nil && clean == account.Name {
			only = false // a copy for itself
			continue
		}
		on = append(on, forward)
	}
	if !only {
		mailbox()
	}
	for _, forward := range on {
		if err := w.step(ctx, forward, domain); err != nil {
			return err
		}
	}
	return nil
}

// step goes on to a target of an alias or a forward. One that leads nowhere is
// not an error.
func (w *walk) step(ctx context.Context, address, domain string) error {
	clean, err := lookup.CleanName(address, domain)
	if err != nil || !isAddress(clean) {
		w.dangling = append(w.dangling, address)
		return nil
	}
	kind, _ := w.r.kind(clean)
	if kind != Mailbox {
		leave, err := w.enter(clean)
		if err != nil {
			return err
		}
		defer leave()
		w.add(clean, Target{Kind: kind, Address: address})
		return nil
	}
	err = w.local(ctx, clean)
	if errors.Is(err, lookup.ErrAbsent) {
		w.dangling = append(w.dangling, clean)
		return nil
	}
	return err
}

// add adds a target once, with the chain that leads to it.
func (w *walk) add(key string, t Target) {
	if w.targets[key] {
		return
	}
	w.targets[key] = true
	t.Via = slices.Clone(w.chain[:len(w.chain)-1])
	if t.Kind == Mailbox && !t.Account.Status.MayReceive() {
		w.closed = append(w.closed, t)
	} else {
		w.open = append(w.open, t)
	}
}

// words takes the list of an alias apart.
func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
}

// isAddress refuses what other mail systems' alias files may hold and no mail
// goes to here: commands, files, lists to include.
func isAddress(clean string) bool {
	return !strings.ContainsAny(clean[:1], "|/:<(") && !strings.ContainsAny(clean, "<>()[];,")
}

func isTrue(value string) bool {
	switch strings.ToLower(value) {
	case "1", "true", "yes", "on":
		return true
	}
	return false
}
