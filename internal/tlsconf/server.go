package tlsconf

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync/atomic"
)

// ClientCerts says whether a listener asks its clients for certificates.
type ClientCerts int

// NoClientCerts never asks. OptionalClientCerts asks, and refuses one that is
// not good; a client without one is served. RequiredClientCerts refuses such a
// client.
const (
	NoClientCerts ClientCerts = iota
	OptionalClientCerts
	RequiredClientCerts
)

// ServerOptions for Store.Server. The zero value works.
type ServerOptions struct {
	// ALPN are the names by which the listener goes; see the function of that
	// name. Empty: whatever a client offers is overlooked.
	ALPN []string

	// ClientCerts asks clients for certificates, for SASL EXTERNAL, which must
	// then be signed by a CA in ClientCAFile (PEM). Not for inbound SMTP: other
	// mail servers show their own.
	ClientCerts  ClientCerts
	ClientCAFile string

	// MinVersion is the oldest version spoken. Zero means TLS 1.2, and nothing
	// older can be had (RFC 8314 §4.1, RFC 8996).
	MinVersion uint16
}

// Server loads one certificate chain and its key (PEM), for a listener or to
// show to servers, for those who do not watch the files. See Store for those who
// do.
func Server(certFile, keyFile string) (*tls.Config, error) {
	pair, err := loadPair(Pair{certFile, keyFile})
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS12}, nil
}

// Server makes a listener's configuration. It is valid for as long as the store
// and follows what the store reloads, the clients' CAs included.
//
// A session is resumed only on the listener that began it, for a name with the
// same certificate key, and under the same CAs.
func (s *Store) Server(o ServerOptions) (*tls.Config, error) {
	if o.MinVersion == 0 {
		o.MinVersion = tls.VersionTLS12
	}
	switch {
	case o.MinVersion < tls.VersionTLS12:
		return nil, fmt.Errorf("TLS versions before 1.2 are not spoken (RFC 8996)")
	case o.ClientCerts == NoClientCerts:
		return s.listener(o, nil), nil
	case o.ClientCAFile == "":
		return nil, fmt.Errorf("clients are asked for certificates: say by a CA file whose are good")
	}
	authority, err := s.authority(o.ClientCAFile)
	if err != nil {
		return nil, err
	}
	config := s.listener(o, authority.pool.Load())
	var current atomic.Pointer[tls.Config]
	current.Store(config)
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := current.Load()
		if pool := authority.pool.Load(); now.ClientCAs != pool {
			// Two clients may race here; either's is as good, and only the
			// tickets of the loser's are lost.
			now = s.listener(o, pool)
			current.Store(now)
		}
		return now, nil
	}
	return config, nil
}

// listener makes the configuration of a listener whose clients' CAs are pool.
func (s *Store) listener(o ServerOptions, pool *x509.CertPool) *tls.Config {
	config := &tls.Config{
		MinVersion: o.MinVersion, NextProtos: slices.Clone(o.ALPN), ClientCAs: pool,
		GetCertificate: s.certificate,
	}
	switch o.ClientCerts {
	case OptionalClientCerts:
		config.ClientAuth = tls.VerifyClientCertIfGiven
	case RequiredClientCerts:
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	config.WrapSession = func(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		session.Extra = append(session.Extra, append([]byte(ticketMark), s.serving(state.ServerName)...))
		return config.EncryptTicket(state, session)
	}
	config.UnwrapSession = func(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		session, err := config.DecryptTicket(ticket, state)
		if err != nil || session == nil {
			return nil, err
		}
		want := append([]byte(ticketMark), s.serving(state.ServerName)...)
		if !slices.ContainsFunc(session.Extra, func(b []byte) bool { return bytes.Equal(b, want) }) {
			return nil, nil // a full handshake
		}
		return session, nil
	}
	return config
}

// ticketMark stands before our own part of a ticket.
const ticketMark = "switchyard key "
