// Command tcpauthd is the directory: it serves the user database to proxies and
// backends over TCP.
//
//	tcpauthd                  serves, as the primary or as a replica of one
//	tcpauthd -stdio           serves standard input and output, as an authent module does
//	tcpauthd -import FILE     takes over the users of a file; the daemon must not run
//	tcpauthd -export FILE     writes the users to a file; the daemon must not run
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"switchyard/cmd/internal/authhttp"
	"switchyard/cmd/internal/certificates"
	"switchyard/conf"
	"switchyard/internal/daemon"
	"switchyard/internal/tlsconf"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/tcpauth"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// flags are this daemon's own beside those of all.
type flags struct {
	daemon.Flags
	stdio    bool
	imported string
	exported string
}

func main() {
	var f flags
	var err error
	f.Flags, err = daemon.ParseFlags("tcpauthd", os.Args[1:], os.Stderr, func(fs *flag.FlagSet) {
		fs.BoolVar(&f.stdio, "stdio", false, "serve standard input and output, as an authent module does")
		fs.StringVar(&f.imported, "import", "", "take over the users of a NWAuth `file` (-: standard input); the daemon must not run")
		fs.StringVar(&f.exported, "export", "", "write the users to a NWAuth `file` (-: standard output); the daemon must not run")
	})
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tcpauthd:", err)
		os.Exit(1)
	}
}

func run(f flags) error {
	if f.Version {
		fmt.Println("tcpauthd", daemon.Version())
		return nil
	}
	c, err := conf.Load(f.Config, conf.TcpauthdDaemon)
	if err != nil {
		return err
	}
	options, err := serverOptions(c)
	if err != nil {
		return err
	}
	if f.Check {
		fmt.Println(f.Config, "is good for tcpauthd")
		return nil
	}
	ctx, stop := daemon.Signals(context.Background())
	defer stop()
	switch {
	case (f.imported != "") && (f.exported != "" || f.stdio), f.exported != "" && f.stdio:
		return errors.New("-import, -export and -stdio are for one at a time")
	case f.imported != "":
		return importFile(ctx, c, f.imported)
	case f.exported != "":
		return exportFile(ctx, c, f.exported)
	}
	log, level := daemon.NewLogger(f.Level(c.Tcpauthd.LogLevel))
	defer log.Sync()
	options.Logger = log.Named("tcpauth")
	if f.stdio {
		return serveModule(ctx, c, options, log)
	}
	return serve(ctx, c, options, f, log, level)
}

// serve is the directory's life, in order: user database, listeners; and back:
// the answers under way, and the database last. SIGHUP reloads.
func serve(ctx context.Context, c *conf.Config, options tcpauth.ServerOptions, f flags, log *zap.Logger, level zap.AtomicLevel) error {
	hangups := daemon.CatchHangups()
	users, err := openStore(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() {
		if err := users.Close(); err != nil {
			log.Error("user database did not close in order", zap.Error(err))
		}
	}()
	var r *replica
	if db, embedded := users.(*nwauth.DB); embedded && c.Tcpauthd.Primary != "" {
		if r, err = newReplica(c, db, log.Named("replica")); err != nil {
			return err
		}
		options.State = r.state
	}
	certs, err := certificates.Open(c, log, c.Tcpauthd.Certificate)
	if err != nil {
		return err
	}
	if options.TLS, err = certificates.Server(c, conf.Listener{}, certs); err != nil {
		return err
	}
	srv, err := tcpauth.NewServer(users, options)
	if err != nil {
		return err
	}
	admin := daemon.Admin{Name: "tcpauthd", Level: level, Ready: users.Ready, Metrics: []prometheus.Collector{&metrics{server: srv, users: users}}}
	if r != nil {
		admin.Ready, admin.Handlers, admin.Metrics = r.ready, r.pages(), append(admin.Metrics, r.metrics()...)
	}
	certificates.Show(certs, &admin)
	sockets, err := listen(c)
	if err != nil {
		return err
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	for _, socket := range sockets {
		group.Go(func() error {
			switch socket.Name {
			case adminName:
				return daemon.ServeAdmin(ctx, socket, admin)
			case authHTTPName:
				return authhttp.Serve(ctx, socket, c, c.Tcpauthd.AuthHTTP, users, log.Named("auth_http"))
			}
			return srv.Serve(ctx, socket)
		})
	}
	if r != nil {
		group.Go(func() error { return r.follow(ctx) })
	}
	if certs != nil {
		group.Go(func() error { return certs.Run(ctx) })
	}
	group.Go(func() error {
		return hangups.Run(ctx, func() error { return reload(f, certs, level) }, log.Named("daemon"))
	})
	if err := daemon.Announce(f.Ready, sockets); err != nil {
		stop()
		return errors.Join(err, group.Wait())
	}
	log.Info("ready", zap.String("store", c.Tcpauthd.Store), zap.Int("listeners", len(sockets)), zap.String("primary", c.Tcpauthd.Primary))
	err = group.Wait()
	log.Info("stopped")
	return err
}

// reload reads the configuration file again and takes over what can change while
// it serves: the certificate and the log level.
func reload(f flags, certs *tlsconf.Store, level zap.AtomicLevel) error {
	c, err := conf.Load(f.Config, conf.TcpauthdDaemon)
	if err != nil {
		return err
	}
	if err := certificates.Use(certs, c, c.Tcpauthd.Certificate); err != nil {
		return err
	}
	level.SetLevel(f.Level(c.Tcpauthd.LogLevel))
	return nil
}
