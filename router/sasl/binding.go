package sasl

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
)

// Binding ties an exchange to the TLS connection on which it goes (RFC 5056).
type Binding struct {
	Name string
	Data []byte
}

// The bindings. tls-unique is not among them: it has no meaning in TLS 1.3, and
// before it it is not safe (RFC 9266 §3).
const (
	tlsExporter       = "tls-exporter"         // RFC 9266
	tlsServerEndPoint = "tls-server-end-point" // RFC 5929 §4
)

// MayBind reports whether a connection can be bound to: it has TLS that can
// export keys. Not every TLS 1.2 can (RFC 9266 §4).
func MayBind(state *tls.ConnectionState) bool {
	_, ok := BindingOf(state, tlsExporter, nil)
	return ok
}

// BindingOf computes a binding by its name. shown is the certificate that the
// server has shown on the connection, nil when that is not known. ok is false for
// a binding that this connection does not have.
func BindingOf(state *tls.ConnectionState, name string, shown *x509.Certificate) (*Binding, bool) {
	if state == nil || !state.HandshakeComplete {
		return nil, false
	}
	switch name {
	case tlsExporter:
		// The context is a string without length. Without the extended master
		// secret there is no answer.
		data, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
		if err != nil {
			return nil, false
		}
		return &Binding{name, data}, true
	case tlsServerEndPoint:
		data, ok := endPoint(shown)
		return &Binding{name, data}, ok
	}
	return nil, false
}

// endPoint hashes a certificate with the hash of its own signature, and with
// SHA-256 where that is MD5 or SHA-1 (RFC 5929 §4.1).
func endPoint(cert *x509.Certificate) ([]byte, bool) {
	if cert == nil {
		return nil, false
	}
	switch cert.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256:
		sum := sha256.Sum256(cert.Raw)
		return sum[:], true
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		sum := sha512.Sum384(cert.Raw)
		return sum[:], true
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		sum := sha512.Sum512(cert.Raw)
		return sum[:], true
	}
	return nil, false // Ed25519: the binding is not defined
}
