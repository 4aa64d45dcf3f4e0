package tlsconf

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"sync"
	"testing"
	"time"
)

// witnessed performs a handshake as shake does, with a witness at the server.
func witnessed(t *testing.T, client, server *tls.Config) (c tls.ConnectionState, leaf *x509.Certificate) {
	t.Helper()
	near, far := connect(t)
	defer near.Close()
	defer far.Close()
	near.SetDeadline(time.Now().Add(20 * time.Second))
	far.SetDeadline(time.Now().Add(20 * time.Second))
	ctx, w := WithWitness(t.Context())
	var seen *x509.Certificate
	var wg sync.WaitGroup
	wg.Go(func() {
		s := tls.Server(far, server)
		if err := s.HandshakeContext(ctx); err == nil {
			s.Write([]byte{'x'}) // with the tickets before it
			state := s.ConnectionState()
			seen = w.Leaf(&state)
		}
	})
	tc := tls.Client(near, client)
	if err := tc.HandshakeContext(t.Context()); err == nil {
		if _, err := tc.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		c = tc.ConnectionState()
	}
	wg.Wait()
	return c, seen
}

// TestWitness: a witness has seen the certificate that the client has, whichever
// of them that was, and none where none was shown.
func TestWitness(t *testing.T) {
	ca := newCA(t, t.TempDir(), "ca")
	store := newStore(t, StoreOptions{},
		ca.issue("mail", "ecdsa", time.Hour, "mail.example.test"),
		ca.issue("rsa", "rsa", time.Hour, "mail.example.test"),
		ca.issue("org", "ecdsa", time.Hour, "*.example.org"))
	config := server(t, store, ServerOptions{})
	check := func(what string, client *tls.Config) *x509.Certificate {
		t.Helper()
		c, leaf := witnessed(t, client, config)
		if len(c.PeerCertificates) == 0 || leaf == nil || !bytes.Equal(leaf.Raw, c.PeerCertificates[0].Raw) {
			t.Errorf("%s: the client has %d certificates, the witness has seen %v", what, len(c.PeerCertificates), leaf != nil)
		}
		return leaf
	}
	for name, want := range map[string]string{"mail.example.test": "mail", "imap.example.org": "org", "elsewhere.example": "mail", "": "mail"} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			leaf := check(name, &tls.Config{ServerName: name, InsecureSkipVerify: true, MaxVersion: version})
			if leaf != nil && leaf.Subject.CommonName != want {
				t.Errorf("%q: seen %s, want %s", name, leaf.Subject.CommonName, want)
			}
		}
	}
	old := &tls.Config{ServerName: "mail.example.test", RootCAs: ca.pool(), MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}
	before := check("a client that knows RSA alone", old)
	if before != nil && before.Subject.CommonName != "rsa" {
		t.Errorf("a client that knows RSA alone: seen %s", before.Subject.CommonName)
	}

	// A renewed certificate is seen by those who are shown it; the others keep
	// what they have seen.
	ca.issue("rsa", "rsa", time.Hour, "mail.example.test")
	if err := store.Reload(); err != nil {
		t.Fatal(err)
	}
	if after := check("renewed", old); after != nil && before != nil && after.Equal(before) {
		t.Error("the witness has seen the old certificate again")
	}

	// Many at the same time, each with its own.
	var wg sync.WaitGroup
	for range 8 {
		for _, name := range []string{"mail.example.test", "imap.example.org"} {
			wg.Go(func() { check(name, &tls.Config{ServerName: name, RootCAs: ca.pool()}) })
		}
	}
	wg.Wait()
}

// TestWitnessOfNothing: behind a resumption no certificate was shown, and nobody
// may be told one; a server that nobody watches works as ever.
func TestWitnessOfNothing(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		ca := newCA(t, t.TempDir(), "ca")
		store := newStore(t, StoreOptions{}, ca.issue("mail", "ecdsa", time.Hour, "mail.example.test"))
		config := server(t, store, ServerOptions{ALPN: ALPN("imap")})
		client := &tls.Config{ServerName: "mail.example.test", RootCAs: ca.pool(), ClientSessionCache: &oneTicket{}, MaxVersion: version}
		if c, leaf := witnessed(t, client, config); c.DidResume || leaf == nil {
			t.Errorf("TLS %#x: first: resumed %v, seen %v", version, c.DidResume, leaf != nil)
		}
		if c, leaf := witnessed(t, client, config); !c.DidResume || leaf != nil {
			t.Errorf("TLS %#x: again: resumed %v, seen %v", version, c.DidResume, leaf != nil)
		}
		// A ticket that is not taken has the certificate shown once more.
		other := server(t, store, ServerOptions{ALPN: ALPN("pop3")})
		if c, leaf := witnessed(t, client, other); c.DidResume || leaf == nil {
			t.Errorf("TLS %#x: ticket refused: resumed %v, seen %v", version, c.DidResume, leaf != nil)
		}
		if _, _, err, _ := shake(t, client, config); err != nil {
			t.Errorf("TLS %#x: without a witness: %v", version, err)
		}
	}
	var nobody *Witness
	_, w := WithWitness(context.Background())
	complete := &tls.ConnectionState{HandshakeComplete: true}
	if nobody.Leaf(complete) != nil || w.Leaf(complete) != nil || w.Leaf(nil) != nil {
		t.Error("a witness of nothing has seen something")
	}
}
