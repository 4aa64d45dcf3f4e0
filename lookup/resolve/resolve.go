// Package resolve says where the mail for an address goes: to which mailboxes,
// and to which addresses elsewhere. Aliases, forwards, details (anna+news) and
// catch-alls are resolved here, once, for a proxy's RCPT and a backend's
// delivery alike:
//
//	r, err := resolve.New(directory, resolve.Options{Domains: []string{"example.test"}})
//	result, err := r.Resolve(ctx, "Sales+Berlin@example.test")
//
// In a local domain the first of these that the directory has is it:
//
//  1. the address as it is, a + in it included;
//  2. the address without its detail, anna@example.test for
//     anna+news@example.test;
//  3. the domain's catch-all, the record *@example.test.
//
// A record with the attribute "alias" is an alias: its value lists addresses,
// with commas or white space between them, and the mail goes to those. A word
// without a domain is in the alias's own. Any other record is a mailbox. Its
// Forwards get a copy each, and with the attribute "fwdonly" set to 1, true,
// yes or on the mailbox itself gets nothing; forwards to itself mean that it
// does. An alias or a mailbox whose status does not accept mail is not followed
// any further.
//
// The three answers stay apart: what is unavailable anywhere on the way makes
// the whole answer unavailable, since mail to half of the targets now and to
// all of them later would arrive twice. (So an address with a detail may be put
// off while the directory is away though the mailbox is known to a cache: that
// there is no record of the very address is known for a short time only.) A loop
// is an error that names the chain, and so are too many steps and too many names.
//
// # Who resolves what
//
// Each part of a cluster resolves one thing, so that nothing is resolved twice and
// everything in one way:
//
//   - A proxy resolves at RCPT, through its cache and with LeaveForwards: aliases,
//     details and catch-alls. Each mailbox behind the address is offered to its home
//     by its own name, with its detail (Target.Mail), and each answers for itself.
//     The address is accepted when all have answered; one that cannot be had now
//     puts it off.
//   - A target in another domain, relayed or found behind an alias, goes to a
//     backend's queue (the parameter XRELAY of LMTP), which has the relay: to that of
//     the first mailbox behind the same address whose backend has one, else to the
//     default backend's. The queue takes it once for each delivery.
//   - An account's forwards are followed at its home and nowhere else, one step: the
//     backend has them in its queue, durably and once for each delivery, before it
//     answers for the mailbox. The sender of the envelope stays who it is, the null
//     sender above all, so that what cannot be forwarded is reported to the sender of
//     the mail and a report to nobody. Delivered-To names the accounts that have
//     forwarded a message; at one of them it is kept and goes no further. Before
//     that, RCPT asks whether the forwards lead in a circle and refuses if they do.
//   - A backend's submission, and its queue when a forward or a script names an
//     address, resolve as proxies do. What is resolved already stays as it is: a
//     mailbox's own address, with a detail or without, resolves to itself.
//
// One message reaches a mailbox once by each name it has there, with a detail or
// without, however many aliases lead to it: targets are told apart by those names,
// in lower case, and so are delivery ids.
package resolve

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"switchyard/lookup"
)

// The attributes that mean something here.
const (
	aliasAttribute       = "alias"
	forwardOnlyAttribute = "fwdonly"
)

// off turns a thing off whose zero value is on.
const off = "none"

// Options of a Resolver.
type Options struct {
	// Domains are the local ones: their addresses are in the directory. Nil
	// means that every domain is, but for the relayed.
	Domains []string

	// Relayed are domains whose mail is passed on as it is.
	Relayed []string

	// DefaultDomain is the domain of an address without one. Empty means that
	// such an address is asked for as it is.
	DefaultDomain string

	// Separator is the character, or any of several, before a detail. Zero
	// means "+"; "none" means that there are no details.
	Separator string

	// CatchAll is the local part of a domain's catch-all record. Zero means
	// "*"; "none" means that there are no catch-alls, and an absent address
	// costs one question less.
	CatchAll string

	// LeaveForwards leaves Account.Forwards to the home of the account. False
	// means that they are resolved here.
	LeaveForwards bool

	// MaxDepth bounds the steps from the address to a target. Zero means 10.
	MaxDepth int

	// MaxNames bounds the names that one address leads to, each a question or
	// two for the directory. Zero means 200.
	MaxNames int
}

// Kind is what a target is.
type Kind int

// The kinds of targets.
const (
	Mailbox Kind = iota // an account of the directory
	Relay               // an address in a relayed domain
	Remote              // an address elsewhere, from an alias or a forward
)

func (k Kind) String() string {
	switch k {
	case Mailbox:
		return "mailbox"
	case Relay:
		return "relay"
	default:
		return "remote"
	}
}

// Target is one place where the mail goes.
type Target struct {
	Kind Kind

	// Account is a Mailbox's. Whether its status accepts mail is the caller's
	// to ask.
	Account lookup.Account

	// Address is a Relay's or Remote's, as it was written.
	Address string

	// Detail is what stood behind the separator, in lower case; a Mailbox may
	// file by it.
	Detail string

	// Via is how the address came here: itself first, then the names of
	// records and addresses between, the last one not included. It is empty
	// when the address is the target's own.
	Via []string
}

// Mail is the address to which the target's mail is sent, when it was for
// address: that one as it stands, where the target's home can read it, else the
// mailbox's own with its detail behind a +.
func (t *Target) Mail(address string) string {
	if t.Kind != Mailbox {
		return t.Address
	}
	own := len(t.Via) == 0 || len(t.Via) == 1 && t.Detail != "" && strings.Contains(address, "+")
	if own && strings.Contains(address, "@") {
		return address
	}
	local, domain, found := strings.Cut(t.Account.Name, "@")
	if t.Detail == "" || !found {
		return t.Account.Name
	}
	return local + "+" + t.Detail + "@" + domain
}

// Result is where the mail goes. No two targets are the same.
type Result struct {
	// Targets has one at least. Mailboxes that do not accept mail are in it
	// only when nothing else is.
	Targets []Target

	// Dangling are targets of aliases and forwards that no mail can go to:
	// absent, or no address at all. The rest is resolved without them.
	Dangling []string
}

// ErrUnknownDomain says that a domain is neither local nor relayed. It is a
// kind of lookup.ErrAbsent.
var ErrUnknownDomain error = unknownDomain{}

type unknownDomain struct{}

func (unknownDomain) Error() string        { return "domain is neither local nor relayed" }
func (unknownDomain) Is(target error) bool { return target == lookup.ErrAbsent }

// ChainError says that an address leads in a circle or too far. It is neither
// absent nor unavailable: somebody has to mend the directory. SMTP has
// 5.4.6 for it (RFC 3463 §3.5).
type ChainError struct {
	Reason string
	Chain  []string // the address first, what was one too many last
}

func (e *ChainError) Error() string {
	return fmt.Sprintf("%s: %s", e.Reason, strings.Join(e.Chain, " -> "))
}

// Resolver resolves addresses. It is safe for concurrent use.
type Resolver struct {
	dir     lookup.Directory
	opts    Options
	domains map[string]bool // nil means all
	relayed map[string]bool
}

// New returns a resolver over a directory, which should be a cache.
func New(dir lookup.Directory, opts Options) (*Resolver, error) {
	for _, s := range []struct {
		value *string
		zero  string
	}{{&opts.Separator, "+"}, {&opts.CatchAll, "*"}} {
		switch *s.value {
		case "":
			*s.value = s.zero
		case off:
			*s.value = ""
		}
	}
	if strings.ContainsAny(opts.Separator, "@,") {
		return nil, fmt.Errorf("separator %q has a character that ends an address", opts.Separator)
	}
	opts.CatchAll = strings.ToLower(opts.CatchAll)
	if opts.CatchAll != "" {
		if _, err := lookup.CleanName(opts.CatchAll+"@x", ""); err != nil {
			return nil, fmt.Errorf("catch-all %q: %w", opts.CatchAll, err)
		}
	}
	if opts.MaxDepth <= 0 {
		opts.MaxDepth = 10
	}
	if opts.MaxNames <= 0 {
		opts.MaxNames = 200
	}
	r := &Resolver{dir: dir, opts: opts, relayed: set(opts.Relayed)}
	if opts.Domains != nil {
		r.domains = set(opts.Domains)
	}
	for domain := range r.relayed {
		if r.domains[domain] {
			return nil, fmt.Errorf("domain %s is local and relayed", domain)
		}
	}
	return r, nil
}

// Over returns the same resolver over another directory.
func (r *Resolver) Over(dir lookup.Directory) *Resolver {
	other := *r
	other.dir = dir
	return &other
}

func set(domains []string) map[string]bool {
	out := make(map[string]bool, len(domains))
	for _, d := range domains {
		out[strings.ToLower(d)] = true
	}
	return out
}

// kind is what a clean address is, before anybody is asked. Mailbox means that
// the directory has to say; ok is false for an unknown domain, where it is
// Remote.
func (r *Resolver) kind(address string) (k Kind, ok bool) {
	domain := lookup.Domain(address)
	switch {
	case domain != "" && r.relayed[domain]:
		return Relay, true
	case domain == "" || r.domains == nil || r.domains[domain]:
		return Mailbox, true
	}
	return Remote, false
}

// Local reports whether the domain of an address is one of the directory's,
// and whether it is relayed. Neither means that it is unknown.
func (r *Resolver) Local(address string) (local, relayed bool) {
	clean, err := lookup.CleanName(address, r.opts.DefaultDomain)
	if err != nil {
		clean = strings.ToLower(address)
	}
	k, ok := r.kind(clean)
	return ok && k == Mailbox, ok && k == Relay
}

// Resolve returns where the mail for an address goes. The address is one of
// SMTP's without its angle brackets and quotes, in any case. Errors:
// lookup.ErrAbsent, ErrUnknownDomain, lookup.ErrUnavailable, a *ChainError.
func (r *Resolver) Resolve(ctx context.Context, address string) (Result, error) {
	clean, err := lookup.CleanName(address, r.opts.DefaultDomain)
	if err != nil {
		return Result{}, err
	}
	switch kind, ok := r.kind(clean); {
	case !ok:
		return Result{}, ErrUnknownDomain
	case kind == Relay:
		return Result{Targets: []Target{{Kind: Relay, Address: address}}}, nil
	}
	w := &walk{r: r, done: make(map[string]bool), targets: make(map[string]bool)}
	switch err := w.local(ctx, clean); {
	case errors.Is(err, lookup.ErrAbsent):
		return Result{}, lookup.ErrAbsent
	case err != nil:
		return Result{}, err
	}
	return w.finish()
}
