package router_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/sasl"
	"switchyard/router/upstream"
)

// issued is a sasl.Tokens that knows tokens.
type issued map[string]string

func (i issued) Verify(_ context.Context, token string) (string, error) {
	switch user, ok := i[token]; {
	case token == "away":
		return "", lookup.Unavailable("ask about a token", errors.New("issuer is away"))
	case token == "broken":
		return "", errors.New("a bug")
	case !ok:
		return "", fmt.Errorf("%w: not active", sasl.ErrToken)
	default:
		return user, nil
	}
}

func (issued) Hint() sasl.Hint { return sasl.Hint{Scope: "mail"} }

// noSecrets makes sure that nothing of the kind is in the log.
func noSecrets(t *testing.T, p *routertest.Proxy, secrets ...string) {
	t.Helper()
	for _, l := range p.Logs.All() {
		text := l.Message + fmt.Sprint(l.ContextMap())
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("the log holds %q: %s", secret, text)
			}
		}
	}
}

// TestTokens: a token logs its user in on every protocol; one that is refused, or
// somebody else's, is told so in the mechanism's own way and counted; an issuer
// who is away is "not now". No token is ever logged.
func TestTokens(t *testing.T) {
	tokens := issued{"t0ken-anna": "anna@example.test", "t0ken-ghost": "ghost@example.test"}
	bearer := func(user, token string) string { return "n,a=" + user + ",\x01auth=Bearer " + token + "\x01\x01" }
	google := func(user, token string) string { return "user=" + user + "\x01auth=Bearer " + token + "\x01\x01" }
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, d, nil)
			dir := routertest.NewDirectory()
			dir.Add(anna(), "sesame")
			p, _ := mechanismRig(t, d, dir, sasl.Options{Tokens: tokens}, func(c *routertest.Config) { c.Options.MaxFailures = 10 }, s.backend("b1", upstream.Login{}))
			c := d.dial(t, p, nil)
			for _, try := range []struct {
				mechanism, message, want string
				challenged               bool
			}{
				{sasl.OAuthBearer, bearer("anna@example.test", "wr0ng"), d.no, true},
				{sasl.OAuthBearer, bearer("bert@example.test", "t0ken-anna"), d.no, true},
				{sasl.OAuthBearer, bearer("ghost@example.test", "t0ken-ghost"), d.no, false},
				{sasl.OAuthBearer, bearer("anna@example.test", "away"), d.later, false},
				{sasl.XOAuth2, google("anna@example.test", "wr0ng"), d.no, true},
				{sasl.XOAuth2, google("anna@example.test", "broken"), d.later, false},
			} {
				challenged := false
				got := c.authenticate(try.mechanism, try.message, func(challenge string) string {
					challenged = true
					if !strings.Contains(challenge, `"scope":"mail"`) {
						t.Errorf("%q: got %s", try.message, challenge)
					}
					return "\x01"
				})
				expectLine(t, try.message, got, try.want)
				if challenged != try.challenged {
					t.Errorf("%q: told why: %v", try.message, challenged)
				}
			}
			got := c.authenticate(sasl.OAuthBearer, "n,,\x01auth=Bearer t0ken-anna\x01\x01", func(string) string { t.Error("asked"); return "" })
			expectLine(t, "the token's own user", got, d.yes)
			c.conn.Close()
			if line := p.Session(); line["user"] != "anna@example.test" || line["mechanism"] != sasl.OAuthBearer {
				t.Errorf("session: %v", line)
			}
			c = d.dial(t, p, nil)
			expectLine(t, "XOAUTH2", c.authenticate(sasl.XOAuth2, google("Anna", "t0ken-anna"), nil), d.yes)
			c.conn.Close()
			p.Sessions(2)
			noSecrets(t, p, "t0ken", "wr0ng", routertest.Secret)
		})
	}
}

// clientCert makes a CA and a certificate of it.
func clientCert(t *testing.T, email ...string) (*x509.CertPool, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "bert@example.test"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, EmailAddresses: email, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	signed, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if ca, err = x509.ParseCertificate(signed); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return pool, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestExternal: a client's certificate logs its account in, and no other; the
// mechanism is there only for a client that has shown one, and only where it is
// switched on.
func TestExternal(t *testing.T) {
	server, client := routertest.TLS(t)
	pool, cert := clientCert(t, "anna@example.test")
	server = server.Clone()
	server.ClientCAs, server.ClientAuth = pool, tls.VerifyClientCertIfGiven
	shows := client.Clone()
	shows.Certificates = []tls.Certificate{cert}
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, d, nil)
			dir := routertest.NewDirectory()
			dir.Add(anna(), "sesame")
			start := func(by sasl.CertificateName) *routertest.Proxy {
				p, _ := mechanismRig(t, d, dir, sasl.Options{Certificate: by}, func(c *routertest.Config) {
					c.Listener.TLS, c.Listener.Config = tlsconf.Implicit, server
				}, s.backend("b1", upstream.Login{}))
				return p
			}
			p := start(sasl.ByEmail)
			c := d.dial(t, p, shows)
			expectLine(t, "for another", c.authenticate(sasl.External, "bert@example.test", nil), d.no)
			expectLine(t, "for oneself", c.authenticate(sasl.External, "anna@example.test", nil), d.yes)
			c.conn.Close()
			if got := d.dial(t, p, client).authenticate(sasl.External, "anna@example.test", nil); strings.HasPrefix(got, d.yes) {
				t.Errorf("without a certificate: got %q", got)
			}
			// Its common name is bert's, who has no account.
			expectLine(t, "by another name", d.dial(t, start(sasl.ByCommonName), shows).authenticate(sasl.External, "", nil), d.no)
			if got := d.dial(t, start(sasl.NoCertificate), shows).authenticate(sasl.External, "", nil); strings.HasPrefix(got, d.yes) {
				t.Errorf("switched off: got %q", got)
			}
		})
	}
}

func plain(authzid, user, password string) string { return authzid + "\x00" + user + "\x00" + password }

// TestMasters: a master user acts for others with its own password, from its own
// networks, and the log says who it was; nobody else does.
func TestMasters(t *testing.T) {
	here := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	elsewhere := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	masters := func(networks []netip.Prefix) sasl.Options {
		return sasl.Options{Masters: sasl.Masters{Accounts: []string{"admin@example.test"}, Networks: networks, Separator: "*"}}
	}
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, d, nil)
			dir := routertest.NewDirectory()
			for _, a := range []lookup.Account{anna(), {Name: "admin@example.test", Home: "b2"}, {Name: "bert@example.test", Home: "b1"}, {Name: "sus@example.test", Home: "b1", Status: lookup.StatusSuspended}} {
				dir.Add(a, "pw-"+a.Name[:4])
			}
			for why, c := range map[string]struct {
				o                       sasl.Options
				authzid, user, password string
				want                    string
			}{
				"by a name":              {masters(here), "", "anna*admin", "pw-admi", d.yes},
				"by both names":          {masters(here), "anna", "anna*admin", "pw-admi", d.yes},
				"by authzid":             {masters(here), "anna", "admin", "pw-admi", d.yes},
				"for oneself":            {masters(here), "admin", "admin", "pw-admi", d.later}, // b2 is not there
				"two names":              {masters(here), "bert", "anna*admin", "pw-admi", d.no},
				"the user's password":    {masters(here), "", "anna*admin", "pw-anna", d.no},
				"no master":              {masters(here), "", "anna*bert", "pw-bert", d.no},
				"no master, authzid":     {masters(here), "anna", "bert", "pw-bert", d.no},
				"nobody's mail":          {masters(here), "", "ghost*admin", "pw-admi", d.no},
				"from elsewhere":         {masters(elsewhere), "", "anna*admin", "pw-admi", d.no},
				"authzid from elsewhere": {masters(elsewhere), "anna", "admin", "pw-admi", d.no},
				"switched off":           {sasl.Options{}, "", "anna*admin", "pw-admi", d.no},
				"authzid, switched off":  {sasl.Options{}, "anna", "admin", "pw-admi", d.no},
			} {
				p, _ := mechanismRig(t, d, dir, c.o, nil, s.backend("b1", upstream.Login{}))
				conn := d.dial(t, p, nil)
				expectLine(t, why, conn.authenticate(sasl.Plain, plain(c.authzid, c.user, c.password), nil), c.want)
				conn.conn.Close()
				line := p.Session()
				if master, want := line["master"], any("admin@example.test"); (c.want == d.yes) != (master == want) || c.want == d.yes && line["user"] != "anna@example.test" {
					t.Errorf("%s: session: %v", why, line)
				}
				noSecrets(t, p, "pw-")
			}
			for _, login := range s.logins() {
				if login != "PLAIN anna@example.test proxy "+routertest.Secret {
					t.Errorf("the backend heard %q", login)
				}
			}
		})
	}
}

// TestForwarded: a backend that wants the client's own password gets it, under the
// name that it wants; one with a master user gets that; where the backend judges,
// its no is the client's, and counts.
func TestForwarded(t *testing.T) {
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			login := func(user, password string) string {
				if d.service == upstream.POP3 {
					return "PASS " + user + " " + password
				}
				return "PLAIN  " + user + " " + password
			}
			master := "PLAIN  anna@example.test*proxy s3cret"
			for why, c := range map[string]struct {
				policy    upstream.Login
				passwords map[string]string // the backend's
				password  string            // the client's
				want      string
				heard     string
				reason    string
			}{
				"forwarded":             {upstream.Login{Forward: true}, nil, "sesame", d.yes, login("anna@example.test", "sesame"), ""},
				"under the local name":  {upstream.Login{Forward: true, User: "%n"}, nil, "sesame", d.yes, login("anna", "sesame"), ""},
				"wrong here":            {upstream.Login{Forward: true}, nil, "wrong", d.no, "", "credentials rejected"},
				"wrong there":           {upstream.Login{Forward: true}, map[string]string{}, "sesame", d.later, login("anna@example.test", "sesame"), "configuration mistake"},
				"unchecked":             {upstream.Login{Forward: true, Unchecked: true}, map[string]string{"anna@example.test": "theirs"}, "theirs", d.yes, login("anna@example.test", "theirs"), ""},
				"unchecked and wrong":   {upstream.Login{Forward: true, Unchecked: true}, map[string]string{"anna@example.test": "theirs"}, "sesame", d.no, login("anna@example.test", "sesame"), "credentials rejected"},
				"unchecked, none":       {upstream.Login{Forward: true, Unchecked: true}, nil, "", d.no, "", "credentials rejected"},
				"master":                {upstream.Login{User: "%u*proxy", Secret: "s3cret"}, nil, "sesame", d.yes, master, ""},
				"master, wrong here":    {upstream.Login{User: "%u*proxy", Secret: "s3cret"}, nil, "wrong", d.no, "", "credentials rejected"},
				"master, unknown there": {upstream.Login{User: "%u*proxy", Secret: "s3cret"}, map[string]string{}, "sesame", d.later, master, "configuration mistake"},
			} {
				s := newStore(t, d, c.passwords)
				dir := routertest.NewDirectory()
				dir.Add(anna(), "sesame")
				p, _ := mechanismRig(t, d, dir, sasl.Options{}, nil, s.backend("b1", c.policy))
				conn := d.dial(t, p, nil)
				expectLine(t, why, conn.authenticate(sasl.Plain, plain("", "anna", c.password), nil), c.want)
				conn.conn.Close()
				line := p.Session()
				if reason := fmt.Sprint(line["reason"]); c.reason != "" && !strings.Contains(reason, c.reason) {
					t.Errorf("%s: session: %v", why, line)
				}
				if got := strings.Join(s.logins(), "; "); got != c.heard {
					t.Errorf("%s: the backend heard %q, want %q", why, got, c.heard)
				}
				noSecrets(t, p, "s3cret", "sesame", "theirs", routertest.Secret)
			}
		})
	}
}

// TestForwardedExhausted: passwords that the backend finds wrong use up the tries
// of a connection, also for a name that nobody has.
func TestForwardedExhausted(t *testing.T) {
	d := dialects["imap"]
	s := newStore(t, d, map[string]string{})
	dir := routertest.NewDirectory()
	dir.Add(anna(), "sesame")
	p, _ := mechanismRig(t, d, dir, sasl.Options{}, func(c *routertest.Config) { c.Options.MaxFailures = 2 }, s.backend("b1", upstream.Login{Forward: true, Unchecked: true}))
	c := d.dial(t, p, nil)
	for _, user := range []string{"anna", "nobody"} {
		expectLine(t, user, c.authenticate(sasl.Plain, plain("", user, "x"), nil), d.no)
	}
	expectLine(t, "the end", c.line(), "* BYE Too many failed logins")
}

// TestForwardedMechanisms: where a backend wants passwords, mechanisms without one
// are not offered, and cannot be used.
func TestForwardedMechanisms(t *testing.T) {
	d := dialects["imap"]
	s := newStore(t, d, nil)
	p, _ := mechanismRig(t, d, newKeyed(t, anna()), sasl.Options{SCRAM: true, Secret: saslSecret, Tokens: issued{}, Masters: sasl.Masters{
		Accounts: []string{"admin@example.test"}, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Separator: "*",
	}}, nil, s.backend("b1", upstream.Login{Forward: true}), s.backend("b2", upstream.Login{}))
	p.Play(`
		S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=LOGIN] *
		C: a AUTHENTICATE OAUTHBEARER
		S: a NO Mechanism is not supported
		C: b AUTHENTICATE SCRAM-SHA-256
		S: b NO Mechanism is not supported`)
}

// TestMechanismsNeedPrivacy: on a connection that anyone can read there is no
// mechanism at all, and none can be used.
func TestMechanismsNeedPrivacy(t *testing.T) {
	d := dialects["imap"]
	server, _ := routertest.TLS(t)
	s := newStore(t, d, nil)
	p, _ := mechanismRig(t, d, newKeyed(t, anna()), sasl.Options{SCRAM: true, Secret: saslSecret, Tokens: issued{}, Certificate: sasl.ByEmail}, func(c *routertest.Config) {
		c.Listener = router.Listener{TLS: tlsconf.StartTLS, Config: server}
	}, s.backend("b1", upstream.Login{}))
	p.Play(`
		S: * OK [CAPABILITY IMAP4rev1 SASL-IR STARTTLS LOGINDISABLED] *
		C: a AUTHENTICATE SCRAM-SHA-256
		S: a NO [PRIVACYREQUIRED] *
		C: b AUTHENTICATE EXTERNAL =
		S: b NO [PRIVACYREQUIRED] *`)
}

// TestLearned: what a client is promised before its login is what all backends
// have been heard to offer, and it follows what a login brings to light.
func TestLearned(t *testing.T) {
	for name, want := range map[string][2]string{
		"imap":        {"IMAP4rev1 SASL-IR LITERAL+ ID AUTH=PLAIN", "IMAP4rev1 SASL-IR IDLE AUTH=PLAIN"},
		"submission":  {"250-8BITMIME\n250-SIZE 1000\n250 AUTH", ""},
		"managesieve": {"", ""},
		"pop3":        {"", ""},
	} {
		d := dialects[name]
		if want[0] == "" {
			continue
		}
		s := newStore(t, d, nil)
		s.alsoOffer(" LITERAL+ ID")
		p, set := mechanismRig(t, d, newKeyed(t, anna()), sasl.Options{}, nil, s.backend("b1", upstream.Login{}))
		look := func() string {
			c := &authPeer{t, d, p.Dial(), nil}
			c.conn.SetDeadline(time.Now().Add(20 * time.Second))
			c.r = bufio.NewReader(c.conn)
			defer c.conn.Close()
			return c.greeting()
		}
		if got := look(); strings.Contains(got, "LITERAL+") || strings.Contains(got, "SIZE") {
			t.Errorf("%s, nobody was heard: got %q", name, got)
		}
		heard(t, set, d.service)
		if got := look(); !strings.Contains(got, want[0]) {
			t.Errorf("%s, heard: got %q", name, got)
		}
		c := d.dial(t, p, nil)
		expectLine(t, name, c.authenticate(sasl.Plain, plain("", "anna", "sesame"), nil), d.yes)
		c.conn.Close()
		if want[1] == "" {
			continue
		}
		if got := look(); !strings.Contains(got, want[1]) {
			t.Errorf("%s, behind a login: got %q", name, got)
		}
	}
}
