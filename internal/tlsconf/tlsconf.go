// Package tlsconf makes the TLS configurations of listeners and of connections
// to backends. The two are separate on purpose: what we accept from clients
// never decides what we demand from a backend.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// Mode says when a listener or a connection to a backend uses TLS.
type Mode int

// The modes. Off never uses TLS, StartTLS begins in clear and upgrades,
// Implicit begins with the handshake.
const (
	Off Mode = iota
	StartTLS
	Implicit
)

// ParseMode reads a mode from a configuration.
func ParseMode(s string) (Mode, error) {
	for _, m := range []Mode{Off, StartTLS, Implicit} {
		if s == m.String() {
			return m, nil
		}
	}
	return Off, fmt.Errorf("TLS mode %q is none of off, starttls, implicit", s)
}

func (m Mode) String() string {
	switch m {
	case Off:
		return "off"
	case StartTLS:
		return "starttls"
	case Implicit:
		return "implicit"
	default:
		return fmt.Sprintf("Mode(%d)", int(m))
	}
}

// Server loads a listener's certificate chain and key (PEM). TLS 1.2 is the
// oldest version spoken (RFC 8314 §4.1, RFC 8996).
func Server(certFile, keyFile string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate %s with key %s: %w", certFile, keyFile, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// Client makes the configuration for connections to servers whose
// certificates are signed by a CA in caFile (PEM), or by one of the system's
// when caFile is empty. The caller sets ServerName for each connection.
func Client(caFile string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	if caFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read CA certificates: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read CA certificates from %s: %w", caFile, errors.New("no PEM certificate in it"))
	}
	return config, nil
}
