package sasl

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"switchyard/internal/wire"
	"switchyard/lookup"
)

var testSecret = []byte("a secret of the whole cluster")

// keysFor makes keys as a user database does.
func keysFor(t testing.TB, mechanism, password string) lookup.Keys {
	t.Helper()
	newHash, _ := hashOf(mechanism)
	client, err := newHash.NewClient("x", password, "")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "0123456789abcdef", Iters: 4096})
	if err != nil {
		t.Fatal(err)
	}
	return lookup.Keys{Mechanism: mechanism, Iterations: 4096, Salt: []byte(stored.Salt), StoredKey: stored.StoredKey, ServerKey: stored.ServerKey}
}

// talk is a Next that is a SCRAM client.
func talk(c *scram.ClientConversation) Next {
	return func(challenge []byte) ([]byte, error) {
		if c.Done() {
			return nil, nil
		}
		response, err := c.Step(string(challenge))
		return []byte(response), err
	}
}

// scramClient starts a client and returns its first message.
func scramClient(t testing.TB, h scram.HashGeneratorFcn, user, password, authzid string, start func(*scram.Client) *scram.ClientConversation) (*scram.ClientConversation, ClientFirst) {
	t.Helper()
	client, err := h.NewClient(user, password, authzid)
	if err != nil {
		t.Fatal(err)
	}
	c := start(client)
	message, err := c.Step("")
	if err != nil {
		t.Fatal(err)
	}
	first, err := ParseClientFirst([]byte(message))
	if err != nil {
		t.Fatal(err)
	}
	return c, first
}

func unbound(c *scram.Client) *scram.ClientConversation { return c.NewConversation() }

// TestSCRAM: a client that knows the password is let in and sees the server's own
// proof; any other is not, and cannot tell invented keys from real ones before
// the end.
func TestSCRAM(t *testing.T) {
	o := Options{Secret: testSecret}
	for mechanism, h := range map[string]scram.HashGeneratorFcn{SCRAMSHA256: sha256.New, SCRAMSHA1: sha1.New} {
		keys := keysFor(t, mechanism, "sesame")
		c, first := scramClient(t, h, "anna,=@x", "sesame", "anna", unbound)
		if first.Username != "anna,=@x" || first.Authzid != "anna" || first.Flag != 'n' {
			t.Errorf("%s: read %+v", mechanism, first)
		}
		if err := Serve(first, keys, nil, false, talk(c)); err != nil || !c.Valid() {
			t.Errorf("%s: right password: %v, server's proof seen: %v", mechanism, err, c.Valid())
		}
		c, first = scramClient(t, h, "anna", "wrong", "", unbound)
		if err := Serve(first, keys, nil, false, talk(c)); !errors.Is(err, ErrFailed) {
			t.Errorf("%s: wrong password: %v", mechanism, err)
		}
		c, first = scramClient(t, h, "nobody", "sesame", "", unbound)
		if err := Serve(first, o.Invent(mechanism, "nobody"), nil, false, talk(c)); !errors.Is(err, ErrFailed) {
			t.Errorf("%s: nobody: %v", mechanism, err)
		}
	}
}

// TestDeriveSecret: all proxies of a cluster invent the same about nobody, though
// no secret was given for it, and what they invent does not tell theirs.
func TestDeriveSecret(t *testing.T) {
	const cluster = "a secret of the whole cluster"
	derived := DeriveSecret("", cluster)
	if !bytes.Equal(derived, DeriveSecret("", cluster)) || len(derived) < minSecret || bytes.Contains(derived, []byte(cluster)) {
		t.Errorf("derived %q", derived)
	}
	one, two := Options{SCRAM: true, Secret: derived}, Options{SCRAM: true, Secret: DeriveSecret("", cluster)}
	if a, b := one.Invent(SCRAMSHA256, "nobody@x"), two.Invent(SCRAMSHA256, "nobody@x"); one.Check() != nil || !bytes.Equal(a.Salt, b.Salt) {
		t.Errorf("two proxies: salts %x and %x, %v", a.Salt, b.Salt, one.Check())
	}
	if bytes.Equal(derived, DeriveSecret("", cluster+"2")) || string(DeriveSecret("of its own", cluster)) != "of its own" {
		t.Error("the secret is not made of what it should be")
	}
	for _, short := range []string{"", "fifteen letters"} {
		o := Options{SCRAM: true, Secret: DeriveSecret("", short)}
		if o.Secret != nil || o.Check() == nil {
			t.Errorf("%q made a secret", short)
		}
	}
}

// TestInvent: what is told of a name that nobody has is the same each time and on
// every proxy with the secret, another for each name, and looks like what is told
// of others.
func TestInvent(t *testing.T) {
	o, same, other := Options{Secret: testSecret}, Options{Secret: testSecret}, Options{Secret: []byte("the secret of another cluster")}
	a, b := o.Invent(SCRAMSHA256, "nobody@x"), same.Invent(SCRAMSHA256, "nobody@x")
	if !bytes.Equal(a.Salt, b.Salt) || a.Iterations != b.Iterations {
		t.Error("two proxies tell different things of one name")
	}
	for what, c := range map[string]lookup.Keys{
		"name": o.Invent(SCRAMSHA256, "noone@x"), "mechanism": o.Invent(SCRAMSHA1, "nobody@x"), "cluster": other.Invent(SCRAMSHA256, "nobody@x"),
	} {
		if bytes.Equal(a.Salt, c.Salt) {
			t.Errorf("the salt is the same for another %s", what)
		}
	}
	if len(a.Salt) != 16 || a.Iterations != 4096 || len(a.StoredKey) != sha256.Size {
		t.Errorf("got a salt of %d bytes, %d iterations", len(a.Salt), a.Iterations)
	}
}

// TestSCRAMBound: a client bound to this connection is let in, one that is bound
// to another is not, and one whose server was made to look as if it could not be
// bound to is refused.
func TestSCRAMBound(t *testing.T) {
	keys := keysFor(t, SCRAMSHA256, "sesame")
	bind := func(data string) func(*scram.Client) *scram.ClientConversation {
		return func(c *scram.Client) *scram.ClientConversation {
			return c.NewConversationWithChannelBinding(scram.ChannelBinding{Type: tlsExporter, Data: []byte(data)})
		}
	}
	here := &Binding{Name: tlsExporter, Data: []byte("here")}
	c, first := scramClient(t, sha256.New, "anna", "sesame", "", bind("here"))
	if first.Flag != 'p' || first.Binding != tlsExporter {
		t.Errorf("read %+v", first)
	}
	if err := Serve(first, keys, here, true, talk(c)); err != nil || !c.Valid() {
		t.Errorf("bound here: %v", err)
	}
	c, first = scramClient(t, sha256.New, "anna", "sesame", "", bind("elsewhere"))
	if err := Serve(first, keys, here, true, talk(c)); !errors.Is(err, ErrFailed) {
		t.Errorf("bound elsewhere: %v", err)
	}
	c, first = scramClient(t, sha256.New, "anna", "sesame", "", bind("here"))
	if err := Serve(first, keys, nil, false, talk(c)); !errors.Is(err, wire.ErrSASL) {
		t.Errorf("no such binding: %v", err)
	}
	could := func(c *scram.Client) *scram.ClientConversation { return c.NewConversationAdvertisingChannelBinding() }
	c, first = scramClient(t, sha256.New, "anna", "sesame", "", could)
	if err := Serve(first, keys, nil, true, talk(c)); !errors.Is(err, ErrFailed) {
		t.Errorf("downgraded: %v", err)
	}
	c, first = scramClient(t, sha256.New, "anna", "sesame", "", could)
	if err := Serve(first, keys, nil, false, talk(c)); err != nil {
		t.Errorf("could bind, and there is nothing to bind to: %v", err)
	}
}

// TestClientFirst: what is malformed is refused, and no error repeats a message.
func TestClientFirst(t *testing.T) {
	for message, want := range map[string]string{
		"n,,n=a,r=x":               "",
		"y,a=b,n=a=2Cb=3D,r=x,e=1": "",
		"p=tls-exporter,,n=a,r=x":  "",
		"":                         "header is missing",
		"n":                        "header is missing",
		"q,,n=a,r=x":               "malformed header",
		"p=,,n=a,r=x":              "malformed header",
		"n,b,n=a,r=x":              "authorisation identity",
		"n,a=,n=a,r=x":             "authorisation identity",
		"n,a==,n=a,r=x":            "authorisation identity",
		"n,,m=x,n=a,r=x":           "name is missing",
		"n,,n=,r=x":                "name is missing",
		"n,,n=a=2c,r=x":            "malformed name",
		"n,,n=a":                   "name is missing",
		"n,,n=a,x=r":               "nonce",
		"n,,n=a\x00,r=x":           "control character",
	} {
		_, err := ParseClientFirst([]byte(message))
		if want == "" && err != nil || want != "" && (!errors.Is(err, wire.ErrSASL) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", message, err, want)
		}
	}
}

// TestBearer: tokens and users are read out of both mechanisms' messages, what is
// malformed is refused, and no token is printed.
func TestBearer(t *testing.T) {
	for _, c := range []struct {
		parse         func([]byte) (Bearer, error)
		message, user string
		ok            bool
	}{
		{ParseOAuthBearer, "n,a=anna@x,\x01host=h\x01port=143\x01auth=Bearer tok.en\x01\x01", "anna@x", true},
		{ParseOAuthBearer, "n,,\x01auth=bearer   tok.en\x01\x01", "", true},
		{ParseOAuthBearer, "n,a=a=2Cb,\x01AUTH=BEARER tok.en\x01\x01", "a,b", true},
		{ParseOAuthBearer, "p=tls-exporter,,\x01auth=Bearer tok.en\x01\x01", "", false},
		{ParseOAuthBearer, "n,,\x01auth=Basic tok.en\x01\x01", "", false},
		{ParseOAuthBearer, "n,,\x01auth=Bearer tok en\x01\x01", "", false},
		{ParseOAuthBearer, "n,,\x01auth=Bearer \x01\x01", "", false},
		{ParseOAuthBearer, "n,,\x01auth=Bearer tok.en\x01", "", false},
		{ParseOAuthBearer, "n,,\x01auth=Bearer tok.en\x01\x01x", "", false},
		{ParseOAuthBearer, "n,,\x01auth=Bearer tok.en\x01auth=Bearer tok.en\x01\x01", "", false},
		{ParseOAuthBearer, "n,,\x01\x01", "", false},
		{ParseOAuthBearer, "n,,", "", false},
		{ParseOAuthBearer, "n,,n\x01auth=Bearer tok.en\x01\x01", "", false},
		{ParseXOAuth2, "user=anna@x\x01auth=Bearer tok.en\x01\x01", "anna@x", true},
		{ParseXOAuth2, "user=\x01auth=Bearer tok.en\x01\x01", "", false},
		{ParseXOAuth2, "auth=Bearer tok.en\x01\x01", "", false},
	} {
		b, err := c.parse([]byte(c.message))
		if c.ok != (err == nil) || err != nil && !errors.Is(err, wire.ErrSASL) {
			t.Errorf("%q: got %v", c.message, err)
		}
		if c.ok && (b.User != c.user || b.Token != "tok.en") {
			t.Errorf("%q: got %q, %q", c.message, b.User, b.Token)
		}
		if text := fmt.Sprintf("%v %+v %#v %v", b, b, b, err); strings.Contains(text, "tok") && strings.Contains(text, "en\"") {
			t.Errorf("%q: printed %s", c.message, text)
		}
	}
}

// TestRefuse: a client is told what it should get, and has one thing to say.
func TestRefuse(t *testing.T) {
	h := Hint{Scope: "mail", Configuration: "https://id.example/.well-known/openid-configuration"}
	for _, c := range []struct {
		mechanism, answer, says string
		ok                      bool
	}{
		{OAuthBearer, "\x01", `{"openid-configuration":"https://id.example/.well-known/openid-configuration","scope":"mail","status":"invalid_token"}`, true},
		{OAuthBearer, "once more", "", false},
		{XOAuth2, "", `{"schemes":"bearer","scope":"mail","status":"401"}`, true},
	} {
		err := h.Refuse(c.mechanism, func(challenge []byte) ([]byte, error) {
			if c.says != "" && string(challenge) != c.says {
				t.Errorf("%s: got %s, want %s", c.mechanism, challenge, c.says)
			}
			return []byte(c.answer), nil
		})
		if c.ok != (err == nil) {
			t.Errorf("%s, %q: got %v", c.mechanism, c.answer, err)
		}
	}
}

// TestCertificate: a certificate names exactly one account, or nobody; one that
// was not verified names nobody (CVE-2019-3814).
func TestCertificate(t *testing.T) {
	cn := func(names ...string) (out []pkix.AttributeTypeAndValue) {
		for _, n := range names {
			out = append(out, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: n})
		}
		return out
	}
	for name, c := range map[string]struct {
		by   CertificateName
		cert x509.Certificate
		want string
	}{
		"address":       {ByEmail, x509.Certificate{EmailAddresses: []string{"anna@x"}}, "anna@x"},
		"two addresses": {ByEmail, x509.Certificate{EmailAddresses: []string{"anna@x", "bert@x"}}, ""},
		"no address":    {ByEmail, x509.Certificate{Subject: pkix.Name{Names: cn("anna@x")}}, ""},
		"name":          {ByCommonName, x509.Certificate{Subject: pkix.Name{Names: cn("anna@x")}}, "anna@x"},
		"two names":     {ByCommonName, x509.Certificate{Subject: pkix.Name{Names: cn("anna@x", "bert@x")}}, ""},
		"empty name":    {ByCommonName, x509.Certificate{Subject: pkix.Name{Names: cn(" ")}}, ""},
		"no rule":       {NoCertificate, x509.Certificate{EmailAddresses: []string{"anna@x"}}, ""},
	} {
		state := &tls.ConnectionState{HandshakeComplete: true, VerifiedChains: [][]*x509.Certificate{{&c.cert}}}
		if got, err := c.by.Account(state); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		unverified := &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{&c.cert}}
		for _, state := range []*tls.ConnectionState{nil, unverified} {
			if got, err := c.by.Account(state); err == nil {
				t.Errorf("%s, not verified: got %q", name, got)
			}
		}
	}
}

// TestMasters: who may act for others is a list, and only from named networks.
func TestMasters(t *testing.T) {
	m := Masters{Accounts: []string{"admin@x"}, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Separator: "*"}
	for typed, want := range map[string][3]string{
		"anna@x*admin@x": {"anna@x", "admin@x", "true"}, "anna*b*admin": {"anna*b", "admin", "true"},
		"anna@x": {"anna@x", "", "false"}, "*admin": {"*admin", "", "false"}, "anna*": {"anna*", "", "false"},
	} {
		user, master, ok := m.Split(typed)
		if got := [3]string{user, master, fmt.Sprint(ok)}; got != want {
			t.Errorf("%s: got %v, want %v", typed, got, want)
		}
	}
	if _, _, ok := (&Masters{Separator: "*"}).Split("a*b"); ok {
		t.Error("without masters a name is taken apart")
	}
	for _, c := range []struct {
		name, client string
		want         bool
	}{
		{"admin@x", "192.0.2.7", true}, {"admin@x", "::ffff:192.0.2.7", true}, {"admin@x", "198.51.100.1", false}, {"anna@x", "192.0.2.7", false},
	} {
		if got := m.May(c.name, netip.MustParseAddr(c.client)); got != c.want {
			t.Errorf("%s from %s: got %v", c.name, c.client, got)
		}
	}
	if m.May("admin@x", netip.Addr{}) {
		t.Error("an address that is not known is in a network")
	}
}

// TestOptions: what cannot be meant is refused.
func TestOptions(t *testing.T) {
	networks := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for want, o := range map[string]Options{
		"":                   {SCRAM: true, Secret: testSecret, Masters: Masters{Accounts: []string{"admin@x"}, Networks: networks, Separator: "*"}},
		"needs a secret":     {SCRAM: true, Secret: []byte("short")},
		"RFC 7677":           {Iterations: 100},
		"from nowhere":       {Masters: Masters{Accounts: []string{"admin@x"}}},
		"one character":      {Masters: Masters{Separator: "@"}},
		"is no account's":    {Masters: Masters{Accounts: []string{"Admin@x"}, Networks: networks}},
		`separator "**": it`: {Masters: Masters{Separator: "**"}},
	} {
		if err := o.Check(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
