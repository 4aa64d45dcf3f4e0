package tlsconf

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
)

// Witness notes which certificate a Store has shown in one handshake, which
// crypto/tls does not tell a server (channel bindings of RFC 5929 need it).
type Witness struct {
	cert atomic.Pointer[tls.Certificate]
}

type witnessKey struct{}

// WithWitness returns a context for one handshake by a Store's configuration, and
// what will know the certificate behind it.
func WithWitness(ctx context.Context) (context.Context, *Witness) {
	w := new(Witness)
	return context.WithValue(ctx, witnessKey{}, w), w
}

// Leaf returns the certificate that was shown on the connection with this state;
// nil when none was: the session was resumed, or w or state is nil. With TLS 1.2 a
// certificate is chosen before it is known that none will be shown.
func (w *Witness) Leaf(state *tls.ConnectionState) *x509.Certificate {
	if w == nil || state == nil || !state.HandshakeComplete || state.DidResume {
		return nil
	}
	if cert := w.cert.Load(); cert != nil {
		return cert.Leaf
	}
	return nil
}

// shown notes a certificate where somebody wants to know.
func shown(ctx context.Context, cert *tls.Certificate) *tls.Certificate {
	if ctx != nil {
		if w, ok := ctx.Value(witnessKey{}).(*Witness); ok {
			w.cert.Store(cert)
		}
	}
	return cert
}
