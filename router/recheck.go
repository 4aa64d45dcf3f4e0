package router

import (
	"context"
	"errors"
	"hash/maphash"
	"time"

	"switchyard/lookup"
)

// Recheck asks the directory about everybody who has a joined session, again and
// again until ctx ends, each once in a period and the questions spread over half of
// it, and at once when a feed of changes was interrupted (Changed without a name). It
// ends the sessions of accounts that are gone, that may not log in any more, that
// live elsewhere, or whose password the directory says is another. A directory that
// cannot answer ends nothing. Where the directory has a feed, Changed does all this
// within moments; Recheck is for those that have none, and for what a feed missed.
func (r *Router) Recheck(ctx context.Context, period time.Duration) {
	timer := time.NewTimer(period)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.missed:
		}
		r.recheck(ctx, period/2)
		timer.Reset(period)
	}
}

// Forget drops what the cache has of an account, remembered passwords too, asks the
// directory anew and ends those of the account's sessions that do not stand the
// answer, as Recheck does; it returns how many.
func (r *Router) Forget(ctx context.Context, user string) (n int, err error) {
	name, err := lookup.CleanName(user, r.o.DefaultDomain)
	if err != nil {
		return 0, err
	}
	r.dir.Forget(name)
	return r.recheckUser(ctx, name), nil
}

// ForgetAll is Forget for all accounts; the questions, and what they end, come
// later, at Recheck's pace.
func (r *Router) ForgetAll() {
	r.dir.Purge()
	r.askAgain()
}

// askAgain makes Recheck ask about everybody soon.
func (r *Router) askAgain() {
	select {
	case r.missed <- struct{}{}:
	default:
	}
}

// recheck asks about everybody once, spread over a time, and returns how many
// sessions it ended.
func (r *Router) recheck(ctx context.Context, over time.Duration) (n int) {
	users := r.live.joinedUsers()
	if len(users) == 0 {
		return 0
	}
	between := pace{every: over / time.Duration(len(users))}
	for _, user := range users {
		if between.wait(ctx) != nil {
			return n
		}
		n += r.recheckUser(ctx, user)
	}
	return n
}

func (r *Router) recheckUser(ctx context.Context, user string) int {
	account, err := r.find(ctx, user, askLookup)
	if err != nil && !errors.Is(err, lookup.ErrAbsent) {
		return 0
	}
	home, homeErr := r.home(account)
	now := r.proofOf(account)
	reason := ""
	var over func(*live) bool
	switch {
	case err != nil:
		reason, over = "the account is gone", func(*live) bool { return true }
	case !account.Status.MayLogin():
		reason, over = "the account is "+string(account.Status), func(*live) bool { return true }
	default:
		reason, over = "the account has changed", func(l *live) bool { return l.proof.differs(now) || homeErr == nil && l.home != home }
	}
	sessions := r.live.joinedOf(user, over)
	if len(sessions) == 0 {
		return 0
	}
	return r.kick(ctx, sessions, reason, func() bool { return true })
}

// proof is what a login stands on and a later answer of the directory can refute.
type proof struct {
	generation uint64 // zero: the directory does not say
	password   uint64 // a hash of Account.PasswordMark; zero: the directory does not say
}

func (r *Router) proofOf(a lookup.Account) proof {
	p := proof{generation: a.Generation}
	if a.PasswordMark != "" {
		p.password = max(1, maphash.String(r.seed, a.PasswordMark))
	}
	return p
}

// differs reports whether two answers contradict each other. One that says less
// than the other, as a server may that checks a password, does not.
func (p proof) differs(now proof) bool {
	return p.generation != 0 && now.generation != 0 && p.generation != now.generation ||
		p.password != 0 && now.password != 0 && p.password != now.password
}

// joinedUsers returns those who have joined sessions.
func (g *registry) joinedUsers() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for user, first := range g.users {
		for l := first; l != nil; l = l.further {
			if l.state == StateJoined {
				out = append(out, user)
				break
			}
		}
	}
	return out
}

// joinedOf returns a user's joined sessions for which a condition holds.
func (g *registry) joinedOf(user string, holds func(*live) bool) []*live {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*live
	for l := g.users[user]; l != nil; l = l.further {
		if l.state == StateJoined && holds(l) {
			out = append(out, l)
		}
	}
	return out
}
