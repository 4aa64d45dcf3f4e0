// Package sasl is the mechanisms by which a proxy's clients log in, once for all
// protocols: what their messages mean, and how an exchange goes. It knows no
// sessions and no directory; a router.Session brings the two together, and a
// protocol brings the lines on which messages travel:
//
//	PLAIN, LOGIN              a password, which the directory checks
//	SCRAM-SHA-256, -SHA-1     the proof of one, with the directory's keys (Serve);
//	                          or passed on, message by message (Relay)
//	SCRAM-…-PLUS              the same, bound to the TLS connection
//	OAUTHBEARER, XOAUTH2      a token, which Options.Tokens verifies
//	EXTERNAL                  the client's certificate
//
// An exchange is a Next: it sends a challenge and returns the response. Messages
// are bounded by who reads them from the wire (wire.MaxSASL).
package sasl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"switchyard/lookup"
)

// The mechanisms' names.
const (
	Plain           = "PLAIN"
	Login           = "LOGIN"
	SCRAMSHA1       = "SCRAM-SHA-1"
	SCRAMSHA256     = "SCRAM-SHA-256"
	SCRAMSHA1Plus   = "SCRAM-SHA-1-PLUS"
	SCRAMSHA256Plus = "SCRAM-SHA-256-PLUS"
	OAuthBearer     = "OAUTHBEARER"
	XOAuth2         = "XOAUTH2"
	External        = "EXTERNAL"
)

// Next sends a challenge and returns the client's response. The first call, with
// no challenge, returns the initial response when the client sent one along with
// its command. Errors end the exchange and are returned as they are.
type Next func(challenge []byte) (response []byte, err error)

// ErrFailed: the exchange ended, and proved nothing.
var ErrFailed = errors.New("proof is wrong")

// Options say which mechanisms there are. The zero value is PLAIN and LOGIN.
type Options struct {
	// SCRAM offers SCRAM-SHA-256 and SCRAM-SHA-1, each where every account can
	// use it, with the directory's keys or on its backend.
	SCRAM bool

	// Secret makes up what is told about accounts that do not exist. All proxies
	// of a cluster must have the same one, which nobody else knows; see
	// DeriveSecret. It is required with SCRAM.
	Secret []byte

	// Iterations are what is told of accounts that do not exist. They must be
	// those of real accounts' keys, or they tell who exists. Zero means 4,096.
	Iterations int

	// Tokens verifies the tokens of OAUTHBEARER and XOAUTH2. Nil: they are not
	// offered.
	Tokens Tokens

	// Certificate says what in a client's certificate names its account, for
	// EXTERNAL. The listener must ask for certificates.
	Certificate CertificateName

	Masters Masters
}

// Tokens verifies bearer tokens. It is safe for concurrent use.
type Tokens interface {
	// Verify returns the name of the user whom a token was given to, as the
	// issuer writes it. It blocks until ctx ends at most. Errors: ErrToken, for
	// a token that proves nothing; lookup.ErrUnavailable when nobody can say.
	// Neither contains the token.
	Verify(ctx context.Context, token string) (user string, err error)

	// Hint is what a client is told about a token that was refused.
	Hint() Hint
}

// ErrToken: a token is not one of ours, has expired, or is for something else.
var ErrToken = errors.New("token is refused")

// Hint says what token a client should get (RFC 7628 §3.2.2). Empty fields are
// left out.
type Hint struct {
	Scope         string // what a token must be good for
	Configuration string // the URL of the issuer's OpenID configuration
}

// Masters are accounts that may act for all others: an administrator's, or a
// migration's. The zero value has none.
type Masters struct {
	// Accounts are their names, in CleanName's form.
	Accounts []string

	// Networks are where they may log in from. Empty means nowhere.
	Networks []netip.Prefix

	// Separator stands between a user and a master in a login name, as in
	// user*admin. Empty means that only PLAIN's authorisation identity names
	// the user.
	Separator string
}

// Check refuses what cannot be meant.
func (o *Options) Check() error {
	m := &o.Masters
	switch {
	case o.SCRAM && len(o.Secret) < minSecret:
		return fmt.Errorf("SCRAM needs a secret of at least %d bytes, the same on all proxies", minSecret)
	case o.Iterations != 0 && o.Iterations < minIterations:
		return fmt.Errorf("iterations: %d are fewer than RFC 7677 allows (%d)", o.Iterations, minIterations)
	case len(m.Accounts) > 0 && len(m.Networks) == 0:
		return errors.New("master users can log in from nowhere: name their networks")
	case len(m.Separator) > 1, strings.ContainsAny(m.Separator, "@ \"\\`"):
		return fmt.Errorf("separator %q: it is one character, and none that a name may have", m.Separator)
	}
	for _, name := range m.Accounts {
		if clean, err := lookup.CleanName(name, ""); err != nil || clean != name {
			return fmt.Errorf("master user %q is no account's name", name)
		}
	}
	return nil
}

// Split takes a login name of a master user apart. ok is false for a name
// without a master.
func (m *Masters) Split(typed string) (user, master string, ok bool) {
	if m.Separator == "" || len(m.Accounts) == 0 {
		return typed, "", false
	}
	at := strings.LastIndex(typed, m.Separator)
	if at <= 0 || at+len(m.Separator) == len(typed) {
		return typed, "", false
	}
	return typed[:at], typed[at+len(m.Separator):], true
}

// May reports whether an account, by its clean name, may act for others from an
// address.
func (m *Masters) May(name string, client netip.Addr) bool {
	return slices.Contains(m.Accounts, name) && slices.ContainsFunc(m.Networks, func(p netip.Prefix) bool {
		return p.Contains(client.Unmap())
	})
}
