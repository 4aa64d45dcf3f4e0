package main

import (
	"crypto/tls"
	"fmt"

	"switchyard/backend/access"
	"switchyard/backend/imap"
	"switchyard/backend/managesieve"
	"switchyard/backend/pop"
	"switchyard/backend/queue"
	"switchyard/backend/smtp"
	"switchyard/backend/textindex"
	"switchyard/cmd/internal/certificates"
	"switchyard/cmd/internal/directory"
	"switchyard/conf"
	"switchyard/internal/daemon"
	"switchyard/internal/server"
	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/lookup/resolve"

	"go.uber.org/zap"
)

// nodeName is the node's own name, or its backend's.
func nodeName(c *conf.Config) string {
	if c.Backendd.Node != "" {
		return c.Backendd.Node
	}
	return c.Backendd.Backend
}

// gateOptions translates what decides who may log in.
func gateOptions(c *conf.Config, log *zap.Logger) access.Options {
	name := c.Cluster.ProxyName
	if name == "" {
		name = "proxy"
	}
	return access.Options{
		Default:       c.Cluster.DefaultBackend == c.Backendd.Backend,
		ProxyName:     name,
		ProxySecret:   c.Cluster.ProxySecret.Value(),
		ProxyNetworks: conf.Networks(c.Backendd.ProxyNetworks),
		DefaultDomain: c.Cluster.DefaultDomain,
		Logger:        log.Named("access"),
	}
}

// queueOptions translates where outbound mail goes.
func queueOptions(c *conf.Config, accounts lookup.Directory, filter queue.Filter, log *zap.Logger) (queue.Options, error) {
	o := queue.Options{Hostname: c.Backendd.Hostname, Domains: c.Cluster.Domains, Filter: filter, Logger: log.Named("queue")}
	if err := resolvers(c, accounts, &o); err != nil {
		return o, fmt.Errorf("directory.resolve: %w", err)
	}
	toProxies, err := tlsconf.Client(c.Path(c.Cluster.CAFile))
	if err != nil {
		return o, err
	}
	mode, err := modeOr(c.Backendd.ProxiesTLS, tlsconf.StartTLS)
	if err != nil {
		return o, err
	}
	for _, address := range c.Backendd.Proxies {
		o.Proxies = append(o.Proxies, queue.Server{Address: address, Mode: mode, TLS: toProxies})
	}
	if c.Backendd.Relay != "" {
		mode, err := modeOr(c.Backendd.RelayTLS, tlsconf.StartTLS)
		if err != nil {
			return o, err
		}
		o.Relay = []queue.Server{{Address: c.Backendd.Relay, Mode: mode}}
	}
	return o, nil
}

// resolvers makes what follows aliases, and what follows forwards too.
func resolvers(c *conf.Config, accounts lookup.Directory, o *queue.Options) (err error) {
	how := directory.Resolve(c)
	how.Domains = append([]string{}, how.Domains...) // none is none
	if o.Chains, err = resolve.New(accounts, how); err != nil {
		return err
	}
	how.LeaveForwards = true
	o.Resolver, err = resolve.New(accounts, how)
	return err
}

// listening is an open socket and who serves its connections; without a
// handler it is the admin listener.
type listening struct {
	socket      daemon.Listener
	handle      server.Handler
	maxSessions int
}

// listen opens all sockets. On an error none stays open.
func listen(c *conf.Config, gate *access.Gate, q *queue.Queue, texts *textindex.Index, certs *tlsconf.Store, log *zap.Logger) (out []listening, err error) {
	defer func() {
		if err != nil {
			for _, l := range out {
				l.socket.Close()
			}
		}
	}()
	s := &servers{c: c, gate: gate, queue: q, texts: texts, drops: pop.NewMaildrops(), log: log}
	for _, l := range c.Backendd.Listeners {
		mode, err := modeOr(l.TLS, tlsconf.StartTLS)
		if err != nil {
			return out, err
		}
		certificate, err := certificates.Server(c, l, certs)
		if err != nil {
			return out, err
		}
		socket, err := daemon.Listen(l.Protocol, l.Address)
		if err != nil {
			return out, err
		}
		out = append(out, listening{socket: socket, handle: s.handler(l, mode, certificate), maxSessions: l.MaxSessions})
	}
	if c.Backendd.Admin != "" {
		socket, err := daemon.Listen("admin", c.Backendd.Admin)
		if err != nil {
			return out, err
		}
		out = append(out, listening{socket: socket})
	}
	return out, nil
}

// servers makes the protocols' servers.
type servers struct {
	c     *conf.Config
	gate  *access.Gate
	queue *queue.Queue
	texts *textindex.Index
	log   *zap.Logger
	drops *pop.Maildrops
}

// handler makes the handler of one listener.
func (s *servers) handler(l conf.Listener, mode tlsconf.Mode, certificate *tls.Config) server.Handler {
	if mode == tlsconf.Off {
		certificate = nil
	}
	mail := smtp.Options{
		Hostname: s.c.Backendd.Hostname, Node: nodeName(s.c), TLS: certificate, AllowClear: l.CleartextLogin,
		MaxSize: s.c.Backendd.MaxMessage, Logger: s.log,
	}
	var clear, implicit server.Handler
	switch l.Protocol {
	case "imap":
		srv := imap.New(s.gate, imap.Options{
			TLS: certificate, Mode: mode, RequireTLS: !l.CleartextLogin, Hostname: s.c.Backendd.Hostname,
			MaxAppend: s.c.Backendd.MaxMessage, Index: s.texts, Logger: s.log.With(zap.String("node", nodeName(s.c))),
		})
		clear, implicit = srv.Serve, srv.Serve
	case "pop3":
		srv := pop.New(s.gate, s.drops, pop.Options{TLS: certificate, AllowClear: l.CleartextLogin, Node: nodeName(s.c), Logger: s.log})
		clear, implicit = srv.Serve, srv.ServeTLS
	case "submission":
		srv := smtp.NewSubmission(s.gate, s.queue, mail)
		clear, implicit = srv.Serve, srv.ServeTLS
	case "managesieve":
		srv := managesieve.New(s.gate, managesieve.Options{TLS: certificate, AllowClear: l.CleartextLogin, Node: nodeName(s.c), Logger: s.log})
		clear, implicit = srv.Serve, srv.ServeTLS
	case "lmtp":
		srv := smtp.NewLMTP(s.gate, s.queue, mail)
		clear, implicit = srv.Serve, srv.ServeTLS
	}
	if mode == tlsconf.Implicit {
		return implicit
	}
	return clear
}

func modeOr(s string, def tlsconf.Mode) (tlsconf.Mode, error) {
	if s == "" {
		return def, nil
	}
	return tlsconf.ParseMode(s)
}
