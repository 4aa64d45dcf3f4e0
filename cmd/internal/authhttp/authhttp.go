// Package authhttp serves nginx's auth_http requests on a listener of its own.
package authhttp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"switchyard/conf"
	"switchyard/lookup"
	"switchyard/lookup/authhttp"

	"go.uber.org/zap"
)

// The deadlines of the listener.
const (
	headerTimeout = 5 * time.Second
	closeTimeout  = 2 * time.Second
	maxHeaders    = 64 << 10
)

// Serve answers on ln from a directory until ctx ends. Only the networks that
// the configuration names may ask; loopback when it names none.
func Serve(ctx context.Context, ln net.Listener, c *conf.Config, a conf.AuthHTTP, directory lookup.Directory, log *zap.Logger) error {
	places := &places{c: c, resolve: net.DefaultResolver.LookupNetIP, found: make(map[string]found)}
	handler := authhttp.New(directory, places.place, authhttp.Options{
		Secret: a.Secret.Value(), DefaultDomain: c.Cluster.DefaultDomain, Attempts: a.Attempts,
		Wait: time.Duration(a.Wait), Timeout: time.Duration(a.Timeout), Anonymous: a.Anonymous,
		Log: func(user, protocol string, client netip.Addr, answer lookup.Answer, err error) {
			log.Info("auth_http", zap.String("user", user), zap.String("protocol", protocol), zap.Stringer("client", client),
				zap.Stringer("answer", answer), zap.Error(err))
		},
	})
	networks := conf.Networks(a.Networks)
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			peer, err := netip.ParseAddrPort(r.RemoteAddr)
			if err != nil || !allowed(networks, peer.Addr().Unmap()) {
				http.Error(w, "not from here", http.StatusForbidden)
				return
			}
			handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: maxHeaders, ErrorLog: nil,
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("auth_http listener: %w", err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := srv.Shutdown(closing); err != nil {
		srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("auth_http listener: %w", err)
	}
	return nil
}

func allowed(networks []netip.Prefix, a netip.Addr) bool {
	if len(networks) == 0 {
		return a.IsLoopback()
	}
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// places says where homes are, from the [[backend]] tables. nginx connects to
// address literals only, so names are resolved, and what was found is kept for
// a while; and it speaks no TLS to them.
type places struct {
	c       *conf.Config
	resolve func(ctx context.Context, network, host string) ([]netip.Addr, error)

	mu    sync.Mutex
	found map[string]found // by host
}

type found struct {
	addr netip.Addr
	at   time.Time
}

// keepFound is how long a resolved name is believed.
const keepFound = 30 * time.Second

// place implements authhttp.Place. The first node of a home is meant: nginx
// knows no second one.
func (p *places) place(ctx context.Context, protocol, home string) (netip.AddrPort, error) {
	if home == "" {
		home = p.c.Cluster.DefaultBackend
	}
	for _, b := range p.c.Backends {
		if b.Name != home {
			continue
		}
		for _, n := range b.Nodes {
			if address := nodeAddress(n, protocol); address != "" && n.Clear() {
				return p.addr(ctx, address)
			}
		}
		return netip.AddrPort{}, fmt.Errorf("backend %q has no address for %s without TLS from the start", home, protocol)
	}
	return netip.AddrPort{}, fmt.Errorf("no backend is named %q", home)
}

func nodeAddress(n conf.Node, protocol string) string {
	switch protocol {
	case "imap":
		return n.IMAP
	case "pop3":
		return n.POP3
	case "smtp":
		return n.Submission
	}
	return ""
}

func (p *places) addr(ctx context.Context, address string) (netip.AddrPort, error) {
	if literal, err := netip.ParseAddrPort(address); err == nil {
		return literal, nil
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return netip.AddrPort{}, err
	}
	p.mu.Lock()
	known, ok := p.found[host]
	p.mu.Unlock()
	if !ok || time.Since(known.at) > keepFound {
		addrs, err := p.resolve(ctx, "ip", host)
		switch {
		case err == nil && len(addrs) > 0:
			known = found{addrs[0].Unmap(), time.Now()}
			p.mu.Lock()
			p.found[host] = known
			p.mu.Unlock()
		case !ok: // an old answer is better than none
			return netip.AddrPort{}, fmt.Errorf("resolve %s: %w", host, err)
		}
	}
	return netip.AddrPortFrom(known.addr, uint16(port)), nil
}
