package main

import (
	"net/netip"

	"switchyard/conf"
	"switchyard/internal/daemon"
	"switchyard/internal/tlsconf"
	"switchyard/lookup/tcpauth"
)

// The names under which the listeners are announced.
const (
	tcpauthName = "tcpauth"
	adminName   = "admin"
)

// serverOptions translates [tcpauthd].
func serverOptions(c *conf.Config) (tcpauth.ServerOptions, error) {
	t := c.Tcpauthd
	o := tcpauth.ServerOptions{Secret: t.Secret.Value(), Version: daemon.Version()}
	for _, n := range t.Networks {
		network, err := netip.ParsePrefix(n)
		if err != nil {
			return o, err
		}
		o.Networks = append(o.Networks, network)
	}
	if !t.Certificate.Empty() {
		config, err := tlsconf.Server(c.Path(t.Certificate.CertFile), c.Path(t.Certificate.KeyFile))
		if err != nil {
			return o, err
		}
		o.TLS = config
	}
	return o, nil
}

// listen opens the sockets; all or none.
func listen(c *conf.Config) ([]daemon.Listener, error) {
	socket, err := daemon.Listen(tcpauthName, c.Tcpauthd.Address)
	if err != nil {
		return nil, err
	}
	if c.Tcpauthd.Admin == "" {
		return []daemon.Listener{socket}, nil
	}
	admin, err := daemon.Listen(adminName, c.Tcpauthd.Admin)
	if err != nil {
		socket.Close()
		return nil, err
	}
	return []daemon.Listener{socket, admin}, nil
}
