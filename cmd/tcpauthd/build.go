package main

import (
	"crypto/tls"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"switchyard/conf"
	"switchyard/internal/daemon"
	"switchyard/internal/tlsconf"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/tcpauth"
)

// The names under which the listeners are announced.
const (
	tcpauthName  = "tcpauth"
	adminName    = "admin"
	authHTTPName = "auth_http"
)

// serverOptions translates [tcpauthd].
func serverOptions(c *conf.Config) (tcpauth.ServerOptions, error) {
	t := c.Tcpauthd
	o := tcpauth.ServerOptions{Secret: t.Secret.Value(), Version: daemon.Version()}
	var err error
	if o.Networks, err = prefixes(t.Networks); err != nil {
		return o, err
	}
	if o.Replicas, err = prefixes(t.Replicas); err != nil {
		return o, err
	}
	return o, nil
}

func prefixes(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// databaseOptions translates what concerns the user database.
func databaseOptions(c *conf.Config, log *zap.Logger) nwauth.Options {
	t := c.Tcpauthd
	return nwauth.Options{
		Argon2:   argon2(c),
		Hashers:  t.Hashers,
		HashWait: time.Duration(t.HashWait),
		Primary:  t.Primary,
		Upgrade:  t.UpgradeHashes,
		Logger:   log,
	}
}

// primaryTLS is how the primary is spoken to; nil: in clear.
func primaryTLS(c *conf.Config) (*tls.Config, error) {
	t := c.Tcpauthd
	if !t.PrimaryTLS {
		return nil, nil
	}
	file := t.CAFile
	if file == "" {
		file = c.Cluster.CAFile
	}
	return tlsconf.Client(c.Path(file))
}

// clientOptions are for asking the daemon that this configuration describes.
func clientOptions(c *conf.Config) (tcpauth.ClientOptions, error) {
	o := tcpauth.ClientOptions{Secret: c.Tcpauthd.Secret.Value(), Timeout: moduleTimeout}
	if !c.Tcpauthd.Certificate.Empty() {
		// It is this machine's own daemon, known by its own certificate.
		config, err := tlsconf.Client(c.Path(c.Tcpauthd.Certificate.CertFile))
		if err != nil {
			return o, err
		}
		o.TLS = config
	}
	return o, nil
}

// moduleTimeout is what NetWin's servers allow a module for one request.
const moduleTimeout = 10 * time.Second

// listen opens the sockets; all or none.
func listen(c *conf.Config) (out []daemon.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range out {
				l.Close()
			}
		}
	}()
	for _, l := range []struct{ name, address string }{
		{tcpauthName, c.Tcpauthd.Address}, {adminName, c.Tcpauthd.Admin}, {authHTTPName, c.Tcpauthd.AuthHTTP.Address},
	} {
		if l.address == "" {
			continue
		}
		socket, err := daemon.Listen(l.name, l.address)
		if err != nil {
			return out, err
		}
		out = append(out, socket)
	}
	return out, nil
}
