package router

import (
	"context"
	"errors"
	"fmt"
	"time"

	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/router/sasl"
	"switchyard/router/upstream"

	"go.uber.org/zap"
)

// Login is a login on its way to a backend: one that has been found good, or one
// that only the backend can judge.
type Login struct {
	Account lookup.Account

	name     string // under which it is counted
	password string // for backends that want it; never said in the log
	relay    *sasl.Relay
	judged   bool // by the backend: nothing has been proved yet
}

// String shows no password.
func (l *Login) String() string   { return "login of " + l.Account.Name }
func (l *Login) GoString() string { return l.String() }

// Credentials returns what to log in with on a backend, in that backend's way.
// Errors: upstream.ErrNoSecret, upstream.ErrNoPassword.
func (l *Login) Credentials(b *Back, account lookup.Account) (wire.Plain, error) {
	return b.Credentials(account.Name, l.password)
}

// Relay returns the exchange that the backend is to go on with, or nil when the
// proxy logs in itself.
func (l *Login) Relay() *sasl.Relay { return l.relay }

// Judged reports whether the backend's "wrong password" is about the client: it
// is an ErrRejected then. Otherwise it is about the proxy.
func (l *Login) Judged() bool { return l.judged }

// Authenticate goes through a mechanism with the client: one of Mechanisms. Where
// the login is wrong it costs what a wrong password costs (see Check). Errors: as
// Check's; wire.ErrSASL for a message that makes no sense; next's own, as they
// are.
func (s *Session) Authenticate(ctx context.Context, mechanism string, next sasl.Next) (*Login, error) {
	switch mechanism {
	case sasl.Plain:
		message, err := next(nil)
		if err != nil {
			return nil, err
		}
		p, err := wire.ParsePlain(message)
		if err != nil {
			return nil, err
		}
		return s.Password(ctx, p.Authzid, p.Authcid, p.Password)
	case sasl.Login:
		user, err := next([]byte("Username:"))
		if err != nil {
			return nil, err
		}
		password, err := next([]byte("Password:"))
		if err != nil {
			return nil, err
		}
		return s.Password(ctx, "", string(user), string(password))
	case sasl.SCRAMSHA256, sasl.SCRAMSHA1, sasl.SCRAMSHA256Plus, sasl.SCRAMSHA1Plus:
		return s.scram(ctx, mechanism, next)
	case sasl.OAuthBearer, sasl.XOAuth2:
		return s.bearer(ctx, mechanism, next)
	case sasl.External:
		return s.external(ctx, next)
	}
	return nil, fmt.Errorf("mechanism %q is not known", mechanism)
}

// Password is a login with a password, as the client typed it: for oneself, or
// for another by a master user. Errors: as Check's.
func (s *Session) Password(ctx context.Context, authzid, typed, password string) (*Login, error) {
	user, master, isMaster := s.router.o.SASL.Masters.Split(typed)
	switch {
	case isMaster && !s.SameAccount(authzid, user):
		return nil, s.Reject(ctx, "two names for whom the master acts")
	case isMaster:
		return s.asMaster(ctx, user, master, password)
	case s.SameAccount(authzid, typed):
	case len(s.router.o.SASL.Masters.Accounts) > 0:
		return s.asMaster(ctx, authzid, typed, password)
	default:
		return nil, s.Reject(ctx, "may not act for another")
	}
	if s.router.policies(s.service()).unchecked {
		if l, err := s.unchecked(ctx, typed, password); l != nil || err != nil {
			return l, err
		}
	}
	account, err := s.Check(ctx, typed, password)
	if err != nil {
		return nil, err
	}
	return &Login{Account: account, name: account.Name, password: password}, nil
}

// unchecked looks whether the account's backend judges passwords itself; nil
// when it does not, or when there is no such account: then the directory does.
func (s *Session) unchecked(ctx context.Context, typed, password string) (*Login, error) {
	account, err := s.Lookup(ctx, typed)
	switch {
	case errors.Is(err, lookup.ErrAbsent):
		// What a backend would have taken to say no, so that the time does not
		// tell who exists.
		return nil, sleep(ctx, time.Duration(s.router.refusal.Load()))
	case err != nil:
		return nil, s.failed(err)
	}
	home, err := s.Home(account)
	if err != nil {
		return nil, s.failed(err)
	}
	if !s.router.up.LoginPolicy(home).Unchecked || password == "" {
		return nil, nil
	}
	s.named(account.Name)
	if err := s.wait(ctx, account.Name); err != nil {
		return nil, s.failed(err)
	}
	if s.router.draining.Load() {
		return nil, s.failed(ErrDraining)
	}
	return &Login{Account: account, name: account.Name, password: password, judged: true}, nil
}

// asMaster is a login of a master user for another: the master's password is
// checked, and the session is the other's.
func (s *Session) asMaster(ctx context.Context, user, master, password string) (*Login, error) {
	name, err := lookup.CleanName(master, s.router.o.DefaultDomain)
	if err != nil || !s.router.o.SASL.Masters.May(name, s.Client.Addr()) {
		return nil, s.Reject(ctx, "may not act for another")
	}
	admin, err := s.Check(ctx, master, password)
	if err != nil {
		return nil, err
	}
	if !s.router.o.SASL.Masters.May(admin.Name, s.Client.Addr()) {
		return nil, s.Reject(ctx, "may not act for another") // an alias of somebody else's
	}
	s.loggedIn = false
	account, err := s.identified(ctx, user, "")
	if err != nil {
		return nil, err
	}
	s.Note(zap.String("master", admin.Name))
	s.Log.Info("a master user acts for another", zap.String("user", account.Name), zap.String("master", admin.Name))
	return &Login{Account: account, name: account.Name}, nil
}

// Authenticated takes in a user whom a mechanism has proved without a password:
// it looks the account up and does all that Check does behind the right
// password. Who proves to be somebody without an account is rejected, at the
// same cost. Errors: as Check's.
func (s *Session) Authenticated(ctx context.Context, typed, mechanism string) (lookup.Account, error) {
	account, err := s.identified(ctx, typed, typed)
	if err == nil {
		s.Note(zap.String("mechanism", mechanism))
	}
	return account, err
}

// identified is Authenticated. What the guard remembers of it is under the name
// by; empty: nothing.
func (s *Session) identified(ctx context.Context, typed, by string) (lookup.Account, error) {
	name, err := lookup.CleanName(typed, s.router.o.DefaultDomain)
	if err != nil {
		return lookup.Account{}, s.deny(ctx, "", "", "bad account name")
	}
	s.named(name)
	if s.router.draining.Load() {
		return lookup.Account{}, s.failed(ErrDraining)
	}
	if by != "" {
		by = name
	}
	account, err := s.found(ctx, name)
	switch {
	case errors.Is(err, lookup.ErrAbsent):
		return lookup.Account{}, s.deny(ctx, by, "", "no such account")
	case err != nil:
		return lookup.Account{}, s.failed(err)
	}
	if err := s.takeIn(account, by); err != nil {
		return lookup.Account{}, s.failed(err)
	}
	return account, nil
}

// takeIn does what follows a proof. The name is the guard's; see identified.
func (s *Session) takeIn(account lookup.Account, name string) error {
	if !account.Status.MayLogin() {
		return &StatusError{account.Status}
	}
	if !s.router.live.enlist(s.live) {
		return ErrSessions
	}
	if name != "" {
		s.router.guard.Succeeded(s.Client.Addr(), name)
	}
	s.loggedIn = true
	return nil
}

// found looks an account up, under whose name the session is from before the
// answer on, so that a change of the account finds it; see verify.
func (s *Session) found(ctx context.Context, name string) (lookup.Account, error) {
	for {
		before := s.router.live.now()
		account, err := s.router.find(ctx, name, askLookup)
		if err != nil || account.Name == s.user {
			return account, err
		}
		s.named(account.Name)
		if !s.router.live.changedSince(before, account.Name) {
			return account, nil
		}
	}
}

// deny counts a login that was wrong, and waits as Check does. An empty name
// stands for a login whose user is not known; a secret tells repetitions apart.
func (s *Session) deny(ctx context.Context, name, secret, reason string) error {
	s.last = fmt.Errorf("%w: %s", lookup.ErrRejected, reason)
	s.login(s.last)
	s.router.guard.Failed(s.Client.Addr(), name, secret)
	s.failures++
	if err := s.penance(ctx); err != nil {
		return err
	}
	return s.last
}

// failed counts a login that could not be judged, or may not be used.
func (s *Session) failed(err error) error {
	s.last = err
	s.login(err)
	return err
}

// Enter takes a login to its backend, as Open does for an account. What the
// backend judges is counted here. Errors: Open's, and Check's.
func (s *Session) Enter(ctx context.Context, l *Login, service upstream.Service, login LoginFunc) (*Back, error) {
	started := time.Now()
	b, err := s.Open(ctx, l.Account, service, login)
	if !l.judged {
		return b, err
	}
	if err == nil {
		if err = s.takeIn(l.Account, l.name); err != nil {
			b.Close()
			return nil, s.failed(err)
		}
		return b, nil
	}
	if errors.Is(err, lookup.ErrRejected) {
		if l.relay == nil {
			s.router.refusal.Store(int64(time.Since(started)))
		}
		s.router.guard.Failed(s.Client.Addr(), l.name, l.password)
		s.failures++
		if err := s.penance(ctx); err != nil {
			return nil, err
		}
	}
	return nil, err
}

func (s *Session) service() upstream.Service { return upstream.Service(s.proto) }
