package tlsconf

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// ErrPin: the server's certificate is none of those that are pinned.
var ErrPin = errors.New("the server's key is not pinned")

// ClientOptions say whom a connection trusts and what it shows of itself. The
// zero value trusts the system's CAs.
type ClientOptions struct {
	// CAFile holds the CAs (PEM) that sign the servers' certificates. Empty
	// means the system's, or with Pins none.
	CAFile string

	// Pins are keys, each as the base64 of the SHA-256 of a certificate's
	// SubjectPublicKeyInfo, with or without "sha256/" in front. Without CAFile
	// the server's own key must be one of them, and that is all that is asked
	// of it: neither its name nor its expiry (as DANE-EE, RFC 7671 §5.1). With
	// CAFile the certificate must also be good for that CA and the name, and the
	// pin may be any certificate's of its verified chain.
	Pins []string

	// Certificate is shown to servers that ask for one; its first pair is
	// used. Nil: none. A renewed one is shown from then on.
	Certificate *Store

	// ServerName is what the certificate must be for. Empty: the caller sets
	// it for each connection.
	ServerName string

	// ALPN is offered; see the function of that name. Empty: nothing.
	ALPN []string
}

// sessionCache is how many servers' sessions one configuration remembers.
const sessionCache = 64

// Client is NewClient for those who only name a CA file.
func Client(caFile string) (*tls.Config, error) { return NewClient(ClientOptions{CAFile: caFile}) }

// NewClient makes the configuration for connections to servers. TLS 1.2 is the
// oldest version spoken. Sessions are resumed within one configuration and its
// clones; a resumed one is held against the pins again.
func NewClient(o ClientOptions) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: o.ServerName, NextProtos: slices.Clone(o.ALPN),
		ClientSessionCache: tls.NewLRUClientSessionCache(sessionCache),
	}
	if o.CAFile != "" {
		pool, err := readPool(o.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = pool
	}
	if o.Certificate != nil {
		config.GetClientCertificate = o.Certificate.first
	}
	if len(o.Pins) > 0 {
		pins, err := parsePins(o.Pins)
		if err != nil {
			return nil, err
		}
		// With pins alone the chain leads nowhere: the key is the identity.
		config.InsecureSkipVerify = o.CAFile == ""
		config.VerifyConnection = pins.verify
	}
	return config, nil
}

func readPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read CA certificates: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read CA certificates from %s: %w", file, errors.New("no PEM certificate in it"))
	}
	return pool, nil
}

// pins are digests of keys.
type pins map[[sha256.Size]byte]bool

func parsePins(texts []string) (pins, error) {
	p := make(pins, len(texts))
	for _, text := range texts {
		digest, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(text, "sha256/"))
		if err != nil || len(digest) != sha256.Size {
			return nil, fmt.Errorf("pin %q is not the base64 of a SHA-256", text)
		}
		p[[sha256.Size]byte(digest)] = true
	}
	return p, nil
}

// verify is a tls.Config.VerifyConnection; that one also runs when a session is
// resumed.
func (p pins) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return ErrPin
	}
	if p.has(state.PeerCertificates[0]) {
		return nil
	}
	for _, chain := range state.VerifiedChains {
		if slices.ContainsFunc(chain, p.has) {
			return nil
		}
	}
	return fmt.Errorf("%w: it is %s", ErrPin, Pin(state.PeerCertificates[0]))
}

func (p pins) has(c *x509.Certificate) bool { return p[sha256.Sum256(c.RawSubjectPublicKeyInfo)] }

// Pin returns a certificate's pin for ClientOptions.
func Pin(c *x509.Certificate) string {
	digest := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(digest[:])
}
