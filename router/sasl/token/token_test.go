package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/router/sasl"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

const issuer = "https://id.example.test"

// issuerServer publishes keys and answers questions about tokens.
type issuerServer struct {
	*httptest.Server
	key    *ecdsa.PrivateKey
	id     atomic.Value // the key's, a string
	broken atomic.Int64 // an HTTP status; zero: none
	asked  atomic.Int64
	answer atomic.Value // to introspection, a string
}

func newIssuer(t *testing.T) *issuerServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &issuerServer{key: key}
	s.id.Store("k1")
	s.answer.Store(`{"active":false}`)
	mux := http.NewServeMux()
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		s.asked.Add(1)
		if status := s.broken.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
			{Key: key.Public(), KeyID: s.id.Load().(string), Algorithm: "ES256", Use: "sig"},
		}})
	})
	mux.HandleFunc("/introspect", func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		name, secret, _ := r.BasicAuth()
		switch status := s.broken.Load(); {
		case status != 0:
			w.WriteHeader(int(status))
			return
		case name != "proxy" || secret != "s3cret" || r.Method != http.MethodPost || r.PostFormValue("token") == "" || r.URL.RawQuery != "":
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		fmt.Fprint(w, s.answer.Load())
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// sign makes a token.
func (s *issuerServer) sign(t *testing.T, kid string, alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// with returns good claims, some of them changed; nil takes one out.
func with(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": issuer, "aud": []string{"mail", "calendar"}, "exp": time.Now().Add(time.Hour).Unix(), "nbf": time.Now().Add(-time.Minute).Unix(),
		"scope": "openid imap mail.read", "email": "anna@example.test", "username": "anna@example.test", "email_verified": true,
	}
	for k, v := range change {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

// claimTests are what both ways of verifying must agree about.
var claimTests = map[string]struct {
	change map[string]any
	ok     bool
}{
	"good":                    {nil, true},
	"one audience":            {map[string]any{"aud": "mail"}, true},
	"expired":                 {map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}, false},
	"not valid yet":           {map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}, false},
	"another issuer":          {map[string]any{"iss": "https://evil.example.test"}, false},
	"no issuer":               {map[string]any{"iss": nil}, false},
	"another audience":        {map[string]any{"aud": "calendar"}, false},
	"no audience":             {map[string]any{"aud": nil}, false},
	"scope lacks a word":      {map[string]any{"scope": "openid"}, false},
	"scope is part of a word": {map[string]any{"scope": "imap2"}, false},
	"scope as a list":         {map[string]any{"scope": nil, "scp": []string{"imap"}}, true},
	"no user":                 {map[string]any{"email": nil, "username": nil}, false},
	"user is no text":         {map[string]any{"email": 7, "username": []string{"anna"}}, false},
}

func options() Options {
	return Options{Issuer: issuer, Audience: "mail", Scope: []string{"imap"}, ClientID: "proxy", ClientSecret: "s3cret", Configuration: issuer + "/.well-known/openid-configuration"}
}

// judge holds an answer against what is expected, and makes sure that no error
// holds the token.
func judge(t *testing.T, name, token, user string, err error, ok bool) {
	t.Helper()
	switch {
	case ok && (err != nil || user != "anna@example.test"):
		t.Errorf("%s: got %q, %v", name, user, err)
	case !ok && !errors.Is(err, sasl.ErrToken):
		t.Errorf("%s: got %q, %v, want a refusal", name, user, err)
	}
	if err != nil && strings.Contains(err.Error(), token) {
		t.Errorf("%s: the error holds the token: %v", name, err)
	}
}

// TestKeys: a JWT is believed when the issuer signed it for us, now, with the
// scope that is demanded; everything else is refused.
func TestKeys(t *testing.T) {
	s := newIssuer(t)
	k, err := NewKeys(s.URL+"/keys", options())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range claimTests {
		token := s.sign(t, "k1", jose.ES256, s.key, with(c.change))
		user, err := k.Verify(t.Context(), token)
		judge(t, name, token, user, err, c.ok)
	}
	without := with(map[string]any{"exp": nil})
	for name, token := range map[string]string{
		"no expiry":       s.sign(t, "k1", jose.ES256, s.key, without),
		"not verified":    s.sign(t, "k1", jose.ES256, s.key, with(map[string]any{"email_verified": false})),
		"no token at all": "tok.en.x",
		"opaque":          "0123456789",
		"alg none":        "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUudGVzdCJ9.",
		"shared secret":   s.sign(t, "k1", jose.HS256, []byte(strings.Repeat("k", 32)), with(nil)),
	} {
		user, err := k.Verify(t.Context(), token)
		judge(t, name, token, user, err, false)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := s.sign(t, "k1", jose.ES256, other, with(nil))
	user, err := k.Verify(t.Context(), forged)
	judge(t, "forged", forged, user, err, false)
}

// TestKeysAway: when the issuer's keys cannot be had, nobody can say whether a
// token is good; once they are known, the issuer need not be there.
func TestKeysAway(t *testing.T) {
	s := newIssuer(t)
	k, err := NewKeys(s.URL+"/keys", options())
	if err != nil {
		t.Fatal(err)
	}
	token := s.sign(t, "k1", jose.ES256, s.key, with(nil))
	s.broken.Store(503)
	if user, err := k.Verify(t.Context(), token); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("no keys yet: got %q, %v", user, err)
	}
	s.broken.Store(0)
	if user, err := k.Verify(t.Context(), token); err != nil {
		t.Errorf("keys are there: got %q, %v", user, err)
	}
	s.broken.Store(503)
	if user, err := k.Verify(t.Context(), token); err != nil {
		t.Errorf("keys were there: got %q, %v", user, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if user, err := k.Verify(ended, s.sign(t, "k9", jose.ES256, s.key, with(nil))); err == nil || errors.Is(err, sasl.ErrToken) {
		t.Errorf("no time: got %q, %v", user, err)
	}
}

// TestKeysRotate: an unknown key has the issuer asked again, but not for each
// token that names one.
func TestKeysRotate(t *testing.T) {
	s := newIssuer(t)
	now := time.Now()
	var clock atomic.Pointer[time.Time]
	clock.Store(&now)
	o := options()
	o.Now = func() time.Time { return *clock.Load() }
	k, err := NewKeys(s.URL+"/keys", o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Verify(t.Context(), s.sign(t, "k1", jose.ES256, s.key, with(nil))); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		token := s.sign(t, fmt.Sprint("unknown", i), jose.ES256, s.key, with(nil))
		user, err := k.Verify(t.Context(), token)
		judge(t, "unknown key", token, user, err, false)
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("the issuer was asked %d times", n)
	}
	s.id.Store("k2")
	later := now.Add(time.Minute)
	clock.Store(&later)
	token := s.sign(t, "k2", jose.ES256, s.key, with(nil))
	user, err := k.Verify(t.Context(), token)
	for try := 0; errors.Is(err, sasl.ErrToken) && try < 100; try++ {
		// The library lets a question join the one before for a moment after that
		// was answered.
		runtime.Gosched()
		user, err = k.Verify(t.Context(), token)
	}
	judge(t, "new key", token, user, err, true)
}

// TestIntrospection: the issuer's word decides, and what it says is held against
// what is demanded; a question that fails is no refusal.
func TestIntrospection(t *testing.T) {
	s := newIssuer(t)
	core, logs := observer.New(zap.DebugLevel)
	o := options()
	o.Logger, o.Remember = zap.New(core), -1
	i, err := NewIntrospection(s.URL+"/introspect", o)
	if err != nil {
		t.Fatal(err)
	}
	const token = "0p4que.t0ken"
	say := func(claims map[string]any) {
		answer, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		s.answer.Store(string(answer))
	}
	for name, c := range claimTests {
		claims := with(c.change)
		claims["active"] = true
		say(claims)
		user, err := i.Verify(t.Context(), token)
		judge(t, name, token, user, err, c.ok)
	}
	without := with(map[string]any{"exp": nil, "active": true})
	say(without)
	user, err := i.Verify(t.Context(), token)
	judge(t, "no expiry, which is optional here", token, user, err, true)
	for name, claims := range map[string]map[string]any{
		"not active": with(map[string]any{"active": false}), "says nothing": with(nil), "active is no boolean": with(map[string]any{"active": "true"}),
	} {
		say(claims)
		user, err := i.Verify(t.Context(), token)
		judge(t, name, token, user, err, false)
	}
	good := with(map[string]any{"active": true})
	say(good)
	for _, status := range []int64{500, 503, 404, 401, 302, 204} {
		s.broken.Store(status)
		if user, err := i.Verify(t.Context(), token); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("status %d: got %q, %v", status, user, err)
		}
	}
	s.broken.Store(0)
	for name, answer := range map[string]string{"rubbish": "<html>", "null": "null", "too much": `{"active":true,"x":"` + strings.Repeat("x", maxAnswer) + `"}`} {
		s.answer.Store(answer)
		if user, err := i.Verify(t.Context(), token); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("%s: got %q, %v", name, user, err)
		}
	}
	s.Close()
	_, err = i.Verify(t.Context(), token)
	if !errors.Is(err, lookup.ErrUnavailable) || strings.Contains(err.Error(), token) {
		t.Errorf("nobody there: got %v", err)
	}
	for _, l := range logs.All() {
		if text := fmt.Sprint(l.Message, l.ContextMap()); strings.Contains(text, token) || strings.Contains(text, "s3cret") {
			t.Errorf("the log holds a secret: %s", text)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", o, o, o); strings.Contains(text, "s3cret") {
		t.Errorf("the options print a secret: %s", text)
	}
	if i.Hint() != (sasl.Hint{Scope: "imap", Configuration: issuer + "/.well-known/openid-configuration"}) {
		t.Errorf("hint: got %+v", i.Hint())
	}
}

// TestURLs: tokens go, and keys come, over TLS, or within this machine.
func TestURLs(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://id.example.test/keys": true, "http://127.0.0.1:8080/keys": true, "http://[::1]/keys": true,
		"http://id.example.test/keys": false, "https://u:p@id.example.test/": false, "id.example.test": false, "": false, "ftp://id.example.test/": false,
	} {
		_, one := NewKeys(url, options())
		_, other := NewIntrospection(url, options())
		if (one == nil) != ok || (other == nil) != ok {
			t.Errorf("%q: got %v, %v", url, one, other)
		}
	}
	if _, err := NewKeys("https://id.example.test/keys", Options{}); err == nil {
		t.Error("keys without an issuer and an audience are taken")
	}
	o := options()
	o.Algorithms = []string{"HS256"}
	if _, err := NewKeys("https://id.example.test/keys", o); err == nil {
		t.Error("a shared secret is taken for a public key")
	}
}
