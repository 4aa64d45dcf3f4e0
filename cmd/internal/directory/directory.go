// Package directory opens the directory that a configuration names.
package directory

import (
	"errors"
	"fmt"
	"os"
	"time"

	"switchyard/conf"
	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/lookup/ldap"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/nwauth/hash"
	"switchyard/lookup/resolve"
	"switchyard/lookup/stack"
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
	if c.Directory.Kind == "stack" {
		return openStack(c, log)
	}
	return open(c, &c.Directory.Source, log)
}

func open(c *conf.Config, s *conf.Source, log *zap.Logger) (Directory, error) {
	switch s.Kind {
	case "tcpauth":
		return openTCPAuth(c, s.TCPAuth, log.Named("tcpauth"))
	case "ldap":
		return openLDAP(c, s.LDAP, log.Named("ldap"))
	case "file":
		return openFile(c.Path(s.File.Path))
	default:
		return nil, fmt.Errorf("directory kind %q", s.Kind)
	}
}

// stacked is several directories as one, which closes them.
type stacked struct {
	*stack.Directory
	members []Directory
}

func (s stacked) Close() error {
	var errs []error
	for _, m := range s.members {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

func openStack(c *conf.Config, log *zap.Logger) (_ Directory, err error) {
	var s stacked
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	var members []stack.Member
	for i := range c.Directory.Members {
		m := &c.Directory.Members[i]
		name := or(m.Name, fmt.Sprintf("%s %d", m.Kind, i+1))
		d, err := open(c, &m.Source, log.Named(name))
		if err != nil {
			return nil, fmt.Errorf("directory %q: %w", name, err)
		}
		s.members = append(s.members, d)
		members = append(members, stack.Member{Name: name, Directory: d, Domains: m.Domains, Next: m.Next})
	}
	if s.Directory, err = stack.New(members...); err != nil {
		return nil, err
	}
	return s, nil
}

func openTCPAuth(c *conf.Config, d conf.DirectoryTCPAuth, log *zap.Logger) (Directory, error) {
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

func openLDAP(c *conf.Config, d conf.DirectoryLDAP, log *zap.Logger) (Directory, error) {
	config, err := tlsconf.Client(c.Path(or(d.CAFile, c.Cluster.CAFile)))
	if err != nil {
		return nil, err
	}
	if !d.Certificate.Empty() {
		own, err := tlsconf.Server(c.Path(d.Certificate.CertFile), c.Path(d.Certificate.KeyFile))
		if err != nil {
			return nil, err
		}
		config.Certificates = own.Certificates
	}
	o := ldap.Options{
		StartTLS:      d.StartTLS,
		TLS:           config,
		BindDN:        d.BindDN,
		Password:      d.BindPassword.Value(),
		External:      d.External,
		Spread:        d.Spread,
		Filter:        d.Filter,
		Canary:        d.Canary,
		Name:          d.Attributes.Name,
		Home:          d.Attributes.Home,
		Generation:    d.Attributes.Generation,
		Status:        d.Attributes.Status,
		Quota:         d.Attributes.Quota,
		Forward:       d.Attributes.Forward,
		Hash:          d.Attributes.Hash,
		Alias:         d.Attributes.Alias,
		PasswordTime:  d.Attributes.Changed,
		ForwardOnly:   d.Attributes.Only,
		DialTimeout:   time.Duration(d.DialTimeout),
		BindTimeout:   time.Duration(d.BindTimeout),
		Hashers:       d.Hashers,
		Attributes:    d.Attributes.Others,
		SearchTimeout: time.Duration(d.Timeout),
		Logger:        log,
	}
	if d.Verify == "hash" {
		o.Verify = nwauth.Matches
	}
	if d.Preset != "" {
		if o, err = ldap.Preset(d.Preset, o); err != nil {
			return nil, err
		}
	}
	directory, err := ldap.New(d.URLs, d.Base, o)
	if err != nil || len(d.SCRAM) == 0 {
		return directory, err
	}
	keyed, err := ldap.WithKeys(directory, hash.Keys, d.SCRAM)
	if err != nil {
		directory.Close()
		return nil, err
	}
	return keyed, nil
}

// Resolve translates [directory.resolve], the same for proxies and backends.
func Resolve(c *conf.Config) resolve.Options {
	r := c.Directory.Resolve
	return resolve.Options{
		Domains:       c.Cluster.Domains,
		Relayed:       r.Relayed,
		DefaultDomain: c.Cluster.DefaultDomain,
		Separator:     r.Separator,
		CatchAll:      r.CatchAll,
		MaxDepth:      r.MaxDepth,
		MaxNames:      r.MaxNames,
	}
}

// file is a directory read from a file once.
type file struct{ *static.Keyed }

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
	return file{static.WithKeys(d, hash.Keys)}, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
