// Package token verifies bearer tokens: by asking their issuer (introspection,
// RFC 7662), or by the issuer's published keys (JWTs, RFC 9068, with JWKS, RFC
// 7517). Both implement sasl.Tokens.
//
// A token is believed when it is valid now, comes from the issuer, is for the
// audience, has the scope and names a user. When the issuer cannot be reached
// nobody knows: that is unavailable, and never "wrong". A token is never logged
// and is in no error.
package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"switchyard/router/sasl"

	"go.uber.org/zap"
)

// Options for NewIntrospection and NewKeys.
type Options struct {
	// Issuer is who must have issued a token. Required by NewKeys;
	// NewIntrospection holds an answer to it when it is set.
	Issuer string

	// Audience is whom a token must be for: this mail service. Required by
	// NewKeys; NewIntrospection holds an answer to it when it is set.
	Audience string

	// Scope are words that a token's scope must have, all of them.
	Scope []string

	// UserClaim is the claim, or the member of the introspection's answer, that
	// names the user. Empty means "email" for keys and "username" for
	// introspection (RFC 7662 §2.2).
	UserClaim string

	// Configuration is the URL of the issuer's OpenID configuration, which
	// clients are told when their token is refused.
	Configuration string

	// ClientID and ClientSecret are the proxy's own login at the introspection
	// endpoint (HTTP basic).
	ClientID     string
	ClientSecret string

	// Algorithms are those that JWTs may be signed with. Empty means RS256,
	// PS256, ES256 and EdDSA.
	Algorithms []string

	// Timeout bounds one question to the issuer. Zero means 5 seconds.
	Timeout time.Duration

	// Remember is how long an answer to introspection is believed without a new
	// question, and so how long a token that was revoked may still log in: never
	// past its expiry. Answers against a token are remembered for 5 seconds at
	// most. Zero means 60 seconds, less than zero not at all.
	Remember time.Duration

	// KeysFor is how long the issuer's keys are not asked for again, whatever
	// tokens come: one with an unknown key would else cost a question each.
	// Zero means 30 seconds.
	KeysFor time.Duration

	// Transport is for HTTP. Nil means the standard library's, with TLS's system
	// CAs.
	Transport http.RoundTripper

	// Now is the clock. Nil means time.Now.
	Now func() time.Time

	Logger *zap.Logger // nil: none
}

// String shows no secret.
func (o Options) String() string   { return "tokens of " + o.Issuer }
func (o Options) GoString() string { return o.String() }

func (o *Options) fill(claim string) {
	if o.UserClaim == "" {
		o.UserClaim = claim
	}
	if len(o.Algorithms) == 0 {
		o.Algorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Remember == 0 {
		o.Remember = time.Minute
	}
	if o.KeysFor == 0 {
		o.KeysFor = 30 * time.Second
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// Hint implements sasl.Tokens.
func (o *Options) Hint() sasl.Hint {
	return sasl.Hint{Scope: strings.Join(o.Scope, " "), Configuration: o.Configuration}
}

// maxAnswer bounds what an issuer may say.
const maxAnswer = 256 << 10

// rememberRefused is short: a token may be so new that the issuer's other half has
// not heard of it.
const rememberRefused = 5 * time.Second

// leeway is how far clocks may differ.
const leeway = time.Minute

var errTooMuch = errors.New("the answer is too long")

// bounded reads at most maxAnswer bytes.
func bounded(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = errTooMuch
	}
	return body, err
}

// claims are what is said about a token.
type claims map[string]json.RawMessage

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", sasl.ErrToken, fmt.Sprintf(format, args...))
}

// text is a claim that is a string.
func (c claims) text(name string) string {
	var s string
	if json.Unmarshal(c[name], &s) != nil {
		return ""
	}
	return s
}

// list is a claim that is a string or a list of them.
func (c claims) list(name string) []string {
	var list []string
	if json.Unmarshal(c[name], &list) == nil {
		return list
	}
	if s := c.text(name); s != "" {
		return []string{s}
	}
	return nil
}

// moment is a claim that is a time (RFC 7519 §2, NumericDate).
func (c claims) moment(name string) (time.Time, bool) {
	var seconds float64
	if json.Unmarshal(c[name], &seconds) != nil || seconds <= 0 || seconds > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

// user holds claims that are known to be genuine against what is demanded, and
// returns whom they name.
func (o *Options) user(c claims) (string, error) {
	if expiry, ok := c.moment("exp"); !ok || !o.Now().Before(expiry) {
		return "", refused("expired")
	}
	if from, ok := c.moment("nbf"); ok && o.Now().Add(leeway).Before(from) {
		return "", refused("not valid yet")
	}
	if o.Issuer != "" && c.text("iss") != o.Issuer {
		return "", refused("another issuer")
	}
	if o.Audience != "" && !slices.Contains(c.list("aud"), o.Audience) {
		return "", refused("another audience")
	}
	scope := append(strings.Fields(c.text("scope")), c.list("scp")...)
	for _, s := range c.list("scope") {
		scope = append(scope, strings.Fields(s)...)
	}
	for _, word := range o.Scope {
		if !slices.Contains(scope, word) {
			return "", refused("the scope lacks %q", word)
		}
	}
	user := c.text(o.UserClaim)
	if user == "" {
		return "", refused("claim %q does not name a user", o.UserClaim)
	}
	// An address that its issuer has not verified is what somebody typed.
	if verified, told := c["email_verified"]; o.UserClaim == "email" && told && string(verified) != "true" {
		return "", refused("the address is not verified")
	}
	return user, nil
}

// within bounds a question.
func (o *Options) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, o.Timeout)
}
