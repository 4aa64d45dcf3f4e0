// Package directory opens the directory that a configuration names.
package directory

import (
	"fmt"
	"os"
	"time"

	"switchyard/conf"
	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/lookup/ldap"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/static"
	"switchyard/lookup/tcpauth"

	"go.uber.org/zap"
)

// Directory is a lookup.Directory that is closed at the end.
type Directory interface {
	lookup.Directory
	Close() error
}

// Open opens the directory of [directory]. It does not wait for a server: one
// that is away makes questions unavailable, not the daemon.
func Open(c *conf.Config, log *zap.Logger) (Directory, error) {
	switch d := c.Directory; d.Kind {
	case "tcpauth":
		return openTCPAuth(c, log.Named("tcpauth"))
	case "ldap":
		return openLDAP(c, log.Named("ldap"))
	case "file":
		return openFile(c.Path(d.File.Path))
	default:
		return nil, fmt.Errorf("directory kind %q", d.Kind)
	}
}

func openTCPAuth(c *conf.Config, log *zap.Logger) (Directory, error) {
	d := c.Directory.TCPAuth
	o := tcpauth.ClientOptions{Secret: d.Secret.Value(), Timeout: time.Duration(d.Timeout), Logger: log}
	if d.TLS {
		config, err := tlsconf.Client(c.Path(or(d.CAFile, c.Cluster.CAFile)))
		if err != nil {
			return nil, err
		}
		o.TLS = config
	}
	return tcpauth.NewClient(d.Servers, o)
}

func openLDAP(c *conf.Config, log *zap.Logger) (Directory, error) {
	d := c.Directory.LDAP
	config, err := tlsconf.Client(c.Path(or(d.CAFile, c.Cluster.CAFile)))
	if err != nil {
		return nil, err
	}
	return ldap.New(d.URLs, d.Base, ldap.Options{
		StartTLS:      d.StartTLS,
		TLS:           config,
		BindDN:        d.BindDN,
		Password:      d.BindPassword.Value(),
		Filter:        d.Filter,
		Canary:        d.Canary,
		Name:          d.Attributes.Name,
		Home:          d.Attributes.Home,
		Generation:    d.Attributes.Generation,
		Status:        d.Attributes.Status,
		Quota:         d.Attributes.Quota,
		Forward:       d.Attributes.Forward,
		Attributes:    d.Attributes.Others,
		SearchTimeout: time.Duration(d.Timeout),
		Logger:        log,
	})
}

// file is a directory read from a file once.
type file struct{ *static.Directory }

func (file) Close() error { return nil }

func openFile(path string) (Directory, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	parsed, err := nwauth.ReadRecords(f)
	if err != nil {
		return nil, fmt.Errorf("read accounts from %s: %w", path, err)
	}
	records := make([]static.Record, 0, len(parsed))
	for _, r := range parsed {
		account, err := r.Account()
		if err != nil {
			return nil, fmt.Errorf("read accounts from %s: %w", path, err)
		}
		records = append(records, static.Record{Account: account, Hash: r.Hash})
	}
	d, err := static.New(nwauth.Matches, static.Options{Records: records})
	if err != nil {
		return nil, fmt.Errorf("read accounts from %s: %w", path, err)
	}
	return file{d}, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
