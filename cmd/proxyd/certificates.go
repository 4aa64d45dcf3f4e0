package main

import (
	"crypto/tls"
	"time"

	"switchyard/conf"
	"switchyard/internal/tlsconf"

	"go.uber.org/zap"
)

// expiryWarning is how long before a certificate expires /readyz warns of it.
const expiryWarning = 14 * 24 * time.Hour

// certificates loads what the listeners show; nil when nothing is configured.
func certificates(c *conf.Config, log *zap.Logger) (*tlsconf.Store, error) {
	pairs := certificatePairs(c)
	if len(pairs) == 0 {
		return nil, nil
	}
	return tlsconf.NewStore(pairs, tlsconf.StoreOptions{Logger: log.Named("tls")})
}

func certificatePairs(c *conf.Config) (pairs []tlsconf.Pair) {
	if cert := c.Proxyd.Certificate; !cert.Empty() {
		pairs = append(pairs, tlsconf.Pair{CertFile: c.Path(cert.CertFile), KeyFile: c.Path(cert.KeyFile)})
	}
	for _, cert := range c.Proxyd.Certificates {
		pairs = append(pairs, tlsconf.Pair{CertFile: c.Path(cert.CertFile), KeyFile: c.Path(cert.KeyFile)})
	}
	return pairs
}

// serverConfig makes what a listener shows and asks for; nil without certificates.
func serverConfig(c *conf.Config, l conf.Listener, certs *tlsconf.Store) (*tls.Config, error) {
	if certs == nil {
		return nil, nil
	}
	o := tlsconf.ServerOptions{ALPN: tlsconf.ALPN(l.Protocol), ClientCAFile: c.Path(l.ClientCAFile)}
	switch l.ClientCertificates {
	case "optional":
		o.ClientCerts = tlsconf.OptionalClientCerts
	case "required":
		o.ClientCerts = tlsconf.RequiredClientCerts
	}
	return certs.Server(o)
}
