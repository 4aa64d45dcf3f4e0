package upstream

import (
	"errors"
	"strings"

	"switchyard/internal/wire"
)

// Login is how the proxy logs in on a backend for a user. The zero value is a
// backendd's: as the proxy itself, with the proxy's secret and the user as the
// authorisation identity, so that no password goes further than the proxy. The
// others are for servers that know nothing of that.
type Login struct {
	// Forward passes the client's own password on. The proxy logs in as the
	// user; mechanisms that show the proxy no password are not offered to
	// clients then.
	Forward bool

	// Unchecked leaves it to the backend whether the password is right: the
	// directory says where the account is and is not asked about the password.
	// It has a meaning with Forward only.
	Unchecked bool

	// User is the name that logs in, where %u stands for the account's name,
	// %n for what is before its @, and %d for what is behind it. Empty means:
	// with Forward the account's name, else the proxy's own with the account as
	// authorisation identity. "%u*proxy" is a master user's login in Dovecot's
	// way.
	User string

	// Secret is what the proxy logs in with, where it is not the cluster's.
	Secret string
}

// String shows no secret.
func (l Login) String() string {
	switch {
	case l.Forward && l.Unchecked:
		return "the client's password, unchecked"
	case l.Forward:
		return "the client's password"
	case l.User != "":
		return "master user " + l.User
	default:
		return "proxy"
	}
}

// GoString shows no secret.
func (l Login) GoString() string { return l.String() }

// check refuses what cannot be meant.
func (l Login) check() error {
	switch {
	case l.Unchecked && !l.Forward:
		return errors.New("only a password that is passed on can be left unchecked")
	case l.Forward && l.Secret != "":
		return errors.New("a secret is of no use where the client's password is passed on")
	}
	if l.User == "" {
		return nil
	}
	rest := strings.NewReplacer("%u", "", "%n", "", "%d", "").Replace(l.User)
	switch {
	case rest == l.User:
		return errors.New("the name that logs in has no %u and no %n: all accounts would be the same to the backend")
	case strings.Contains(rest, "%"):
		return errors.New("the name that logs in knows %u, %n and %d only")
	case strings.ContainsFunc(rest, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("the name that logs in has a control character")
	}
	return nil
}

// name is who logs in.
func (l Login) name(account string) string {
	local, domain, _ := strings.Cut(account, "@")
	// One pass: what a name holds is never taken for a placeholder.
	return strings.NewReplacer("%u", account, "%n", local, "%d", domain).Replace(l.User)
}

var (
	// ErrNoSecret: there is nothing to log in with here. No secret is
	// configured, or the connection is in clear to another machine.
	ErrNoSecret = errors.New("no secret to log in with")

	// ErrNoPassword: the backend wants the client's password, and the client
	// has shown none.
	ErrNoPassword = errors.New("no password of the client to pass on")
)

// Credentials returns what to log in with for an account, whose client has shown
// a password, or none. On a connection in clear to another machine neither a
// secret nor a password is said. Errors: ErrNoSecret, ErrNoPassword.
func (b *Back) Credentials(account, password string) (wire.Plain, error) {
	l := b.login
	switch {
	case l.Forward && b.exposed():
		return wire.Plain{}, ErrNoSecret
	case l.Forward && password == "":
		return wire.Plain{}, ErrNoPassword
	case l.Forward && l.User == "":
		return wire.Plain{Authcid: account, Password: password}, nil
	case l.Forward:
		return wire.Plain{Authcid: l.name(account), Password: password}, nil
	}
	name, secret := b.name, b.secretOf()
	switch {
	case secret == "" || b.exposed():
		return wire.Plain{}, ErrNoSecret
	case l.User != "":
		return wire.Plain{Authcid: l.name(account), Password: secret}, nil
	default:
		return wire.Plain{Authzid: account, Authcid: name, Password: secret}, nil
	}
}

// Policy returns how the proxy logs in on the backend.
func (b *Back) Policy() Login { return b.login }

func (b *Back) secretOf() string {
	if b.login.Secret != "" {
		return b.login.Secret
	}
	return b.secret
}

// exposed reports whether anyone between here and the node can read what is
// said.
func (b *Back) exposed() bool {
	peer := b.Conn.RemoteAddr().Addr()
	return b.Conn.TLS() == nil && peer.IsValid() && !peer.IsLoopback()
}

// LoginPolicy returns how the proxy logs in on a backend.
func (s *Set) LoginPolicy(backend string) Login {
	if g := s.top.Load().backends[backend]; g != nil {
		return g.login
	}
	return Login{}
}
