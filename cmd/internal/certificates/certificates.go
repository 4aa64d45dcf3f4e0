// Package certificates makes of a configuration what a daemon's listeners show to
// their clients and ask of them.
package certificates

import (
	"crypto/tls"
	"errors"
	"time"

	"switchyard/conf"
	"switchyard/internal/daemon"
	"switchyard/internal/tlsconf"

	"go.uber.org/zap"
)

// expiryWarning is how long before a certificate expires /readyz warns of it.
const expiryWarning = 14 * 24 * time.Hour

// Open loads certificates, without those that are empty; nil when none is left.
// Whoever opens the store runs it, and then files that change are taken over.
func Open(c *conf.Config, log *zap.Logger, certs ...conf.Certificate) (*tlsconf.Store, error) {
	pairs := pairsOf(c, certs)
	if len(pairs) == 0 {
		return nil, nil
	}
	return tlsconf.NewStore(pairs, tlsconf.StoreOptions{Logger: log.Named("tls")})
}

// Use has a store show what a configuration that was read again says. On an error
// it goes on as it was.
func Use(store *tlsconf.Store, c *conf.Config, certs ...conf.Certificate) error {
	pairs := pairsOf(c, certs)
	switch {
	case store == nil && len(pairs) == 0:
		return nil
	case store == nil:
		return errors.New("the daemon was started without a certificate, and listens without TLS: restart it")
	case len(pairs) == 0:
		return errors.New("the certificate is gone from the configuration, and the listeners have TLS: restart the daemon")
	}
	return store.Use(pairs)
}

func pairsOf(c *conf.Config, certs []conf.Certificate) (pairs []tlsconf.Pair) {
	for _, one := range certs {
		if !one.Empty() {
			pairs = append(pairs, tlsconf.Pair{CertFile: c.Path(one.CertFile), KeyFile: c.Path(one.KeyFile)})
		}
	}
	return pairs
}

// Server makes what a listener shows and asks for; nil without a store.
func Server(c *conf.Config, l conf.Listener, store *tlsconf.Store) (*tls.Config, error) {
	if store == nil {
		return nil, nil
	}
	o := tlsconf.ServerOptions{ALPN: tlsconf.ALPN(l.Protocol), ClientCAFile: c.Path(l.ClientCAFile)}
	switch l.ClientCertificates {
	case "optional":
		o.ClientCerts = tlsconf.OptionalClientCerts
	case "required":
		o.ClientCerts = tlsconf.RequiredClientCerts
	}
	if l.TLSMin == "1.3" {
		o.MinVersion = tls.VersionTLS13
	}
	return store.Server(o)
}

// Show puts a store's certificates on the admin listener: when they expire, and a
// warning in time.
func Show(store *tlsconf.Store, a *daemon.Admin) {
	if store != nil {
		a.Metrics = append(a.Metrics, daemon.CertificateMetrics(store.Certificates))
		a.Warnings = func() []string { return store.Warnings(expiryWarning) }
	}
}
