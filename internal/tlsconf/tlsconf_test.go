package tlsconf

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// testCA makes certificates for a test.
type testCA struct {
	t    *testing.T
	dir  string
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newCA(t *testing.T, dir, name string) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{t: t, dir: dir, file: filepath.Join(dir, name+".pem"), cert: cert, key: key}
	ca.write(ca.file, "CERTIFICATE", der)
	return ca
}

func (ca *testCA) write(file, kind string, der []byte) {
	ca.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		ca.t.Fatal(err)
	}
}

// issue makes a pair under a file name, anew each time; kind is "rsa" or
// "ecdsa".
func (ca *testCA) issue(file, kind string, life time.Duration, names ...string) Pair {
	ca.t.Helper()
	ca.n++
	var private, public any
	if kind == "rsa" {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			ca.t.Fatal(err)
		}
		private, public = k, &k.PublicKey
	} else {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			ca.t.Fatal(err)
		}
		private, public = k, &k.PublicKey
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(ca.n + 1), Subject: pkix.Name{CommonName: file}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		ca.t.Fatal(err)
	}
	p := Pair{filepath.Join(ca.dir, file+".pem"), filepath.Join(ca.dir, file+".key")}
	ca.write(p.CertFile, "CERTIFICATE", der)
	ca.write(p.KeyFile, "PRIVATE KEY", keyDER)
	return p
}

func (ca *testCA) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

func newStore(t *testing.T, o StoreOptions, pairs ...Pair) *Store {
	t.Helper()
	s, err := NewStore(pairs, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func server(t *testing.T, s *Store, o ServerOptions) *tls.Config {
	t.Helper()
	c, err := s.Server(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shake performs a handshake and one byte each way, so that alerts and tickets
// behind it arrive too. It returns both sides' states and errors.
func shake(t *testing.T, client, server *tls.Config) (c, s tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	near, far := connect(t)
	for _, conn := range []net.Conn{near, far} {
		conn.SetDeadline(time.Now().Add(20 * time.Second))
	}
	done := make(chan struct{})
	side := func(conn net.Conn, tc *tls.Conn, state *tls.ConnectionState, first bool) error {
		defer conn.Close()
		if err := tc.Handshake(); err != nil {
			return err
		}
		*state = tc.ConnectionState()
		b := []byte{'x'}
		if first {
			if _, err := tc.Write(b); err != nil {
				return err
			}
		}
		if _, err := tc.Read(b); err != nil {
			return err
		}
		if !first {
			_, err := tc.Write(b)
			return err
		}
		return nil
	}
	go func() {
		defer close(done)
		serverErr = side(far, tls.Server(far, server), &s, false)
	}()
	clientErr = side(near, tls.Client(near, client), &c, true)
	<-done
	return c, s, clientErr, serverErr
}

// connect makes a connection over loopback: a pipe would have no room for the
// tickets that nobody reads yet.
func connect(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func TestModes(t *testing.T) {
	for _, m := range []Mode{Off, StartTLS, Implicit} {
		if got, err := ParseMode(m.String()); got != m || err != nil {
			t.Errorf("%v: got %v, %v", m, got, err)
		}
	}
	if _, err := ParseMode("sometimes"); err == nil {
		t.Error("a mode that is none is accepted")
	}
}

// TestSNI: the certificate is the one for the name that the client asks for, of
// the kind that it can use, and the first one for other names.
func TestSNI(t *testing.T) {
	ca := newCA(t, t.TempDir(), "ca")
	store := newStore(t, StoreOptions{},
		ca.issue("default", "ecdsa", time.Hour, "mail.example.test"),
		ca.issue("org", "rsa", time.Hour, "mail.example.org", "*.example.org"),
		ca.issue("imap", "ecdsa", time.Hour, "imap.example.org"),
		ca.issue("rsa", "rsa", time.Hour, "mail.example.test"))
	config := server(t, store, ServerOptions{})
	for name, want := range map[string]string{
		"mail.example.test": "default", "MAIL.Example.Test": "default", "mail.example.org": "org",
		"pop.example.org": "org", "imap.example.org": "imap", "a.b.example.org": "default",
		"example.org": "default", "unknown.example": "default", "": "default",
	} {
		client := &tls.Config{ServerName: name, InsecureSkipVerify: true}
		c, _, err, _ := shake(t, client, config)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if got := c.PeerCertificates[0].Subject.CommonName; got != want {
			t.Errorf("%q: got the certificate %q, want %q", name, got, want)
		}
	}
	old := &tls.Config{ServerName: "mail.example.test", RootCAs: ca.pool(), MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}
	c, _, err, _ := shake(t, old, config)
	if err != nil || c.PeerCertificates[0].Subject.CommonName != "rsa" {
		t.Errorf("a client that knows RSA alone: got %v, %v", c.PeerCertificates, err)
	}
}

// TestALPN: a client that offers names and none of ours is refused (ALPACA); one
// that offers none is served.
func TestALPN(t *testing.T) {
	ca := newCA(t, t.TempDir(), "ca")
	store := newStore(t, StoreOptions{}, ca.issue("mail", "ecdsa", time.Hour, "mail.example.test"))
	for protocol, cases := range map[string]map[string]string{
		"imap":        {"": "", "imap": "imap", "h2,imap": "imap", "h2,http/1.1": "refused", "http/1.1": "refused", "pop3": "refused"},
		"pop3":        {"": "", "pop3": "pop3", "http/1.1": "refused", "imap": "refused"},
		"managesieve": {"managesieve": "managesieve", "http/1.1": "refused"},
		"smtp":        {"": "", "smtp": "smtp", "esmtp": "esmtp", "h2,http/1.1": "refused"},
		"submission":  {"": "", "smtp": "smtp", "http/1.1": "refused"},
		"lookup":      {"": "", "http/1.1": ""},
	} {
		config := server(t, store, ServerOptions{ALPN: ALPN(protocol)})
		for offer, want := range cases {
			client := &tls.Config{ServerName: "mail.example.test", RootCAs: ca.pool()}
			if offer != "" {
				client.NextProtos = strings.Split(offer, ",")
			}
			c, _, err, _ := shake(t, client, config)
			got := c.NegotiatedProtocol
			if err != nil {
				got = "refused"
			}
			if got != want {
				t.Errorf("%s, offered %q: got %q (%v), want %q", protocol, offer, got, err, want)
			}
		}
	}
}

// TestVersions: nothing older than TLS 1.2 is spoken, and 1.3 alone if wanted.
func TestVersions(t *testing.T) {
	ca := newCA(t, t.TempDir(), "ca")
	store := newStore(t, StoreOptions{}, ca.issue("mail", "ecdsa", time.Hour, "mail.example.test"))
	for _, c := range []struct {
		server, client uint16
		good           bool
	}{
		{0, tls.VersionTLS11, false}, {0, tls.VersionTLS12, true}, {0, tls.VersionTLS13, true},
		{tls.VersionTLS13, tls.VersionTLS12, false}, {tls.VersionTLS13, tls.VersionTLS13, true},
	} {
		config := server(t, store, ServerOptions{MinVersion: c.server})
		client := &tls.Config{ServerName: "mail.example.test", RootCAs: ca.pool(), MinVersion: tls.VersionTLS10, MaxVersion: c.client}
		if _, _, err, _ := shake(t, client, config); (err == nil) != c.good {
			t.Errorf("server's %#x, client's %#x: got %v", c.server, c.client, err)
		}
	}
	if _, err := store.Server(ServerOptions{MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("TLS 1.0 may be asked for")
	}
}

// TestReload: files that are replaced are taken over, whole or not at all; what
// cannot be used is complained about once, and the old ones stay in use.
func TestReload(t *testing.T) {
	ca := newCA(t, t.TempDir(), "ca")
	one := ca.issue("one", "ecdsa", time.Hour, "one.example.test")
	two := ca.issue("two", "ecdsa", time.Hour, "two.example.test")
	core, logs := observer.New(zap.InfoLevel)
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t, StoreOptions{Logger: zap.New(core)}, one, two)
		stopped := make(chan error)
		ctx, stop := context.WithCancel(t.Context())
		go func() { stopped <- store.Run(ctx) }()
		shown := func(name string) string { return Pin(store.now.Load().choose(name).certs[0].Leaf) }
		pass := func() { time.Sleep(61 * time.Second); synctest.Wait() }
		touch := func(file string, n int) {
			// Files keep the true time; what matters is that it changes.
			at := time.Now().Add(time.Duration(n) * time.Hour)
			if err := os.Chtimes(file, at, at); err != nil {
				t.Fatal(err)
			}
		}

		before := shown("two.example.test")
		ca.issue("two", "ecdsa", time.Hour, "two.example.test")
		touch(two.CertFile, 1)
		if got := shown("two.example.test"); got != before {
			t.Error("taken over before anybody looked")
		}
		pass()
		renewed := shown("two.example.test")
		if renewed == before {
			t.Fatal("a renewed certificate is not taken over")
		}

		// The certificate is there already, its key is not yet.
		key, err := os.ReadFile(two.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		ca.issue("two", "ecdsa", time.Hour, "two.example.test")
		newKey, err := os.ReadFile(two.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(two.KeyFile, key, 0o600); err != nil {
			t.Fatal(err)
		}
		ca.issue("one", "ecdsa", time.Hour, "one.example.test")
		oneBefore := shown("one.example.test")
		touch(two.CertFile, 2)
		for range 5 {
			pass()
		}
		if shown("two.example.test") != renewed || shown("one.example.test") != oneBefore {
			t.Error("half of a renewal was taken over")
		}
		if n := logs.FilterMessageSnippet("cannot be reloaded").Len(); n != 1 {
			t.Errorf("complained %d times, want once", n)
		}
		if err := store.Reload(); err == nil || shown("two.example.test") != renewed {
			t.Errorf("Reload: got %v", err)
		}
		if err := os.WriteFile(two.KeyFile, newKey, 0o600); err != nil {
			t.Fatal(err)
		}
		touch(two.KeyFile, 3)
		pass()
		if shown("two.example.test") == renewed || shown("one.example.test") == oneBefore {
			t.Error("the whole renewal is not taken over")
		}
		if err := os.Remove(one.KeyFile); err != nil {
			t.Fatal(err)
		}
		pass()
		if n := logs.FilterMessageSnippet("cannot be reloaded").Len(); n != 2 {
			t.Errorf("complained %d times, want twice: the second mistake is another", n)
		}
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

func TestBadPairs(t *testing.T) {
	ca := newCA(t, t.TempDir(), "ca")
	a, b := ca.issue("a", "ecdsa", time.Hour, "a.test"), ca.issue("b", "ecdsa", time.Hour, "b.test")
	for name, pairs := range map[string][]Pair{
		"none":               nil,
		"missing":            {{"/nonexistent/x.pem", a.KeyFile}},
		"another's key":      {a, {a.CertFile, b.KeyFile}},
		"no certificate":     {{a.KeyFile, a.KeyFile}},
		"one good, one gone": {a, {b.CertFile, b.KeyFile + ".gone"}},
	} {
		if _, err := NewStore(pairs, StoreOptions{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := Server(a.CertFile, b.KeyFile); err == nil {
		t.Error("Server accepts another's key")
	}
	if _, err := Server(a.CertFile, a.KeyFile); err != nil {
		t.Error(err)
	}
}

// TestClientCertificates: EXTERNAL has a verified certificate to stand on, or
// none; the CAs are reloaded like everything else.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	ca, clients, others := newCA(t, dir, "ca"), newCA(t, dir, "clients"), newCA(t, dir, "others")
	store := newStore(t, StoreOptions{}, ca.issue("mail", "ecdsa", time.Hour, "mail.example.test"))
	anna, eve := clients.issue("anna", "ecdsa", time.Hour), others.issue("eve", "ecdsa", time.Hour)
	client := func(pair *Pair) *tls.Config {
		// All sides force what they have on the server, whatever CAs it names.
		c := &tls.Config{ServerName: "mail.example.test", RootCAs: ca.pool(), ClientSessionCache: tls.NewLRUClientSessionCache(4)}
		if pair != nil {
			cert, err := loadPair(*pair)
			if err != nil {
				t.Fatal(err)
			}
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
		return c
	}
	for _, kind := range []struct {
		certs             ClientCerts
		none, anna, eve   bool
		annaIsTheVerified bool
	}{
		{NoClientCerts, true, true, true, false},
		{OptionalClientCerts, true, true, false, true},
		{RequiredClientCerts, false, true, false, true},
	} {
		config := server(t, store, ServerOptions{ClientCerts: kind.certs, ClientCAFile: clients.file})
		for who, c := range map[string]struct {
			pair *Pair
			good bool
		}{"none": {nil, kind.none}, "anna": {&anna, kind.anna}, "eve": {&eve, kind.eve}} {
			_, state, _, err := shake(t, client(c.pair), config)
			if (err == nil) != c.good {
				t.Errorf("%v, %s: got %v", kind.certs, who, err)
			}
			if verified := len(state.VerifiedChains) > 0; err == nil && verified != (who == "anna" && kind.annaIsTheVerified) {
				t.Errorf("%v, %s: verified: %v", kind.certs, who, verified)
			}
		}
	}
	if _, err := store.Server(ServerOptions{ClientCerts: OptionalClientCerts}); err == nil {
		t.Error("client certificates without a CA")
	}

	config := server(t, store, ServerOptions{ClientCerts: RequiredClientCerts, ClientCAFile: clients.file})
	known := client(&anna)
	for i := range 2 {
		c, _, err, _ := shake(t, known, config)
		if err != nil || c.DidResume != (i == 1) {
			t.Fatalf("handshake %d: resumed %v, %v", i, c.DidResume, err)
		}
	}
	pem, err := os.ReadFile(others.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(clients.file, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := shake(t, known, config); err == nil {
		t.Error("a client whose CA is none any more resumes its session")
	}
	if _, _, _, err := shake(t, client(&eve), config); err != nil {
		t.Errorf("a client of the new CA: %v", err)
	}
}

// TestTickets: a session is resumed where it began, and nowhere else: not on
// another listener, not for a name with another key, and not once the
// certificate's key was replaced.
func TestTickets(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		dir := t.TempDir()
		ca := newCA(t, dir, "ca")
		first := ca.issue("first", "ecdsa", time.Hour, "a.example.test", "aa.example.test")
		store := newStore(t, StoreOptions{}, first, ca.issue("second", "ecdsa", time.Hour, "b.example.test"))
		config, other := server(t, store, ServerOptions{ALPN: ALPN("imap")}), server(t, store, ServerOptions{ALPN: ALPN("pop3")})
		cache := &oneTicket{}
		resumed := func(name string, s *tls.Config) bool {
			t.Helper()
			client := &tls.Config{ServerName: name, RootCAs: ca.pool(), ClientSessionCache: cache, MaxVersion: version}
			c, _, err, _ := shake(t, client, s)
			if err != nil {
				t.Fatal(err)
			}
			return c.DidResume
		}
		for _, step := range []struct {
			name  string
			on    *tls.Config
			want  bool
			about string
		}{
			{"a.example.test", config, false, "the first"},
			{"a.example.test", config, true, "the same again"},
			{"aa.example.test", config, true, "another name, the same key"},
			{"b.example.test", config, false, "another key"},
			{"b.example.test", config, true, "the other key again"},
			{"b.example.test", other, false, "another listener"},
			{"a.example.test", config, false, "back"},
			{"a.example.test", config, true, "and again"},
		} {
			if got := resumed(step.name, step.on); got != step.want {
				t.Errorf("TLS %#x, %s: resumed: %v, want %v", version, step.about, got, step.want)
			}
		}
		ca.issue("first", "ecdsa", time.Hour, "a.example.test", "aa.example.test")
		if err := store.Reload(); err != nil {
			t.Fatal(err)
		}
		if resumed("a.example.test", config) {
			t.Errorf("TLS %#x: a session under a key that was replaced is resumed", version)
		}
	}
}

// oneTicket offers the newest ticket to every server, whatever its name.
type oneTicket struct{ state *tls.ClientSessionState }

func (o *oneTicket) Get(string) (*tls.ClientSessionState, bool) { return o.state, o.state != nil }
func (o *oneTicket) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		o.state = s
	}
}

// TestPins: a pin alone is enough, and enough alone only without a CA; a resumed
// session is held against it too.
func TestPins(t *testing.T) {
	dir := t.TempDir()
	ca, strange := newCA(t, dir, "ca"), newCA(t, dir, "strange")
	good := ca.issue("good", "ecdsa", time.Hour, "b1.example.test")
	expired := strange.issue("expired", "ecdsa", -time.Minute, "elsewhere.example.test")
	pin := func(p Pair) string {
		c, err := loadPair(p)
		if err != nil {
			t.Fatal(err)
		}
		return Pin(c.Leaf)
	}
	for name, c := range map[string]struct {
		pair Pair
		ca   string
		pins []string
		good bool
	}{
		"CA":                                   {good, ca.file, nil, true},
		"another CA":                           {good, strange.file, nil, false},
		"pin":                                  {good, "", []string{pin(good)}, true},
		"pin with its algorithm":               {good, "", []string{"sha256/" + pin(good)}, true},
		"one of two pins":                      {good, "", []string{pin(expired), pin(good)}, true},
		"another's pin":                        {good, "", []string{pin(expired)}, false},
		"pin alone: expired, for another name": {expired, "", []string{pin(expired)}, true},
		"pin of the CA alone is none":          {good, "", []string{Pin(ca.cert)}, false},
		"pin and CA":                           {good, ca.file, []string{pin(good)}, true},
		"pin of the CA and CA":                 {good, ca.file, []string{Pin(ca.cert)}, true},
		"pin, and another CA":                  {good, strange.file, []string{pin(good)}, false},
		"CA, and another's pin":                {good, ca.file, []string{pin(expired)}, false},
		"pin and CA: expired":                  {expired, strange.file, []string{pin(expired)}, false},
	} {
		client, err := NewClient(ClientOptions{CAFile: c.ca, Pins: c.pins, ServerName: "b1.example.test"})
		if err != nil {
			t.Fatal(err)
		}
		config := server(t, newStore(t, StoreOptions{}, c.pair), ServerOptions{})
		for i := range 2 {
			state, _, err, _ := shake(t, client, config)
			if (err == nil) != c.good {
				t.Errorf("%s: got %v", name, err)
			}
			// (crypto/tls never resumes a session whose certificate expired
			// or is not checked by name.)
			if err == nil && i == 1 && c.ca != "" && !state.DidResume {
				t.Errorf("%s: not resumed", name)
			}
			if len(c.pins) > 0 && c.ca == "" && !c.good && !errors.Is(err, ErrPin) {
				t.Errorf("%s: got %v, want ErrPin", name, err)
			}
		}
	}
	for _, bad := range []string{"", "x", "sha256/", strings.Repeat("A", 43), strings.Repeat("A", 45) + "="} {
		if _, err := NewClient(ClientOptions{Pins: []string{bad}}); err == nil {
			t.Errorf("pin %q is accepted", bad)
		}
	}
}

// TestMutualTLS: the client shows its certificate, the renewed one once it is
// there.
func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	ca := newCA(t, dir, "ca")
	pair := ca.issue("proxy", "ecdsa", time.Hour, "px1.example.test")
	own := newStore(t, StoreOptions{}, pair)
	config := server(t, newStore(t, StoreOptions{}, ca.issue("b1", "ecdsa", time.Hour, "b1.example.test")),
		ServerOptions{ClientCerts: RequiredClientCerts, ClientCAFile: ca.file, ALPN: ALPN("imap")})
	client, err := NewClient(ClientOptions{CAFile: ca.file, Certificate: own, ServerName: "b1.example.test", ALPN: ALPN("imap")})
	if err != nil {
		t.Fatal(err)
	}
	client.ClientSessionCache = nil
	seen := make(map[string]bool)
	for range 2 {
		c, s, clientErr, serverErr := shake(t, client, config)
		if clientErr != nil || serverErr != nil || c.NegotiatedProtocol != "imap" {
			t.Fatalf("got %q, %v, %v", c.NegotiatedProtocol, clientErr, serverErr)
		}
		seen[Pin(s.PeerCertificates[0])] = true
		ca.issue("proxy", "ecdsa", time.Hour, "px1.example.test")
		if err := own.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != 2 {
		t.Error("the renewed certificate is not shown")
	}
	for name, o := range map[string]ClientOptions{"missing": {CAFile: filepath.Join(dir, "none.pem")}, "no certificate": {CAFile: pair.KeyFile}} {
		if _, err := NewClient(o); err == nil {
			t.Errorf("CA file %s: accepted", name)
		}
	}
}

func TestExpiry(t *testing.T) {
	ca := newCA(t, t.TempDir(), "ca")
	store := newStore(t, StoreOptions{},
		ca.issue("gone", "ecdsa", -time.Minute, "gone.example.test"), ca.issue("soon", "ecdsa", time.Hour, "soon.example.test"),
		ca.issue("later", "ecdsa", 1000*time.Hour, "later.example.test"))
	got := store.Warnings(24 * time.Hour)
	if len(got) != 2 || !strings.Contains(got[0], "gone.pem expired on") || !strings.Contains(got[1], "soon.pem expires on") {
		t.Errorf("got %q", got)
	}
	all := store.Certificates()
	if len(all) != 3 || all[2].Names[0] != "later.example.test" {
		t.Errorf("got %+v", all)
	}
}

// TestUse: other pairs take the place of those that were, all or none.
func TestUse(t *testing.T) {
	ca := newCA(t, t.TempDir(), "ca")
	a, b := ca.issue("a", "ecdsa", time.Hour, "a.test"), ca.issue("b", "ecdsa", time.Hour, "b.test")
	store := newStore(t, StoreOptions{}, a)
	if err := store.Use([]Pair{b, {a.CertFile, b.KeyFile}}); err == nil {
		t.Error("half of it is good, and it is accepted")
	}
	if err := store.Use(nil); err == nil {
		t.Error("none at all is accepted")
	}
	if err := store.Reload(); err != nil || store.Certificates()[0].File != a.CertFile {
		t.Errorf("got %+v, %v, want what was before", store.Certificates(), err)
	}
	if err := store.Use([]Pair{b, a}); err != nil {
		t.Fatal(err)
	}
	if all := store.Certificates(); len(all) != 2 || all[0].File != b.CertFile {
		t.Errorf("got %+v", all)
	}
}
