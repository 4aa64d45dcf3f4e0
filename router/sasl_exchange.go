package router

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"switchyard/internal/tlsconf"
	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/router/sasl"

	"go.uber.org/zap"
)

// scram goes through SCRAM: with the directory's keys, or by leaving the rest of
// the exchange to the account's backend. For a name that nobody has it goes
// through with invented keys.
func (s *Session) scram(ctx context.Context, mechanism string, next sasl.Next) (*Login, error) {
	message, err := next(nil)
	if err != nil {
		return nil, err
	}
	first, err := sasl.ParseClientFirst(message)
	if err != nil {
		return nil, err
	}
	base, plus := sasl.Base(mechanism)
	if plus != (first.Flag == 'p') {
		return nil, fmt.Errorf("%w: SCRAM: the mechanism and its header contradict each other", wire.ErrSASL)
	}
	x := &proving{s: s, mechanism: mechanism, base: base, plus: plus, first: first, next: next}
	name, err := lookup.CleanName(first.Username, s.router.o.DefaultDomain)
	if err != nil || !s.SameAccount(first.Authzid, first.Username) {
		return nil, x.feign(ctx, first.Username)
	}
	s.named(name)
	if err := s.wait(ctx, name); err != nil {
		return nil, s.failed(err)
	}
	if s.router.draining.Load() {
		return nil, s.failed(ErrDraining)
	}
	account, err := s.found(ctx, name)
	switch {
	case errors.Is(err, lookup.ErrAbsent):
		return nil, x.feign(ctx, name)
	case err != nil:
		return nil, s.failed(err)
	}
	home, err := s.Home(account)
	if err != nil {
		return nil, s.failed(err)
	}
	if s.router.up.LoginPolicy(home).Forward {
		return x.relay(account, name, home)
	}
	keys, err := s.router.keysOf(ctx, account.Name, base)
	switch {
	case err == nil:
		return x.prove(ctx, account, name, keys)
	case errors.Is(err, lookup.ErrNoKeys):
		return x.relay(account, name, home)
	case errors.Is(err, lookup.ErrAbsent):
		return nil, x.feign(ctx, name)
	default:
		return nil, s.failed(unavailable(ctx, "ask for keys", err))
	}
}

// proving is one exchange of SCRAM.
type proving struct {
	s               *Session
	mechanism, base string
	plus            bool
	first           sasl.ClientFirst
	next            sasl.Next
}

// prove goes through the exchange with an account's keys.
func (x *proving) prove(ctx context.Context, account lookup.Account, name string, keys lookup.Keys) (*Login, error) {
	err := x.serve(keys)
	switch {
	case errors.Is(err, sasl.ErrFailed):
		return nil, x.s.deny(ctx, name, "", "wrong proof")
	case err != nil:
		return nil, err
	}
	account, err = x.s.Authenticated(ctx, account.Name, x.mechanism)
	if err != nil {
		return nil, err
	}
	return &Login{Account: account, name: account.Name}, nil
}

func (x *proving) serve(keys lookup.Keys) error {
	state := x.s.Conn.TLS()
	var bound *sasl.Binding
	if x.plus {
		bound, _ = sasl.BindingOf(state, x.first.Binding, x.s.certificate())
	}
	return sasl.Serve(x.first, keys, bound, x.s.offers(x.base+"-PLUS"), x.next)
}

// feign goes through the exchange for a name that nobody has, and rejects it in
// the end.
func (x *proving) feign(ctx context.Context, name string) error {
	err := x.serve(x.s.router.o.SASL.Invent(x.base, name))
	if err != nil && !errors.Is(err, sasl.ErrFailed) {
		return err
	}
	if _, err := lookup.CleanName(name, ""); err != nil {
		name = ""
	}
	return x.s.deny(ctx, name, "", "nobody, or somebody else")
}

// relay leaves the exchange to the account's backend.
func (x *proving) relay(account lookup.Account, name, home string) (*Login, error) {
	offer, _ := x.s.router.up.Offers(home, x.s.service())
	if x.plus || !relays(offer, x.base) {
		// It was offered when every account could use it.
		x.s.Log.Error("account cannot use a mechanism that is offered: its directory has no keys of it, and its backend does not offer it without -PLUS",
			zap.String("user", account.Name), zap.String("home", home), zap.String("mechanism", x.mechanism))
		return nil, x.s.failed(fmt.Errorf("%w: %s cannot be used for the account", ErrOperator, x.mechanism))
	}
	x.s.Note(zap.String("mechanism", x.mechanism))
	return &Login{
		Account: account, name: name, judged: true,
		relay: &sasl.Relay{Mechanism: x.mechanism, First: []byte(x.first.Raw), Next: x.next},
	}, nil
}

// bearer goes through OAUTHBEARER or XOAUTH2.
func (s *Session) bearer(ctx context.Context, mechanism string, next sasl.Next) (*Login, error) {
	message, err := next(nil)
	if err != nil {
		return nil, err
	}
	parse := sasl.ParseOAuthBearer
	if mechanism == sasl.XOAuth2 {
		parse = sasl.ParseXOAuth2
	}
	bearer, err := parse(message)
	if err != nil {
		return nil, err
	}
	name := ""
	if bearer.User != "" {
		if name, err = lookup.CleanName(bearer.User, s.router.o.DefaultDomain); err != nil {
			name = ""
		} else {
			s.named(name)
		}
	}
	if err := s.wait(ctx, name); err != nil {
		return nil, s.failed(err)
	}
	tokens := s.router.o.SASL.Tokens
	user, err := tokens.Verify(ctx, bearer.Token)
	switch {
	case errors.Is(err, sasl.ErrToken):
	case err != nil:
		if ctx.Err() == nil {
			s.Log.Warn("a token cannot be verified", zap.Error(err))
		}
		return nil, s.failed(unavailable(ctx, "verify a token", err))
	case bearer.User == "" || s.SameAccount(bearer.User, user):
		account, err := s.Authenticated(ctx, user, mechanism)
		if err != nil {
			return nil, err
		}
		return &Login{Account: account, name: account.Name}, nil
	}
	if err := tokens.Hint().Refuse(mechanism, next); err != nil {
		return nil, err
	}
	reason := "token of another user"
	if err != nil {
		reason = err.Error()
	}
	return nil, s.deny(ctx, name, bearer.Token, reason)
}

// external goes through EXTERNAL (RFC 4422 appendix A): the client's certificate
// says who it is, and its message may say so again.
func (s *Session) external(ctx context.Context, next sasl.Next) (*Login, error) {
	message, err := next(nil)
	if err != nil {
		return nil, err
	}
	user, err := s.router.o.SASL.Certificate.Account(s.Conn.TLS())
	if err != nil {
		return nil, s.deny(ctx, "", "", err.Error())
	}
	if !s.SameAccount(string(message), user) {
		return nil, s.deny(ctx, "", "", "the certificate is another account's")
	}
	if err := s.wait(ctx, user); err != nil {
		return nil, s.failed(err)
	}
	account, err := s.Authenticated(ctx, user, sasl.External)
	if err != nil {
		return nil, err
	}
	return &Login{Account: account, name: account.Name}, nil
}

// certificate returns the certificate that this proxy has shown on the session's
// connection; nil when that is not known: behind a resumption none is shown.
func (s *Session) certificate() *x509.Certificate {
	config, state := s.listener.Config, s.Conn.TLS()
	if leaf := s.witness.Leaf(state); leaf != nil {
		return leaf
	}
	if state == nil || state.DidResume || config.GetCertificate != nil || config.GetConfigForClient != nil || len(config.Certificates) != 1 {
		return nil
	}
	only := &config.Certificates[0]
	if only.Leaf != nil {
		return only.Leaf
	}
	leaf, err := x509.ParseCertificate(only.Certificate[0])
	if err != nil {
		return nil
	}
	return leaf
}

// serverTLS performs the handshake with the client. Where a login may be bound to
// the certificate it is noted which one was shown.
func (s *Session) serverTLS(ctx context.Context) error {
	if s.router.o.SASL.SCRAM {
		ctx, s.witness = tlsconf.WithWitness(ctx)
	}
	return s.Conn.ServerTLS(ctx, s.listener.Config)
}
