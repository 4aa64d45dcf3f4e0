// Command tcpauthd is the directory: it serves the user database to proxies and
// backends over TCP.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"switchyard/conf"
	"switchyard/internal/daemon"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/tcpauth"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

func main() {
	flags, err := daemon.ParseFlags("tcpauthd", os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(flags)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tcpauthd:", err)
		os.Exit(1)
	}
}

// run is the directory's life, in order: configuration, user database,
// listeners; and back: the answers under way, and the database last.
func run(flags daemon.Flags) error {
	if flags.Version {
		fmt.Println("tcpauthd", daemon.Version())
		return nil
	}
	c, err := conf.Load(flags.Config, conf.TcpauthdDaemon)
	if err != nil {
		return err
	}
	options, err := serverOptions(c)
	if err != nil {
		return err
	}
	if flags.Check {
		fmt.Println(flags.Config, "is good for tcpauthd")
		return nil
	}
	log, level := daemon.NewLogger(flags.LogLevel)
	defer log.Sync()
	ctx, stop := daemon.Signals(context.Background())
	defer stop()

	users, err := nwauth.Open(c.Path(c.Tcpauthd.Data), nwauth.Options{Logger: log.Named("nwauth")})
	if err != nil {
		return err
	}
	defer func() {
		if err := users.Close(); err != nil {
			log.Error("user database did not close in order", zap.Error(err))
		}
	}()
	options.Logger = log.Named("tcpauth")
	srv, err := tcpauth.NewServer(users, options)
	if err != nil {
		return err
	}
	sockets, err := listen(c)
	if err != nil {
		return err
	}

	group, ctx := errgroup.WithContext(ctx)
	for _, socket := range sockets {
		group.Go(func() error {
			if socket.Name == adminName {
				return daemon.ServeAdmin(ctx, socket, daemon.Admin{Name: "tcpauthd", Level: level, Ready: users.Ready})
			}
			return srv.Serve(ctx, socket)
		})
	}
	if err := daemon.Announce(flags.Ready, sockets); err != nil {
		stop()
		return errors.Join(err, group.Wait())
	}
	log.Info("ready", zap.Int("users", users.Len()), zap.Int("listeners", len(sockets)))
	err = group.Wait()
	log.Info("stopped")
	return err
}
