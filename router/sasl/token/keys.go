package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"switchyard/lookup"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Keys verifies tokens that are JWTs by the issuer's keys, which are fetched when
// they are wanted. It is safe for concurrent use.
type Keys struct {
	Options
	verifier *oidc.IDTokenVerifier
}

// NewKeys makes one. The URL is the issuer's jwks_uri: https, or http on this
// machine.
func NewKeys(url string, o Options) (*Keys, error) {
	if err := checkURL(url); err != nil {
		return nil, fmt.Errorf("issuer's keys: %w", err)
	}
	if o.Issuer == "" || o.Audience == "" {
		return nil, errors.New("tokens that are verified by keys need an issuer and an audience")
	}
	for _, algorithm := range o.Algorithms {
		switch algorithm {
		case oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA:
		default:
			return nil, fmt.Errorf("algorithm %q is not one that a public key verifies", algorithm)
		}
	}
	o.fill("email")
	client := &http.Client{Timeout: o.Timeout, Transport: &sparing{next: o.Transport, keep: o.KeysFor, now: o.Now}}
	k := &Keys{Options: o}
	// The context is where that library looks for its HTTP client, and no more.
	set := &keySet{oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), client), url)}
	k.verifier = oidc.NewVerifier(o.Issuer, set, &oidc.Config{
		ClientID: o.Audience, SupportedSigningAlgs: o.Algorithms, Now: o.Now,
	})
	return k, nil
}

// Verify implements sasl.Tokens.
func (k *Keys) Verify(ctx context.Context, token string) (string, error) {
	ctx, cancel := k.within(ctx)
	defer cancel()
	var fetch error
	t, err := k.verifier.Verify(context.WithValue(ctx, fetchKey{}, &fetch), token)
	switch {
	case fetch != nil:
		return "", lookup.Unavailable("fetch the issuer's keys", fetch)
	case ctx.Err() != nil:
		return "", lookup.Unavailable("verify a token", ctx.Err())
	case err != nil:
		return "", refused("not a valid JWT of the issuer for this audience")
	}
	c := make(claims)
	if err := t.Claims(&c); err != nil {
		return "", refused("malformed claims")
	}
	return k.user(c)
}

// fetchKey is where, in a context, a keySet leaves why keys could not be
// fetched: the verifier does not keep that apart from a wrong signature.
type fetchKey struct{}

type keySet struct{ next *oidc.RemoteKeySet }

func (k *keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.next.VerifySignature(ctx, jwt)
	// Only the fetching of keys wraps a cause.
	if cause := errors.Unwrap(err); cause != nil {
		if told, ok := ctx.Value(fetchKey{}).(*error); ok {
			*told = errors.New("the issuer does not answer as it should")
			if errors.Is(cause, context.DeadlineExceeded) {
				*told = context.DeadlineExceeded
			}
		}
	}
	return payload, err
}

// sparing answers with the last good answer while that is fresh. Its bodies are
// bounded. It is for one URL.
type sparing struct {
	next http.RoundTripper
	keep time.Duration
	now  func() time.Time

	mu   sync.Mutex
	at   time.Time
	last []byte
	kind string
}

// RoundTrip implements http.RoundTripper. It holds its mutex while it asks: the
// key set asks one question at a time anyway.
func (s *sparing) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil || s.now().Sub(s.at) >= s.keep {
		answer, err := s.next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("status %d", answer.StatusCode)
		}
		body, err := bounded(answer.Body)
		if err != nil {
			return nil, err
		}
		s.at, s.last, s.kind = s.now(), body, answer.Header.Get("Content-Type")
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {s.kind}}, ContentLength: int64(len(s.last)),
		Body: io.NopCloser(bytes.NewReader(s.last)), Request: r,
	}, nil
}
