package conf

import (
	"fmt"
	"strings"
	"time"
)

// SASL says by which mechanisms clients of a proxy may log in, beside PLAIN and
// LOGIN.
type SASL struct {
	SCRAM       bool   `toml:"scram"`            // SCRAM-SHA-256 and SCRAM-SHA-1, where every account can use them
	Secret      Secret `toml:"secret"`           // makes up what is told about accounts that do not exist: the same on all proxies; derived from cluster.proxy_secret when empty
	Iterations  int    `toml:"scram_iterations"` // of real accounts' keys: the same is told about accounts that do not exist; 4,096 when zero
	Certificate string `toml:"certificate"`      // EXTERNAL: what in a client's certificate names its account: email or common_name

	Masters   []string `toml:"masters"` // accounts that may act for all others
	Networks  []string `toml:"master_networks"`
	Separator string   `toml:"master_separator"` // as in user*admin; none when empty: only by the authorisation identity

	Tokens Tokens `toml:"tokens"`
}

// Tokens says whose tokens OAUTHBEARER and XOAUTH2 take.
type Tokens struct {
	Keys          string   `toml:"keys"`          // the issuer's jwks_uri: tokens are JWTs
	Introspection string   `toml:"introspection"` // or its introspection endpoint, which is asked about each token
	Issuer        string   `toml:"issuer"`
	Audience      string   `toml:"audience"`
	Scope         []string `toml:"scope"`
	UserClaim     string   `toml:"user_claim"`
	Configuration string   `toml:"configuration"` // URL of the issuer's OpenID configuration, which clients are told
	ClientID      string   `toml:"client_id"`     // the proxy's own login at the introspection endpoint
	ClientSecret  Secret   `toml:"client_secret"`
	Algorithms    []string `toml:"algorithms"` // with keys: those that tokens may be signed with; RS256, PS256, ES256 and EdDSA when empty
	Timeout       Duration `toml:"timeout"`    // of a question to the issuer; 5s when zero
	Remember      Duration `toml:"remember"`   // with introspection: how long an answer is believed, at most 10m and never past the token's expiry; 60s when zero
}

// Used reports whether tokens are taken at all.
func (t Tokens) Used() bool { return t.Keys != "" || t.Introspection != "" }

func (k *checker) sasl(key string, s *SASL, listeners []Listener) {
	k.secret(key+".secret", &s.Secret)
	k.scramSecret(key, s)
	k.iterations(key+".scram_iterations", s.Iterations)
	k.oneOf(key+".certificate", s.Certificate, "email", "common_name")
	asks := false
	for _, l := range listeners {
		asks = asks || l.ClientCertificates != ""
	}
	if s.Certificate != "" && !asks {
		k.bad(key+".certificate", "no listener asks for certificates; set client_certificates and client_ca_file there")
	}
	k.networks(key+".master_networks", s.Networks)
	if len(s.Masters) > 0 && len(s.Networks) == 0 {
		k.bad(key+".masters", "can log in from nowhere; name their networks in %s.master_networks", key)
	}
	if len(s.Separator) > 1 || strings.ContainsAny(s.Separator, "@ \"\\`") {
		k.bad(key+".master_separator", "%q must be one character that no name has, such as *", s.Separator)
	}
	k.tokens(key+".tokens", &s.Tokens)
}

func (k *checker) tokens(key string, t *Tokens) {
	k.secret(key+".client_secret", &t.ClientSecret)
	switch {
	case t.Keys != "" && t.Introspection != "":
		k.bad(key, "keep one of keys and introspection")
	case t.Keys != "" && (t.Issuer == "" || t.Audience == ""):
		k.bad(key+".keys", "needs issuer and audience: a token for another service would be taken")
	case !t.Used() && (t.Issuer != "" || t.Audience != "" || t.ClientID != ""):
		k.bad(key, "has neither keys nor introspection; set one")
	}
	for name, u := range map[string]string{"keys": t.Keys, "introspection": t.Introspection} {
		if u != "" && !strings.HasPrefix(u, "https://") && !strings.HasPrefix(u, "http://127.0.0.1") && !strings.HasPrefix(u, "http://localhost") {
			k.bad(fmt.Sprintf("%s.%s", key, name), "%q is no https URL", u)
		}
	}
	if len(t.Algorithms) > 0 && t.Keys == "" {
		k.bad(key+".algorithms", "has no meaning without keys: with introspection the issuer verifies its own signatures")
	}
	switch remember := time.Duration(t.Remember); {
	case remember > 0 && t.Introspection == "":
		k.bad(key+".remember", "has no meaning without introspection: signatures are verified each time")
	case remember > longestMemory:
		k.bad(key+".remember", "%v is longer than %v: a token that was revoked would log in that long", remember, longestMemory)
	}
	for i, a := range t.Algorithms {
		k.algorithm(fmt.Sprintf("%s.algorithms[%d]", key, i), a)
	}
}

const longestMemory = 10 * time.Minute

// algorithms are those of JWS (RFC 7518 §3.1, RFC 8037 §3.1) that a public key
// verifies.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// algorithm refuses above all what would let anybody make tokens.
func (k *checker) algorithm(key, a string) {
	switch {
	case strings.EqualFold(a, "none"):
		k.bad(key, "%q is no signature: anybody could make tokens; remove it", a)
	case strings.HasPrefix(strings.ToUpper(a), "HS"):
		k.bad(key, "%q is made with the key that verifies it, and that one is public: anybody could make tokens; use what the issuer signs with, such as RS256 or ES256", a)
	case a == "":
		k.bad(key, "is empty; use what the issuer signs with, such as RS256 or ES256")
	default:
		k.oneOf(key, a, algorithms...)
	}
}

// The bounds of SCRAM's iterations: RFC 7677 §4 has the lower one, the upper one is
// what tcpauthd stores at most.
const (
	leastIterations = 4096
	mostIterations  = 2_000_000
)

func (k *checker) iterations(key string, n int) {
	if n != 0 && (n < leastIterations || n > mostIterations) {
		k.bad(key, "%d is not between %d and %d; set what the keys of real accounts have, or leave the key out for %[2]d", n, leastIterations, mostIterations)
	}
}

// scramSecret checks that there is a secret to invent with.
func (k *checker) scramSecret(key string, s *SASL) {
	const least = 16
	own, cluster := len(s.Secret.Value()), len(k.c.Cluster.ProxySecret.Value())
	switch {
	case !s.SCRAM:
	case own > 0 && own < least:
		k.bad(key+".secret", "is shorter than %d characters; make a longer one, the same on all proxies, or leave it out to have it derived from cluster.proxy_secret", least)
	case !s.Secret.IsSet() && cluster > 0 && cluster < least:
		k.bad(key+".scram", "has no secret to derive its own from: set %s.secret, of at least %d characters and the same on all proxies, or a cluster.proxy_secret of that length", key, least)
	}
}

// Limits bound the sessions of a proxy, before login and behind it.
type Limits struct {
	PreLogin        int      `toml:"pre_login"`         // sessions before login; 2,000 when zero
	PreLoginAddress int      `toml:"pre_login_address"` // … from one address; 50 when zero
	Rate            float64  `toml:"rate"`              // connections a second from one address, over time; any number when zero
	Burst           int      `toml:"burst"`             // … at once before that; ten seconds' worth when zero
	UserSessions    int      `toml:"user_sessions"`     // sessions of one user; any number when zero
	AddressSessions int      `toml:"address_sessions"`  // sessions that one address has logged in; any number when zero
	Exempt          []string `toml:"exempt"`            // networks to which nothing but pre_login applies
}

func (k *checker) limits(key string, l Limits) {
	for name, n := range map[string]int{
		"pre_login": l.PreLogin, "pre_login_address": l.PreLoginAddress, "burst": l.Burst,
		"user_sessions": l.UserSessions, "address_sessions": l.AddressSessions,
	} {
		k.notNegative(key+"."+name, n)
	}
	if l.Rate < 0 {
		k.bad(key+".rate", "%v is negative; leave the key out for any number", l.Rate)
	}
	k.networks(key+".exempt", l.Exempt)
}
