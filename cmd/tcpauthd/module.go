package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"go.uber.org/zap"

	"switchyard/conf"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/tcpauth"
)

// serveModule serves standard input and output, as the authent_process of a
// NetWin server does: one request a line, until exit or the end of the input.
// The database is opened when nobody has it. When a daemon has it, or another
// module of the same server, that is asked at the configured address.
func serveModule(ctx context.Context, c *conf.Config, options tcpauth.ServerOptions, log *zap.Logger) error {
	db, done, err := moduleDatabase(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() {
		if err := done(); err != nil {
			log.Error("user database did not close in order", zap.Error(err))
		}
	}()
	srv, err := tcpauth.NewServer(db, options)
	if err != nil {
		return err
	}
	srv.ServeModule(ctx, os.Stdin, os.Stdout)
	return nil
}

func moduleDatabase(ctx context.Context, c *conf.Config, log *zap.Logger) (tcpauth.Database, func() error, error) {
	users, err := openStore(ctx, c, log)
	if err == nil {
		return users, users.Close, nil
	}
	if !errors.Is(err, nwauth.ErrLocked) {
		return nil, nil, err
	}
	host, port, splitErr := net.SplitHostPort(c.Tcpauthd.Address)
	if splitErr != nil || port == "0" {
		return nil, nil, fmt.Errorf("%w, and tcpauthd.address does not say where to ask it", err)
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "localhost"
	}
	o, err := clientOptions(c)
	if err != nil {
		return nil, nil, err
	}
	o.Logger = log.Named("client")
	client, err := tcpauth.NewClient([]string{net.JoinHostPort(host, port)}, o)
	if err != nil {
		return nil, nil, err
	}
	return remote{client}, client.Close, nil
}

// remote is another process's database.
type remote struct{ *tcpauth.Client }

// Set implements tcpauth.Database. Whether the user is new is not known.
func (r remote) Set(ctx context.Context, name string, password *string, labels map[string]string) (bool, error) {
	return false, passedOn(r.Client.Set(ctx, name, password, labels))
}

// Delete implements tcpauth.Database.
func (r remote) Delete(ctx context.Context, name string) error {
	return passedOn(r.Client.Delete(ctx, name))
}

// passedOn says a refusal in the words of who refused.
func passedOn(err error) error {
	var refused *tcpauth.RefusedError
	if errors.As(err, &refused) {
		if _, reason, found := strings.Cut(refused.Reason, ": "); found && strings.HasPrefix(refused.Reason, "server says no to ") {
			return &tcpauth.RefusedError{Reason: reason}
		}
	}
	return err
}

// Search implements tcpauth.Database. A client asks for a bounded number.
func (r remote) Search(ctx context.Context, pattern string, from, most int) ([]string, int, int, error) {
	if most == 0 {
		most = maxNames
	}
	m, err := r.Client.Search(ctx, pattern, from, most)
	return m.Names, m.Found, m.Total, err
}

// maxNames is how many names a search without a bound returns.
const maxNames = 1_000_000

var _ tcpauth.Database = remote{}
