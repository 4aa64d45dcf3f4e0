package smtp

import (
	"context"
	"errors"
	"maps"
	"slices"
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
	a := f.t.seen[key]
	if a == nil {
		err := error(resolve.ErrUnknownDomain)
		if f.ours(to.Domain) {
			a, err = f.recipient(ctx, address, p)
		}
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return recipientReply(err)
		}
	}
	f.t.seen[key] = a // once is enough
	f.t.addressees = append(f.t.addressees, a)
	return nil
}

// ours reports whether mail for a domain is taken. <postmaster> always is
// (RFC 5321 §4.5.1).
func (f *inbound) ours(domain string) bool {
	local, relayed := f.resolver.Local("x@" + domain)
	return domain == "" || local || relayed
}

// recipient resolves an address and offers what is behind it to the backends. What
// one of them refuses for good is refused for good only when nobody takes the mail;
// else it is reported to the sender. One that cannot be had now puts the whole
// address off, and what was accepted for it is taken back.
func (f *inbound) recipient(ctx context.Context, address string, p smtpd.RcptParams) (*addressee, error) {
	found, err := f.resolver.Resolve(ctx, address)
	if err != nil {
		return nil, err
	}
	// One who has mail for us is no longer a stranger at the door. From here on a
	// backend that hangs may take its time without costing other recipients theirs.
	f.s.Admit()
	if len(found.Dangling) > 0 {
		f.s.Log.Warn("address leads to targets that do not exist: mend the alias",
			zap.String("to", address), zap.Strings("targets", found.Dangling))
	}
	a := &addressee{address: address}
	fresh := make(map[*offer]bool) // what this address has added to the transaction
	var no, later error
	accepted := 0
	for i := range found.Targets {
		o, err := f.target(ctx, a, p, found.Targets, i, fresh)
		switch {
		case err == nil:
			accepted++
		case ctx.Err() != nil:
			return nil, err
		case o.answer.Permanent():
			no = errors.Join(no, err)
		default:
			later = errors.Join(later, err)
			continue
		}
		a.offers = append(a.offers, o)
	}
	switch {
	case later != nil:
		no = later
	case accepted > 0:
		return a, nil
	}
	f.retract(fresh)
	return nil, no
}

// target offers one of the targets of an address. One that was accepted in this
// transaction already is not offered again.
func (f *inbound) target(ctx context.Context, a *addressee, p smtpd.RcptParams, targets []resolve.Target, i int, fresh map[*offer]bool) (*offer, error) {
	t := &targets[i]
	to := recipient{address: t.Mail(a.address), params: p, account: t.Account}
	key := t.Kind.String() + " " + strings.ToLower(to.address)
	if o := f.t.offers[key]; o != nil {
		return o, nil
	}
	if to.address != a.address && p.ORcptType == "" && addressType(a.address) == "rfc822" {
		// Who it was for is still known in a report. (An address in UTF-8 would need
		// an encoding of its own, RFC 6533 §3.)
		to.params.ORcptType, to.params.ORcpt = "rfc822", a.address
	}
	if slices.ContainsFunc(a.offers, func(o *offer) bool { return o.leg != nil }) {
		// Of those behind an alias one at most says that it has the message.
		to.params.Notify = withoutSuccess(to.params.Notify)
	}
	o := &offer{to: to}
	var err error
	if t.Kind == resolve.Mailbox {
		err = f.mailbox(ctx, a, o)
	} else {
		err = f.relay(ctx, o, targets)
	}
	if errors.Is(err, replyForeign) && len(targets) > 1 {
		// An alias that leads to two foreign backends could never be had whole.
		err = f.relay(ctx, o, targets)
	}
	if err == nil {
		f.t.offers[key], fresh[o] = o, true
		return o, nil
	}
	var said smtpd.Reply
	if errors.As(recipientReply(err), &said) && said.Permanent() {
		o.answer, o.leg = said, nil
	}
	return o, err
}

// withoutSuccess takes SUCCESS out of a NOTIFY (RFC 3461 §5.2.7.3).
func withoutSuccess(notify string) string {
	if notify == "" {
		return ""
	}
	left := slices.DeleteFunc(strings.Split(notify, ","), func(word string) bool { return word == "SUCCESS" })
	if len(left) == 0 {
		return "NEVER" // nothing said would mean FAILURE
	}
	return strings.Join(left, ",")
}

// retract takes back what was accepted for an address that is not.
func (f *inbound) retract(fresh map[*offer]bool) {
	gone := func(o *offer) bool { return fresh[o] }
	maps.DeleteFunc(f.t.offers, func(_ string, o *offer) bool { return fresh[o] })
	for _, l := range f.t.legs {
		l.retract(f.t, gone)
	}
	f.t.legs = slices.DeleteFunc(f.t.legs, func(l *leg) bool { return len(l.taken) == 0 && !l.lost })
}

// mailbox offers an account to its backend. A backend that says that it lives
// elsewhere costs one more look, past the cache, and one more offer.
func (f *inbound) mailbox(ctx context.Context, a *addressee, o *offer) error {
	home, err := f.offer(ctx, a, o)
	if !errors.Is(err, router.ErrMoved) {
		return err
	}
	again, err := f.s.Again(ctx, o.to.account.Name)
	if err != nil {
		return err
	}
	if now, err := f.s.Home(again); err != nil || now == home {
		// The directory does not show the move yet.
		return errors.Join(err, router.ErrMoved)
	}
	o.to.account = again
	_, err = f.offer(ctx, a, o)
	return err
}

// offer offers an account to its home, and returns the home. Two foreign backends
// must not have to do with one answer: see delivery.
func (f *inbound) offer(ctx context.Context, a *addressee, o *offer) (home string, err error) {
	if !o.to.account.Status.MayReceive() {
		return "", &router.StatusError{Status: o.to.account.Status}
	}
	if home, err = f.s.Home(o.to.account); err != nil {
		return "", err
	}
	l, err := f.leg(ctx, home)
	if err != nil {
		return home, err
	}
	if l.foreign() {
		beside := a.offers
		if !f.p.lmtp {
			beside = slices.Collect(maps.Values(f.t.offers))
		}
		if slices.ContainsFunc(beside, func(o *offer) bool { return o.leg != nil && o.leg != l && o.leg.foreign() }) {
			return home, replyForeign
		}
	}
	return home, f.say(ctx, home, f.t, o)
}

// relay offers an address to a queue: that of the first backend behind the same
// alias that has one, so that one backend more has nothing to do with the message,
// else that of the default one.
func (f *inbound) relay(ctx context.Context, o *offer, targets []resolve.Target) error {
	var homes []string
	for i := range targets {
		if t := &targets[i]; t.Kind == resolve.Mailbox && t.Account.Status.MayReceive() {
			home, err := f.s.Home(t.Account)
			if err != nil {
				return err
			}
			homes = append(homes, home)
		}
	}
	if home, ok := f.s.DefaultBackend(); ok {
		homes = append(homes, home)
	}
	for _, home := range homes {
		l, err := f.leg(ctx, home)
		if err != nil {
			return err
		}
		if l.has("XRELAY") {
			o.to.relay = true
			return f.say(ctx, home, f.t, o)
		}
	}
	f.s.Log.Error("no backend passes mail on: the default backend has to be a backendd", zap.String("to", o.to.address))
	return replyOperator
}

// say says RCPT to a backend and returns its answer.
func (f *inbound) say(ctx context.Context, home string, t *transaction, o *offer) error {
	l, err := f.leg(ctx, home)
	if err != nil {
		return err
	}
	err = l.recipient(t, o)
	if l.lost && l.used && len(l.taken) == 0 && ctx.Err() == nil {
		// It was idle since the message before: the backend may have closed it.
		f.drop(l)
		if l, err = f.leg(ctx, home); err != nil {
			return err
		}
		err = l.recipient(t, o)
	}
	if l.lost {
		f.drop(l)
	}
	if err == nil && t.leg(home) == nil {
		t.legs = append(t.legs, l)
	}
	return err
}
