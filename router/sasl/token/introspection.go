package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"switchyard/lookup"

	"go.uber.org/zap"
)

// Introspection asks the issuer about each token, once in a while. It is safe for
// concurrent use.
type Introspection struct {
	Options
	endpoint string
	client   *http.Client
	memory   *memory
}

// NewIntrospection makes one. The endpoint is an https URL; http is for this
// machine only.
func NewIntrospection(endpoint string, o Options) (*Introspection, error) {
	if err := checkURL(endpoint); err != nil {
		return nil, fmt.Errorf("introspection endpoint: %w", err)
	}
	o.fill("username")
	return &Introspection{Options: o, endpoint: endpoint, memory: newMemory(o.Now), client: &http.Client{
		Transport: o.Transport,
		// A token goes where the operator said and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// checkURL refuses addresses to which a token, or from which a key, must not
// travel.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Host == "" || u.User != nil:
		return errors.New("want https://host/path")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (u.Hostname() == "localhost" || strings.HasPrefix(u.Hostname(), "127.") || u.Hostname() == "::1"):
		return nil
	}
	return errors.New("want https, or http on this machine")
}

// Verify implements sasl.Tokens.
func (i *Introspection) Verify(ctx context.Context, token string) (string, error) {
	ctx, cancel := i.within(ctx)
	defer cancel()
	v, err := i.memory.recall(ctx, token, func(ctx context.Context) (verdict, error) { return i.judge(ctx, token) })
	if err != nil {
		return "", err
	}
	return v.user, v.err
}

// judge asks about a token, and says how long the answer may be believed: RFC 7662
// §4 leaves that to who asks, but never past the token's expiry. Errors:
// lookup.ErrUnavailable.
func (i *Introspection) judge(ctx context.Context, token string) (verdict, error) {
	now := i.Now() // the answer may be older than its arrival
	c, err := i.ask(ctx, token)
	if err != nil {
		return verdict{}, lookup.Unavailable("ask about a token", err)
	}
	no := verdict{until: now.Add(min(i.Remember, rememberRefused))}
	var active bool
	if json.Unmarshal(c["active"], &active) != nil || !active {
		no.err = refused("not active")
		return no, nil
	}
	yes := verdict{until: now.Add(i.Remember)}
	if expiry, told := c.moment("exp"); told && expiry.Before(yes.until) {
		yes.until = expiry
	}
	// exp is optional here (RFC 7662 §2.2): active says that it has not passed.
	if _, told := c["exp"]; !told {
		if c["exp"], err = json.Marshal(now.Add(leeway).Unix()); err != nil {
			return verdict{}, lookup.Unavailable("ask about a token", err)
		}
	}
	if yes.user, err = i.user(c); err != nil {
		no.err = err
		return no, nil
	}
	return yes, nil
}

// ask puts the question. Its errors never hold the token: it is in the body.
func (i *Introspection) ask(ctx context.Context, token string) (claims, error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, i.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("request")
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	if i.ClientID != "" {
		r.SetBasicAuth(url.QueryEscape(i.ClientID), url.QueryEscape(i.ClientSecret)) // RFC 6749 §2.3.1
	}
	answer, err := i.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		if answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden {
			i.Logger.Error("the issuer refuses the proxy's own login at the introspection endpoint: mend client id and secret", zap.Int("status", answer.StatusCode))
		}
		return nil, fmt.Errorf("status %d", answer.StatusCode)
	}
	if kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type")); kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return nil, errors.New("the answer is no JSON")
	}
	body, err := bounded(answer.Body)
	if err != nil {
		return nil, err
	}
	var c claims
	if json.Unmarshal(body, &c) != nil || c == nil {
		return nil, errors.New("malformed answer")
	}
	return c, nil
}
