package main

import (
	"fmt"
	"net"
	"time"

	"switchyard/cmd/internal/certificates"
	"switchyard/conf"
	"switchyard/internal/daemon"
	"switchyard/internal/tlsconf"
	"switchyard/router/splice"
	"switchyard/router/upstream"

	"go.uber.org/zap"
)

// upstreams makes the backends.
func upstreams(c *conf.Config, loop *splice.Loop, log *zap.Logger) (*upstream.Set, error) {
	backends, err := backendList(c)
	if err != nil {
		return nil, err
	}
	name := c.Cluster.ProxyName
	if name == "" {
		name = "proxy"
	}
	return upstream.New(backends, upstream.Options{
		ProxyName:      name,
		ProxySecret:    c.Cluster.ProxySecret.Value(),
		Hostname:       c.Proxyd.Hostname,
		ConnectTimeout: time.Duration(c.Proxyd.Connect),
		Dial:           loop.Dial,
		Logger:         log.Named("upstream"),
	})
}

// backendList translates the [[backend]] tables.
func backendList(c *conf.Config) (out []upstream.Backend, err error) {
	for _, b := range c.Backends {
		backend := upstream.Backend{Name: b.Name, Probe: b.Probe, Login: upstream.Login{
			Forward: b.ForwardPassword, Unchecked: b.Unchecked, User: b.LoginAs, Secret: b.LoginSecret.Value(),
		}}
		for _, n := range b.Nodes {
			node, err := upstreamNode(c, b, n)
			if err != nil {
				return nil, fmt.Errorf("backend %s: %w", b.Name, err)
			}
			backend.Nodes = append(backend.Nodes, node)
		}
		out = append(out, backend)
	}
	return out, nil
}

// upstreamNode translates one [[backend.node]].
func upstreamNode(c *conf.Config, b conf.Backend, n conf.Node) (upstream.Node, error) {
	mode := tlsconf.Implicit
	if n.TLS != "" {
		var err error
		if mode, err = tlsconf.ParseMode(n.TLS); err != nil {
			return upstream.Node{}, err
		}
	}
	name := n.Name
	if name == "" {
		name = b.Name
	}
	trust := tlsconf.ClientOptions{CAFile: c.Path(n.CAFile), Pins: n.Pins}
	if n.CAFile == "" && len(n.Pins) == 0 {
		trust.CAFile = c.Path(c.Cluster.CAFile)
	}
	if !n.Certificate.Empty() {
		pair := tlsconf.Pair{CertFile: c.Path(n.Certificate.CertFile), KeyFile: c.Path(n.Certificate.KeyFile)}
		var err error
		if trust.Certificate, err = tlsconf.NewStore([]tlsconf.Pair{pair}, tlsconf.StoreOptions{}); err != nil {
			return upstream.Node{}, err
		}
	}
	node := upstream.Node{Name: name, Services: make(map[upstream.Service]upstream.Endpoint)}
	for service, address := range map[upstream.Service]string{
		upstream.IMAP: n.IMAP, upstream.POP3: n.POP3, upstream.Submission: n.Submission, upstream.LMTP: n.LMTP, upstream.ManageSieve: n.Sieve,
	} {
		if address == "" {
			continue
		}
		own := trust
		own.ALPN, own.ServerName = tlsconf.ALPN(string(service)), n.ServerName
		if own.ServerName == "" {
			own.ServerName, _, _ = net.SplitHostPort(address)
		}
		config, err := tlsconf.NewClient(own)
		if err != nil {
			return upstream.Node{}, err
		}
		node.Services[service] = upstream.Endpoint{Address: address, TLS: mode, Config: config}
	}
	return node, nil
}

// reload reads the configuration file again and takes over what can change while
// sessions run: the certificates, the backends and the log level. For the rest a new
// process takes this one's place (SIGUSR2), and no session is lost either.
func reload(flags daemon.Flags, certs *tlsconf.Store, backends *upstream.Set, level zap.AtomicLevel) error {
	c, err := conf.Load(flags.Config, conf.ProxydDaemon)
	if err != nil {
		return err
	}
	list, err := backendList(c)
	if err == nil {
		err = certificates.Use(certs, c, shown(c)...)
	}
	if err == nil {
		err = backends.Update(list)
	}
	if err == nil {
		level.SetLevel(flags.Level(c.Proxyd.LogLevel))
	}
	return err
}
