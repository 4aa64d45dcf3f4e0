// Command backendd is one node of a backend: a mail store with its servers and
// its outbound queue.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"switchyard/backend/access"
	"switchyard/backend/queue"
	"switchyard/backend/store"
	"switchyard/backend/textindex"
	"switchyard/cmd/internal/certificates"
	"switchyard/cmd/internal/directory"
	"switchyard/conf"
	"switchyard/internal/daemon"
	"switchyard/internal/server"
	"switchyard/internal/tlsconf"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

func main() {
	flags, err := daemon.ParseFlags("backendd", os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(flags)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "backendd:", err)
		os.Exit(1)
	}
}

// run is the node's life, in order: configuration, directory, store, queue,
// listeners; and back: no new sessions, goodbyes, queue, and the store last. SIGHUP
// reloads.
func run(flags daemon.Flags) error {
	if flags.Version {
		fmt.Println("backendd", daemon.Version())
		return nil
	}
	c, err := conf.Load(flags.Config, conf.BackenddDaemon)
	if err != nil {
		return err
	}
	if flags.Check {
		fmt.Println(flags.Config, "is good for backendd")
		return nil
	}
	log, level := daemon.NewLogger(flags.Level(c.Backendd.LogLevel))
	defer log.Sync()
	hangups := daemon.CatchHangups()
	ctx, stop := daemon.Signals(context.Background())
	defer stop()

	accounts, err := directory.Open(c, log)
	if err != nil {
		return err
	}
	defer accounts.Close()
	mail, err := store.Open(c.Path(c.Backendd.Data), store.Options{MaxMessage: c.Backendd.MaxMessage, Logger: log})
	if err != nil {
		return fmt.Errorf("open the store in %s: %w", c.Path(c.Backendd.Data), err)
	}
	defer func() {
		if err := mail.Close(); err != nil {
			log.Error("store did not close in order", zap.Error(err))
		}
	}()
	texts, err := textindex.Open(filepath.Join(c.Path(c.Backendd.Data), "textindex"), textindex.Options{Logger: log.Named("textindex")})
	if err != nil {
		return fmt.Errorf("open the text index: %w", err)
	}
	defer func() {
		if err := texts.Close(); err != nil {
			log.Warn("text index did not close in order", zap.Error(err))
		}
	}()
	gate := access.New(c.Backendd.Backend, accounts, mail, gateOptions(c, log))
	filter := newRules(c, log)
	out, err := queueOptions(c, accounts, filter, log)
	if err != nil {
		return err
	}
	outbound, err := queue.New(ctx, mail, gate, out)
	if err != nil {
		return fmt.Errorf("read the outbound queue: %w", err)
	}
	filter.queue.Store(outbound)
	certs, err := certificates.Open(c, log, c.Backendd.Certificate)
	if err != nil {
		return err
	}
	listeners, err := listen(c, gate, outbound, texts, certs, log)
	if err != nil {
		return err
	}
	admin := daemon.Admin{Name: "backendd", Level: level}
	certificates.Show(certs, &admin)

	group, ctx := errgroup.WithContext(ctx)
	sockets := make([]daemon.Listener, 0, len(listeners))
	for _, l := range listeners {
		sockets = append(sockets, l.socket)
		if l.handle == nil {
			group.Go(func() error { return daemon.ServeAdmin(ctx, l.socket, admin) })
			continue
		}
		group.Go(func() error {
			return server.Run(ctx, l.socket, server.Options{MaxSessions: l.maxSessions, Logger: log}, l.handle)
		})
	}
	group.Go(func() error { return outbound.Run(ctx) })
	if certs != nil {
		group.Go(func() error { return certs.Run(ctx) })
	}
	group.Go(func() error {
		return hangups.Run(ctx, func() error { return reload(flags, certs, level) }, log.Named("daemon"))
	})
	if err := daemon.Announce(flags.Ready, sockets); err != nil {
		stop()
		return errors.Join(err, group.Wait())
	}
	log.Info("ready", zap.String("backend", c.Backendd.Backend), zap.Int("listeners", len(sockets)))
	err = group.Wait()
	log.Info("stopped")
	return err
}

// reload reads the configuration file again and takes over what can change while
// sessions run: the certificate and the log level.
func reload(flags daemon.Flags, certs *tlsconf.Store, level zap.AtomicLevel) error {
	c, err := conf.Load(flags.Config, conf.BackenddDaemon)
	if err != nil {
		return err
	}
	if err := certificates.Use(certs, c, c.Backendd.Certificate); err != nil {
		return err
	}
	level.SetLevel(flags.Level(c.Backendd.LogLevel))
	return nil
}
