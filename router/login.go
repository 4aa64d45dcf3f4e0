package router

import (
	"context"
	"errors"
	"fmt"

	"switchyard/lookup"
	"switchyard/router/upstream"

	"go.uber.org/zap"
)

// errLoop: a session has passed too many proxies.
var errLoop = fmt.Errorf("%w: the session has passed too many proxies: they go round in a circle", ErrProtocol)

// Check verifies a login as the client typed it and returns the account. The
// status is looked at behind the right password and not before: an account that
// may not log in is a *StatusError. A wrong login costs the client a delay that
// grows with each one on this connection, and one that grows over all of its
// address's; Check blocks for both, and ends early with ctx. Errors:
// lookup.ErrRejected, lookup.ErrUnavailable, *StatusError, ErrThrottled,
// ErrSessions, the cause of ctx. After a rejected login ask Exhausted.
func (s *Session) Check(ctx context.Context, typed, password string) (lookup.Account, error) {
	account, err := s.check(ctx, typed, password)
	s.last = err
	if err != nil {
		s.login(err)
	}
	if errors.Is(err, lookup.ErrRejected) {
		s.failures++
		if err := s.penance(ctx); err != nil {
			return lookup.Account{}, err
		}
	}
	return account, err
}

func (s *Session) check(ctx context.Context, typed, password string) (lookup.Account, error) {
	guard, client := s.router.guard, s.Client.Addr()
	name, err := lookup.CleanName(typed, s.router.o.DefaultDomain)
	if err != nil {
		guard.Failed(client, "", "")
		return lookup.Account{}, fmt.Errorf("%w: %v", lookup.ErrRejected, err)
	}
	s.named(name)
	if err := s.wait(ctx, name); err != nil {
		return lookup.Account{}, err
	}
	if password == "" {
		// Some directories take a login without a password for an anonymous
		// one, which always succeeds (RFC 4513 §5.1.2).
		guard.Failed(client, "", "")
		return lookup.Account{}, fmt.Errorf("%w: empty password", lookup.ErrRejected)
	}
	if s.router.draining.Load() {
		return lookup.Account{}, ErrDraining
	}
	account, err := s.verify(ctx, lookup.Credentials{
		Name: name, Password: password, Client: client, Protocol: s.proto,
	})
	switch lookup.AnswerOf(err) {
	case lookup.AnswerFound:
		guard.Succeeded(client, name)
	case lookup.AnswerAbsent, lookup.AnswerRejected:
		guard.Failed(client, name, password)
		return lookup.Account{}, fmt.Errorf("%w: user %q", lookup.ErrRejected, name)
	default:
		return lookup.Account{}, unavailable(ctx, "check the password", err)
	}
	if !account.Status.MayLogin() {
		return lookup.Account{}, &StatusError{account.Status}
	}
	if !s.router.live.enlist(s.live) {
		return lookup.Account{}, ErrSessions
	}
	s.loggedIn = true
	return account, nil
}

// verify asks the directory. The session bears the account's name before it is
// let in, so that a change of the account finds it, and from before the question
// when that is the name that was typed. When it is not (an alias), a change may
// have been told in between: the question is asked again then.
func (s *Session) verify(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	ctx, cancel := context.WithTimeout(ctx, s.router.o.LookupTimeout)
	defer cancel()
	for {
		before := s.router.live.now()
		account, err := s.router.dir.Check(ctx, c)
		s.router.asked.count(askCheck, err)
		if err != nil || account.Name == s.user {
			return account, err
		}
		s.named(account.Name)
		if !s.router.live.changedSince(before, account.Name) {
			return account, nil
		}
	}
}

// named says whose session it is, or would be.
func (s *Session) named(user string) {
	s.user = user
	s.router.live.name(s.live, user)
}

// login counts the end of a login.
func (s *Session) login(err error) { s.live.port.tally.logins[loginResultOf(err)].Add(1) }

// penance waits out the delay for the latest rejected login.
func (s *Session) penance(ctx context.Context) error {
	if s.router.o.FailureDelay < 0 {
		return nil
	}
	return sleep(ctx, s.router.o.FailureDelay<<min(s.failures-1, 4))
}

// Exhausted reports whether the client has had its last try: the protocol
// says goodbye and ends the session.
func (s *Session) Exhausted() bool { return s.failures >= s.router.o.MaxFailures }

// Reject counts a login that was wrong before it could be checked: an
// authorisation identity that is not the login's own. It waits as Check does.
func (s *Session) Reject(ctx context.Context, reason string) error {
	s.last = fmt.Errorf("%w: %s", lookup.ErrRejected, reason)
	s.login(s.last)
	s.router.guard.Failed(s.Client.Addr(), "", "")
	s.failures++
	if err := s.penance(ctx); err != nil {
		return err
	}
	return s.last
}

// SameAccount reports whether an authorisation identity names the account that
// logs in. An empty one does (RFC 4616 §2).
func (s *Session) SameAccount(authzid, authcid string) bool {
	if authzid == "" {
		return true
	}
	as, err := lookup.CleanName(authzid, s.router.o.DefaultDomain)
	if err != nil {
		return false
	}
	name, err := lookup.CleanName(authcid, s.router.o.DefaultDomain)
	return err == nil && as == name
}

// Lookup finds an account by an address, without a password. It says nothing
// about the account's status. Errors: lookup.ErrAbsent, lookup.ErrUnavailable,
// the cause of ctx.
func (s *Session) Lookup(ctx context.Context, address string) (lookup.Account, error) {
	return s.router.find(ctx, address, askLookup)
}

// Again looks an account up past the cache, after a backend said that it has
// moved. Errors as for Lookup.
func (s *Session) Again(ctx context.Context, name string) (lookup.Account, error) {
	s.router.dir.Forget(name)
	return s.router.find(ctx, name, askFresh)
}

func (r *Router) find(ctx context.Context, address string, q question) (lookup.Account, error) {
	name, err := lookup.CleanName(address, r.o.DefaultDomain)
	if err != nil {
		return lookup.Account{}, err
	}
	lookupCtx, cancel := context.WithTimeout(ctx, r.o.LookupTimeout)
	defer cancel()
	ask := r.dir.Lookup
	if q == askFresh {
		ask = r.dir.Fresh
	}
	account, err := ask(lookupCtx, name)
	r.asked.count(q, err)
	switch lookup.AnswerOf(err) {
	case lookup.AnswerFound:
		return account, nil
	case lookup.AnswerAbsent:
		return lookup.Account{}, err
	default:
		return lookup.Account{}, unavailable(ctx, "look up", err)
	}
}

// unavailable makes sure that a failed question stays "unavailable", whatever
// went wrong, unless the session itself is over.
func unavailable(ctx context.Context, step string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, lookup.ErrUnavailable) {
		return err
	}
	return lookup.Unavailable(step, err)
}

// Home returns the name of the backend that owns a found account: its home, or
// the default backend when it has none. An account whose home is no backend of
// ours is the operator's mistake (ErrOperator, logged here); it never goes to
// the default backend.
func (s *Session) Home(account lookup.Account) (string, error) {
	home, err := s.router.home(account)
	switch {
	case errors.Is(err, errNoHome):
		s.Log.Error("account has no home, and there is no default backend: give it one, or set default_backend",
			zap.String("user", account.Name))
	case errors.Is(err, errNoBackend):
		s.Log.Error("account's home is no configured backend: add the backend, or mend the home in the directory",
			zap.String("user", account.Name), zap.String("home", account.Home))
	}
	return home, err
}

// DefaultBackend returns the backend of the accounts that are found without a home,
// which serves what belongs to nobody in particular too; false when there is none.
func (s *Session) DefaultBackend() (string, bool) {
	home := s.router.o.DefaultBackend
	return home, home != "" && s.router.up.Has(home)
}

var (
	errNoHome    = fmt.Errorf("%w: the account has no home", ErrOperator)
	errNoBackend = fmt.Errorf("%w: no such backend", ErrOperator)
)

func (r *Router) home(account lookup.Account) (string, error) {
	home := account.Home
	switch {
	case account.Name == "":
		// Not an account that a directory found.
		return "", errors.New("an account without a name has no home")
	case home == "" && r.o.DefaultBackend == "":
		return "", errNoHome
	case home == "":
		home = r.o.DefaultBackend
	}
	if !r.up.Has(home) {
		return "", fmt.Errorf("%w: %q", errNoBackend, home)
	}
	return home, nil
}

// LoginFunc logs in on a connection to a backend, for the account. It returns
// ErrMoved when the backend says that the account lives elsewhere, and an
// *OwnerError when it says which of its nodes has it. What it returns otherwise
// decides whether the login is tried once more on another node: an ErrBackend
// is, unless it is Final. It need not close the connection.
type LoginFunc func(ctx context.Context, b *Back, account lookup.Account) error

// Open takes a checked account to its backend: finds the home, connects and
// logs in. When the backend says that the account has moved, Open looks it up
// once more, past the cache, and goes to the new home: once. Errors: ErrBackend,
// ErrOperator, lookup.ErrUnavailable, *StatusError, lookup.ErrAbsent when the
// account has gone meanwhile, login's own, the cause of ctx.
func (s *Session) Open(ctx context.Context, account lookup.Account, service upstream.Service, login LoginFunc) (*Back, error) {
	b, err := s.open(ctx, account, service, login)
	if errors.Is(err, ErrMoved) {
		b, err = s.follow(ctx, account, service, login)
	}
	s.last = err
	s.login(err)
	return b, err
}

// follow goes to the account's new home.
func (s *Session) follow(ctx context.Context, old lookup.Account, service upstream.Service, login LoginFunc) (*Back, error) {
	account, err := s.Again(ctx, old.Name)
	if err != nil {
		return nil, err
	}
	if !account.Status.MayLogin() {
		return nil, &StatusError{account.Status}
	}
	before, err := s.Home(old)
	if err != nil {
		return nil, err
	}
	now, err := s.Home(account)
	if err != nil {
		return nil, err
	}
	if now == before {
		// The backend knows of a move that the directory does not show yet, or
		// the two disagree about who owns the account.
		return nil, fmt.Errorf("%w: %w, and the directory still names %q", ErrBackend, ErrMoved, now)
	}
	b, err := s.open(ctx, account, service, login)
	if errors.Is(err, ErrMoved) {
		return nil, fmt.Errorf("%w: %w, a second time", ErrBackend, ErrMoved)
	}
	return b, err
}

func (s *Session) open(ctx context.Context, account lookup.Account, service upstream.Service, login LoginFunc) (*Back, error) {
	home, err := s.Home(account)
	if err != nil {
		return nil, err
	}
	s.home = home
	proof := s.router.proofOf(account)
	w := upstream.Want{Backend: home, Service: service, Account: account.Name, Client: s.Client.Addr()}
	b, err := s.reach(ctx, w, func(l *live, node string) { l.home, l.node, l.proof = home, node, proof },
		func(ctx context.Context, b *Back) error { s.node = b.Node; return login(ctx, b, account) })
	return b, err
}
