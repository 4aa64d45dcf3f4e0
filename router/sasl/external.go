package sasl

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
)

// CertificateName says what in a client's certificate names its account.
type CertificateName int

// The kinds. NoCertificate: EXTERNAL is not offered.
const (
	NoCertificate CertificateName = iota
	ByEmail                       // the one rfc822Name among its alternative names
	ByCommonName                  // the one common name of its subject
)

// errUnnamed: a certificate without the name that is wanted is nobody's.
var errUnnamed = errors.New("client's certificate does not name one account")

// HasCertificate reports whether the client has shown a certificate that was
// verified.
func HasCertificate(state *tls.ConnectionState) bool {
	return state != nil && state.HandshakeComplete && len(state.VerifiedChains) > 0 && len(state.VerifiedChains[0]) > 0
}

// Account returns the name of the account that a connection's client
// certificate is for. The certificate must have been verified. One that lacks
// the name, or has two, names nobody.
func (by CertificateName) Account(state *tls.ConnectionState) (string, error) {
	if !HasCertificate(state) {
		return "", errors.New("client has shown no certificate that counts")
	}
	cert := state.VerifiedChains[0][0]
	switch by {
	case ByEmail:
		if len(cert.EmailAddresses) == 1 && cert.EmailAddresses[0] != "" {
			return cert.EmailAddresses[0], nil
		}
	case ByCommonName:
		return commonName(cert)
	}
	return "", errUnnamed
}

// oidCommonName is 2.5.4.3.
const oidCommonName = "2.5.4.3"

// commonName is the subject's only one: of several, pkix.Name shows the last.
func commonName(cert *x509.Certificate) (string, error) {
	name, n := "", 0
	for _, a := range cert.Subject.Names {
		if text, ok := a.Value.(string); ok && a.Type.String() == oidCommonName {
			name, n = text, n+1
		}
	}
	if n != 1 || strings.TrimSpace(name) == "" {
		return "", errUnnamed
	}
	return name, nil
}
