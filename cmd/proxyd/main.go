// Command proxyd is the proxy: it takes clients' connections, asks the
// directory where each user lives, and joins the connection to that backend.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"switchyard/cmd/internal/authhttp"
	"switchyard/cmd/internal/certificates"
	"switchyard/cmd/internal/directory"
	"switchyard/conf"
	"switchyard/internal/daemon"
	"switchyard/lookup/cache"
	"switchyard/router"
	"switchyard/router/console"
	"switchyard/router/splice"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

func main() {
	flags, err := daemon.ParseFlags("proxyd", os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(flags)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "proxyd:", err)
		os.Exit(1)
	}
}

// run is the proxy's life, in order: configuration, directory, backends,
// listeners, sessions; and back. SIGHUP reloads, SIGUSR2 lets a new process take
// the listeners over while the sessions here go on.
func run(flags daemon.Flags) error {
	if flags.Version {
		fmt.Println("proxyd", daemon.Version())
		return nil
	}
	c, err := conf.Load(flags.Config, conf.ProxydDaemon)
	if err != nil {
		return err
	}
	if flags.Check {
		fmt.Println(flags.Config, "is good for proxyd")
		return nil
	}
	log, level := daemon.NewLogger(flags.Level(c.Proxyd.LogLevel))
	defer log.Sync()
	sockets, err := daemon.Inherit(log.Named("daemon"))
	if err != nil {
		return err
	}
	defer sockets.Close()
	ctx, stop := daemon.Signals(context.Background())
	defer stop()

	accounts, err := directory.Open(c, log)
	if err != nil {
		return err
	}
	defer accounts.Close()
	loop, err := splice.NewLoop(splice.LoopOptions{})
	if err != nil {
		return err
	}
	defer loop.Close(nil)
	backends, err := upstreams(c, loop, log)
	if err != nil {
		return err
	}
	var live sessions
	cached, err := cache.New(accounts, cacheOptions(c, &live, log))
	if err != nil {
		return err
	}
	defer cached.Close()
	options, err := routerOptions(c, loop, log)
	if err != nil {
		return err
	}
	proxy := router.New(cached, backends, options)
	live.in.Store(proxy)
	admin := console.New(proxy, console.Options{Elders: sockets.Elders(), Logger: log.Named("console")})
	defer admin.Close()
	alone := console.New(proxy, console.Options{Logger: log.Named("console")}) // for the process that follows
	defer alone.Close()
	certs, err := certificates.Open(c, log, shown(c)...)
	if err != nil {
		return err
	}
	protocols, err := proxyProtocols(c)
	if err != nil {
		return err
	}
	listeners, err := listen(c, sockets, certs, protocols)
	if err != nil {
		return err
	}

	group, ctx := errgroup.WithContext(ctx)
	open := make([]daemon.Listener, 0, len(listeners))
	for _, l := range listeners {
		open = append(open, l.socket)
		if l.socket.Name == authHTTPName {
			group.Go(func() error {
				return authhttp.Serve(ctx, l.socket, c, c.Proxyd.AuthHTTP, cached, log.Named("auth_http"))
			})
			continue
		}
		if l.how.Protocol == nil {
			group.Go(func() error { return daemon.ServeAdmin(ctx, l.socket, adminPages(proxy, admin, cached, certs, level)) })
			continue
		}
		group.Go(func() error { return proxy.Serve(ctx, l.socket, l.how) })
	}
	if certs != nil {
		group.Go(func() error { return certs.Run(ctx) })
	}
	group.Go(func() error { return backends.Run(ctx) })
	group.Go(func() error { proxy.Recheck(ctx, recheckPeriod(c)); return nil })
	process := daemon.Process{
		Sockets: sockets, Sessions: func() int { return sessionCount(proxy) }, Handlers: alone.Handlers(),
		Reload:       func() error { return reload(flags, certs, backends, level) },
		StartTimeout: time.Duration(c.Proxyd.StartTimeout), Linger: time.Duration(c.Proxyd.Linger), Logger: log.Named("daemon"),
	}
	group.Go(func() error { return process.Run(ctx, stop) })
	if err := errors.Join(daemon.Announce(flags.Ready, open), sockets.Serving()); err != nil {
		stop()
		return errors.Join(err, group.Wait())
	}
	log.Info("ready", zap.Int("listeners", len(open)))
	err = group.Wait()
	if err := sockets.StopElders(context.Background()); err != nil {
		log.Warn("older processes could not be told to stop", zap.Error(err))
	}
	log.Info("stopped")
	return err
}
