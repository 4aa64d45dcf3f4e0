package smtp

import (
	"context"
	"errors"
	"strings"

	"switchyard/internal/smtpd"
	"switchyard/lookup"
	"switchyard/lookup/resolve"
	"switchyard/router"

	"go.uber.org/zap"
)

// accounts is what a session's resolver asks.
type accounts struct{ s *router.Session }

// Lookup implements lookup.Directory.
func (d accounts) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	return d.s.Lookup(ctx, name)
}

// Check implements lookup.Directory. Nobody logs in to send us mail.
func (accounts) Check(context.Context, lookup.Credentials) (lookup.Account, error) {
	return lookup.Account{}, lookup.Unavailable("check a recipient's password", nil)
}

// Rcpt implements smtpd.Session. The address is resolved, and each mailbox behind
// it decides for itself.
func (f *inbound) Rcpt(ctx context.Context, to smtpd.Path, p smtpd.RcptParams) error {
	address := to.String()
	key := strings.ToLower(address)
	if f.t.seen[key] {
		return nil // once is enough
	}
	err := error(resolve.ErrUnknownDomain)
	if f.ours(to.Domain) {
		err = f.recipient(ctx, address, p)
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return recipientReply(err)
	}
	f.t.seen[key] = true
	f.t.recipients = append(f.t.recipients, address)
	f.s.Admit() // one who has mail for us is no longer a stranger at the door
	return nil
}

// ours reports whether mail for a domain is taken. <postmaster> always is
// (RFC 5321 §4.5.1).
func (f *inbound) ours(domain string) bool {
	local, relayed := f.resolver.Local("x@" + domain)
	return domain == "" || local || relayed
}

// recipient resolves an address and offers what is behind it to the backends.
func (f *inbound) recipient(ctx context.Context, address string, p smtpd.RcptParams) error {
	found, err := f.resolver.Resolve(ctx, address)
	if err != nil {
		return err
	}
	return f.offerAll(ctx, address, p, found.Targets)
}

// offerAll offers every target. One that is refused for good is left out as long
// as another is taken: the sender of an alias can do nothing about its members.
// One that cannot be had now puts the whole address off; who was taken already
// knows the message again when it comes back.
func (f *inbound) offerAll(ctx context.Context, address string, p smtpd.RcptParams, targets []resolve.Target) error {
	accepted := 0
	var no, later error
	for i := range targets {
		t := &targets[i]
		mail := t.Mail(address)
		key := t.Kind.String() + " " + strings.ToLower(mail)
		if f.t.offered[key] {
			accepted++
			continue
		}
		r := recipient{address: mail, params: p, account: t.Account}
		if mail != address && p.ORcptType == "" { // who it was for is still known in a report
			r.params.ORcptType, r.params.ORcpt = "rfc822", address
		}
		var err error
		if t.Kind == resolve.Mailbox {
			err = f.mailbox(ctx, r)
		} else {
			err = f.relay(ctx, r, targets)
		}
		switch {
		case err == nil:
			accepted++
			f.t.offered[key] = true
		case ctx.Err() != nil:
			return err
		case isNo(err):
			no = errors.Join(no, err)
		case later == nil:
			later = err
		}
	}
	switch {
	case later != nil:
		return later
	case accepted == 0:
		return no
	}
	return nil
}

// isNo reports whether a target was refused for good.
func isNo(err error) bool {
	var said smtpd.Reply
	if errors.As(recipientReply(err), &said) {
		return said.Permanent()
	}
	return false
}

// mailbox offers an account to its backend. A backend that says that it lives
// elsewhere costs one more look, past the cache, and one more offer.
func (f *inbound) mailbox(ctx context.Context, to recipient) error {
	home, err := f.offer(ctx, to)
	if !errors.Is(err, router.ErrMoved) {
		return err
	}
	again, err := f.s.Again(ctx, to.account.Name)
	if err != nil {
		return err
	}
	if now, err := f.s.Home(again); err != nil || now == home {
		// The directory does not show the move yet.
		return errors.Join(err, router.ErrMoved)
	}
	to.account = again
	_, err = f.offer(ctx, to)
	return err
}

// offer offers an account to its home, and returns the home.
func (f *inbound) offer(ctx context.Context, to recipient) (home string, err error) {
	if !to.account.Status.MayReceive() {
		return "", &router.StatusError{Status: to.account.Status}
	}
	if home, err = f.s.Home(to.account); err != nil {
		return "", err
	}
	return home, f.say(ctx, home, to)
}

// relay offers an address that is none of the cluster's to a queue: that of the
// first backend behind the same alias, so that one backend more has nothing to
// do with the message, else the default one's.
func (f *inbound) relay(ctx context.Context, to recipient, targets []resolve.Target) error {
	owner := lookup.Account{Name: to.address}
	for i := range targets {
		if t := &targets[i]; t.Kind == resolve.Mailbox && t.Account.Status.MayReceive() {
			owner = t.Account
			break
		}
	}
	home, err := f.s.Home(owner)
	if err != nil {
		return err
	}
	l, err := f.leg(ctx, home)
	if err != nil {
		return err
	}
	if !l.has("XRELAY") {
		f.s.Log.Error("backend passes no mail on; the address behind the alias needs a backendd", zap.String("home", home))
		return replyOperator
	}
	to.relay = true
	return f.say(ctx, home, to)
}

// say says RCPT to a backend and returns its answer.
func (f *inbound) say(ctx context.Context, home string, to recipient) error {
	l, err := f.leg(ctx, home)
	if err != nil {
		return err
	}
	if one := f.t.foreign(); one != nil && one != l && l.foreign() {
		return replyForeign
	}
	err = l.recipient(f.t, to)
	if l.lost && l.used && l.accepted == 0 && ctx.Err() == nil {
		// It was idle since the message before: the backend may have closed it.
		f.drop(l)
		if l, err = f.leg(ctx, home); err != nil {
			return err
		}
		err = l.recipient(f.t, to)
	}
	if l.lost {
		f.drop(l)
	}
	if err == nil && f.t.leg(home) == nil {
		f.t.legs = append(f.t.legs, l)
	}
	return err
}
