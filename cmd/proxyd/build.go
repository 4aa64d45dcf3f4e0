package main

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"switchyard/cmd/internal/certificates"
	"switchyard/cmd/internal/directory"
	"switchyard/conf"
	"switchyard/internal/daemon"
	"switchyard/internal/spool"
	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/lookup/cache"
	"switchyard/router"
	"switchyard/router/console"
	"switchyard/router/imap"
	"switchyard/router/pop"
	"switchyard/router/sieve"
	"switchyard/router/smtp"
	"switchyard/router/splice"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// sessions ends the sessions of accounts that the directory's feed tells of. The
// cache wants it before there is a router; until then there are no sessions.
type sessions struct {
	in atomic.Pointer[router.Router]
}

func (s *sessions) changed(c lookup.Change) {
	if r := s.in.Load(); r != nil {
		r.Changed(c)
	}
}

// adminPages is what the admin listener shows.
func adminPages(proxy *router.Router, c *console.Console, cached *cache.Cache, certs *tlsconf.Store, level zap.AtomicLevel) daemon.Admin {
	a := daemon.Admin{
		Name:     "proxyd",
		Level:    level,
		Ready:    func(context.Context) error { return proxy.Ready() },
		Metrics:  []prometheus.Collector{console.Metrics(proxy), console.CacheMetrics(cached.Stats)},
		Handlers: c.Handlers(),
	}
	certificates.Show(certs, &a)
	return a
}

// sessionCount counts the sessions that have not ended.
func sessionCount(r *router.Router) (n int) {
	for _, p := range r.Stats().Protocols {
		for _, live := range p.Live {
			n += live
		}
	}
	return n
}

// cacheOptions translates [directory.cache].
func cacheOptions(c *conf.Config, live *sessions, log *zap.Logger) cache.Options {
	d := c.Directory.Cache
	return cache.Options{
		Entries:      d.Entries,
		TTL:          time.Duration(d.Positive),
		NegativeTTL:  time.Duration(d.Negative),
		PasswordTTL:  time.Duration(d.Password),
		StaleTTL:     time.Duration(d.Stale),
		StaleLogin:   time.Duration(d.StaleLogin),
		Bytes:        d.Bytes,
		RefreshAhead: d.Ahead,
		MaxQuestions: d.Questions,
		AnyClient:    !asksTCPAuth(c),
		OnChange:     live.changed,
		Logger:       log.Named("cache"),
	}
}

// recheckPeriod is how often the directory is asked about those who are logged in:
// as often as about those who log in.
func recheckPeriod(c *conf.Config) time.Duration {
	if d := time.Duration(c.Directory.Cache.Positive); d > 0 {
		return d
	}
	return cache.DefaultTTL
}

// asksTCPAuth reports whether passwords are verified by a TCPAuth server, whose
// answer may depend on the client's address.
func asksTCPAuth(c *conf.Config) bool {
	return c.Directory.Kind == "tcpauth" ||
		slices.ContainsFunc(c.Directory.Members, func(m conf.Member) bool { return m.Kind == "tcpauth" })
}

// routerOptions translates [proxyd] and [cluster].
func routerOptions(c *conf.Config, loop *splice.Loop, log *zap.Logger) (router.Options, error) {
	logins, err := mechanisms(c, log)
	return router.Options{
		SASL:           logins,
		Admit:          admission(c),
		Loop:           loop,
		DefaultBackend: c.Cluster.DefaultBackend,
		DefaultDomain:  c.Cluster.DefaultDomain,
		Hostname:       c.Proxyd.Hostname,
		LoginTimeout:   time.Duration(c.Proxyd.PreLogin),
		Logger:         log,
	}, err
}

// inbound makes SMTP for the world, and LMTP for the operator's own servers: the
// bounds on strangers' connections are not for those.
func inbound(c *conf.Config) (world, own router.Protocol, err error) {
	in, from := c.Proxyd.SMTP, c.Proxyd.LMTP
	both := smtp.Options{
		Domains: c.Cluster.Domains, Resolve: directory.Resolve(c), MaxSize: c.Proxyd.MaxMessage,
		MaxRecipients: in.MaxRecipients, Spool: spool.Options{Dir: c.Path(c.Proxyd.SpoolDir)},
	}
	strangers, deliverers := both, both
	strangers.Pause, strangers.MaxMessages, strangers.MaxDomains = time.Duration(in.Pause), in.MaxMessages, in.MaxDomains
	deliverers.Deliverers = smtp.Deliverers{Networks: conf.Networks(from.Networks), Name: from.Name, Secret: from.Secret.Value()}
	if world, err = smtp.NewInbound(strangers); err == nil {
		own, err = smtp.NewLMTP(deliverers)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("directory.resolve: %w", err)
	}
	return world, own, nil
}

// shown are the certificates of all listeners, the first one for clients that name
// no host.
func shown(c *conf.Config) []conf.Certificate {
	return append([]conf.Certificate{c.Proxyd.Certificate}, c.Proxyd.Certificates...)
}

// proxyProtocols makes the protocols by their names in the configuration.
func proxyProtocols(c *conf.Config) (map[string]router.Protocol, error) {
	world, own, err := inbound(c)
	if err != nil {
		return nil, err
	}
	return map[string]router.Protocol{
		"managesieve": sieve.New(sieve.Options{}),
		"imap":        imap.New(),
		"pop3":        pop.New(),
		"submission":  smtp.NewSubmission(smtp.Options{MaxSize: c.Proxyd.MaxMessage}),
		"smtp":        world,
		"lmtp":        own,
	}, nil
}

// authHTTPName is the name of the socket that nginx asks.
const authHTTPName = "auth_http"

// listening is an open socket and how its connections are treated; without a
// protocol it is the admin listener.
type listening struct {
	socket daemon.Listener
	how    router.Listener
}

// listen opens all sockets, before any is served. On an error none stays open.
func listen(c *conf.Config, sockets *daemon.Sockets, certs *tlsconf.Store, protocols map[string]router.Protocol) (out []listening, err error) {
	defer func() {
		if err != nil {
			for _, l := range out {
				l.socket.Close()
			}
		}
	}()
	for _, l := range c.Proxyd.Listeners {
		mode := tlsconf.StartTLS
		if l.TLS != "" {
			if mode, err = tlsconf.ParseMode(l.TLS); err != nil {
				return out, err
			}
		}
		server, err := certificates.Server(c, l, certs)
		if err != nil {
			return out, err
		}
		socket, err := sockets.Listen(l.Protocol, l.Address)
		if err != nil {
			return out, err
		}
		out = append(out, listening{socket, router.Listener{
			Name:                l.Protocol + " " + socket.Addr().String(),
			Protocol:            protocols[l.Protocol],
			TLS:                 mode,
			Config:              server,
			ProxyProtocol:       l.ProxyProtocol,
			ProxyNetworks:       conf.Networks(l.ProxyNetworks),
			TrustedProxies:      conf.Networks(l.TrustedNetworks),
			AllowCleartextLogin: l.CleartextLogin,
			MaxSessions:         l.MaxSessions,
		}})
	}
	for _, l := range []struct{ name, address string }{{"admin", c.Proxyd.Admin}, {authHTTPName, c.Proxyd.AuthHTTP.Address}} {
		if l.address == "" {
			continue
		}
		socket, err := sockets.Listen(l.name, l.address)
		if err != nil {
			return out, err
		}
		out = append(out, listening{socket: socket})
	}
	return out, nil
}
