package ldap

import (
	"crypto/tls"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
	"go.uber.org/zap"

	"switchyard/lookup"
)

// Scope says how far below the base an entry may be.
type Scope int

// The scopes of RFC 4511 §4.5.1.2 that can find more than one account.
const (
	Subtree  Scope = iota // anywhere below the base
	OneLevel              // directly below it
)

// Options of a Directory. The attribute names are those of the project's own
// schema (deploy/ldap) when empty.
type Options struct {
	// StartTLS upgrades ldap:// connections before anything else is said on
	// them. Without it, user passwords cross the network as they are.
	StartTLS bool

	// TLS is used for ldaps:// and StartTLS; ServerName is filled in from the
	// URL. Nil means the system's certificate authorities and TLS 1.2 at
	// least.
	TLS *tls.Config

	// BindDN and Password are the service's own, for searching. An empty
	// BindDN means anonymous.
	BindDN   string
	Password string

	// External has the service bind with SASL EXTERNAL (RFC 4422 appendix A)
	// in place of a name and a password: as whom the certificate in TLS says,
	// or, over ldapi, as whom the operating system says. The server decides
	// what entry that is.
	External bool

	// Spread asks the servers in turn, so that each has its part of the work.
	// False means in order: the first, as long as it answers.
	Spread bool

	// Scope of the search. Zero means Subtree.
	Scope Scope

	// Filter finds an account; {name} stands for its name and is escaped. Empty
	// means DefaultFilter.
	Filter string

	// Name is the attribute with the account's own name. One of its values
	// must be the name that was asked for, but for upper and lower case:
	// servers compare more loosely than mail may. Empty means swName.
	Name string

	// The attributes for the fields of lookup.Account. Empty means swHome,
	// swHomeGeneration, swStatus, swQuota and swForward; "-" means that the
	// directory has none. Status and Forward may name several attributes,
	// separated by spaces: the status that allows least counts, and the
	// addresses of all. A forwarding value may be a list with commas.
	Home, Generation, Status, Quota, Forward string

	// Alias is the attribute with the targets of an alias, which become the
	// account's attribute "alias", separated by commas. ForwardOnly is the one
	// that says, with the value TRUE, that nothing is kept of what is
	// forwarded; then the account's attribute "fwdonly" is "1". Empty means
	// swAlias and swForwardOnly; "-" means that the directory has none.
	Alias, ForwardOnly string

	// DeliveryOption is the attribute that says, value by value, what becomes
	// of mail: forwards count only with the value "forward", and nothing is
	// kept without the value "mailbox". Empty means that there is none.
	DeliveryOption string

	// PasswordTime is the attribute that says when the password was changed,
	// which becomes the account's PasswordMark. Empty means pwdChangedTime, which
	// servers with a password policy keep; "-" means that the directory has none.
	PasswordTime string

	// StatusWords says what the directory's words for a status, in lower case,
	// mean. Words that are not in it are taken as they are.
	StatusWords map[string]lookup.Status

	// DisabledBits, when not zero, says that Status is a number, and that an
	// account with any of these bits set is suspended.
	DisabledBits int64

	// NoQuota are values of Quota that mean that there is no limit. Other
	// values that are not a number of bytes make the account unavailable.
	NoQuota []string

	// Verify reports whether a password belongs to a hash. When it is set,
	// logins are decided by reading the account's hash and not by a bind: the
	// service must be allowed to read it. It is called by many goroutines,
	// never with an empty hash or password. Nil means by bind.
	Verify func(hash, password string) bool

	// Hash is the attribute that Verify's hashes are read from. An account may
	// have several; any will do. Empty means userPassword. An account without
	// one has no password if the Canary has shown its own, and is unavailable
	// otherwise: the service might not be allowed to see it.
	Hash string

	// Hashers bounds how many passwords are verified at the same time; others
	// wait for up to BindTimeout. Zero means one for each processor.
	Hashers int

	// Canary is the name of an account that always exists. A server is not
	// asked for others before it has found this one, since a server that hides
	// entries (access rules, a replica being loaded) says of all of them that
	// they are absent. Empty means that the base must be visible instead, which
	// proves less.
	Canary string

	// Attributes are read into lookup.Account.Attributes under their names in
	// lower case. Several values are joined with newlines.
	Attributes []string

	// DialTimeout bounds connecting, with the handshake of TLS. Zero means 3
	// seconds.
	DialTimeout time.Duration

	// BindTimeout bounds a bind, with the wait for one of the BindConns. Zero
	// means 5 seconds.
	BindTimeout time.Duration

	// SearchTimeout bounds a search on one server, with the wait for a
	// connection. When half of it has passed, the next server is asked too,
	// and the first answer counts. Zero means 3 seconds.
	SearchTimeout time.Duration

	// SearchConns is how many connections to each server the searches share.
	// Zero means 2; more were slower when measured.
	SearchConns int

	// BindConns is how many users may be verified at a time on one server.
	// Zero means 6.
	BindConns int

	// BackOff is the longest pause before a failed connection is tried again;
	// the first is a fortieth of it. Zero means 2 seconds.
	BackOff time.Duration

	// Logger hears when a server is lost and when it is back. Nil means no
	// one does.
	Logger *zap.Logger
}

// DefaultFilter finds an entry of the project's own schema.
const DefaultFilter = "(&(objectClass=switchyardAccount)(swName={name}))"

func (o *Options) defaults() {
	for _, s := range []struct {
		value *string
		empty string
	}{
		{&o.Filter, DefaultFilter}, {&o.Name, "swName"}, {&o.Home, "swHome"}, {&o.Generation, "swHomeGeneration"},
		{&o.Status, "swStatus"}, {&o.Quota, "swQuota"}, {&o.Forward, "swForward"}, {&o.Alias, "swAlias"},
		{&o.ForwardOnly, "swForwardOnly"}, {&o.PasswordTime, passwordTime}, {&o.Hash, "userPassword"},
	} {
		if *s.value == "" {
			*s.value = s.empty
		}
	}
	for _, d := range []struct {
		value *time.Duration
		zero  time.Duration
	}{
		{&o.DialTimeout, 3 * time.Second}, {&o.BindTimeout, 5 * time.Second}, {&o.SearchTimeout, 3 * time.Second},
		{&o.BackOff, 2 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.zero
		}
	}
	if o.SearchConns <= 0 {
		o.SearchConns = 2
	}
	if o.BindConns <= 0 {
		o.BindConns = 6
	}
	if o.Hashers <= 0 {
		o.Hashers = runtime.GOMAXPROCS(0)
	}
	if o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// check refuses what cannot work. The defaults are filled in.
func (o *Options) check() error {
	if _, err := ldap.ParseDN(o.BindDN); err != nil {
		return fmt.Errorf("bind DN %q: %w", o.BindDN, err)
	}
	switch {
	case o.External && (o.BindDN != "" || o.Password != ""):
		return errors.New("a service that binds with EXTERNAL has no bind DN and no password")
	case (o.BindDN == "") != (o.Password == ""):
		// RFC 4513 §5.1.2: a name without a password binds as nobody.
		return errors.New("a bind DN needs a password, and a password a bind DN")
	case o.Scope != Subtree && o.Scope != OneLevel:
		return fmt.Errorf("scope %d is unknown", o.Scope)
	case o.DisabledBits != 0 && len(strings.Fields(o.Status)) != 1:
		return fmt.Errorf("status %q is not one attribute, and disabled bits need one", o.Status)
	}
	if clean, err := lookup.CleanName(o.Canary, ""); o.Canary != "" && (err != nil || clean != o.Canary) {
		return fmt.Errorf("canary %q is not the clean name of an account", o.Canary)
	}
	return nil
}
