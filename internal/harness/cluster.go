// Package harness starts a whole Switchyard cluster on this machine: real
// daemons, real TLS, a real user database, in one directory. The demo and the
// end-to-end tests stand on it. It contains no test code.
package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"switchyard/lookup/tcpauth"
)

// Spec describes a cluster. The zero value of each field works, except where it
// says otherwise.
type Spec struct {
	Dir      string    // required: where everything goes; made if missing
	Bin      string    // required: the directory of the daemons' binaries
	Host     string    // address of all listeners; "127.0.0.1" when empty
	Domain   string    // "example.test" when empty
	Backends []string  // {"b1", "b2"} when empty
	Proxies  int       // 2 when zero
	Accounts []Account // added before the proxies start

	// DefaultBackend is the home of accounts without one; the first backend
	// when empty.
	DefaultBackend string

	// BackTLS is how proxies connect to backends: "implicit" when empty, or
	// "starttls".
	BackTLS string

	// ProxyHeader adds listeners to each proxy that require a PROXY header:
	// imap-haproxy, pop3-haproxy and smtp-haproxy.
	ProxyHeader bool

	// Cache is the proxies' [directory.cache] table; their defaults when
	// empty.
	Cache string

	// Resolve is the [directory.resolve] table of all; the defaults when empty.
	Resolve string

	// Directory replaces the [directory] tables; the cluster's own tcpauthd
	// when empty.
	Directory string

	// Foreign are [[backend]] tables of other servers, put into every file.
	Foreign string

	// ProxyExtra are more lines for each proxy's [proxyd] table.
	ProxyExtra string

	// BackendExtra are more lines for each backend's [backendd] table.
	BackendExtra string

	// Progress is told what is being done; nil: nobody.
	Progress func(step string)
}

// Account is one user.
type Account struct {
	Name     string // user@domain
	Password string
	Home     string // "" for none
}

// Cluster is a running cluster.
type Cluster struct {
	Spec     Spec
	CA       *CA
	Secret   string // what tcpauthd asks of its clients
	TCPAuth  *Process
	TCPAddr  string
	Backends []*Backend
	Proxies  []*Proxy
}

// Backend is one backendd.
type Backend struct {
	*Process
	Name   string
	Config string
	Data   string
	Addr   map[string]string // by service: imap, pop3, submission, lmtp, managesieve, admin
}

// Proxy is one proxyd.
type Proxy struct {
	*Process
	Name   string
	Config string

	// Addr has the listeners by name: imap, pop3, submission, smtp and
	// managesieve offer STARTTLS; imaps, pop3s and submissions are TLS from the start; admin;
	// and with ProxyHeader imap-haproxy, pop3-haproxy, smtp-haproxy.
	Addr map[string]string
}

func (s *Spec) fill() {
	if s.Host == "" {
		s.Host = "127.0.0.1"
	}
	if s.Domain == "" {
		s.Domain = "example.test"
	}
	if len(s.Backends) == 0 {
		s.Backends = []string{"b1", "b2"}
	}
	if s.Proxies == 0 {
		s.Proxies = 2
	}
	if s.DefaultBackend == "" {
		s.DefaultBackend = s.Backends[0]
	}
	if s.BackTLS == "" {
		s.BackTLS = "implicit"
	}
	if s.Progress == nil {
		s.Progress = func(string) {}
	}
}

// StartCluster builds the directory and starts the daemons: directory,
// backends, proxies. On an error it stops what it started.
func StartCluster(ctx context.Context, spec Spec) (c *Cluster, err error) {
	spec.fill()
	dir, err := filepath.Abs(spec.Dir)
	if err != nil {
		return nil, err
	}
	spec.Dir = dir
	c = &Cluster{Spec: spec}
	defer func() {
		if err != nil {
			c.Kill()
		}
	}()
	spec.Progress("making certificates and configuration")
	if err := c.prepare(); err != nil {
		return nil, err
	}
	spec.Progress("starting tcpauthd")
	if c.TCPAuth, err = c.start(ctx, "tcpauthd", "tcpauthd", filepath.Join(dir, "tcpauthd.toml")); err != nil {
		return nil, err
	}
	spec.Progress(fmt.Sprintf("adding %d accounts", len(spec.Accounts)))
	for _, a := range spec.Accounts {
		if err := c.SetAccount(ctx, a); err != nil {
			return nil, err
		}
	}
	for _, b := range c.Backends {
		spec.Progress("starting backendd " + b.Name)
		if err := c.StartBackend(ctx, b); err != nil {
			return nil, err
		}
	}
	for _, p := range c.Proxies {
		spec.Progress("starting proxyd " + p.Name)
		if err := c.StartProxy(ctx, p); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, name, binary, config string) (*Process, error) {
	return Start(ctx, name, filepath.Join(c.Spec.Bin, binary), config, c.Spec.Dir)
}

// StartBackend starts a backend's daemon, again after it was stopped or
// killed.
func (c *Cluster) StartBackend(ctx context.Context, b *Backend) (err error) {
	b.Process, err = c.start(ctx, b.Name, "backendd", b.Config)
	return err
}

// StartProxy starts a proxy's daemon, again after it was stopped or killed.
func (c *Cluster) StartProxy(ctx context.Context, p *Proxy) (err error) {
	p.Process, err = c.start(ctx, p.Name, "proxyd", p.Config)
	return err
}

// StartDirectory starts tcpauthd again after it was stopped or killed.
func (c *Cluster) StartDirectory(ctx context.Context) (err error) {
	c.TCPAuth, err = c.start(ctx, "tcpauthd", "tcpauthd", filepath.Join(c.Spec.Dir, "tcpauthd.toml"))
	return err
}

// adminTimeout bounds one change of the user database: it is synced, on a disk
// that may be busy with much else.
const adminTimeout = 30 * time.Second

// SetAccount adds or changes an account in the user database.
func (c *Cluster) SetAccount(ctx context.Context, a Account) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	client, err := c.Directory()
	if err != nil {
		return err
	}
	defer client.Close()
	labels := map[string]string{"tohost": a.Home}
	if err := client.Set(ctx, a.Name, &a.Password, labels); err != nil {
		return fmt.Errorf("add account %s: %w", a.Name, err)
	}
	return nil
}

// Directory connects a client to the cluster's tcpauthd. The caller closes it.
func (c *Cluster) Directory() (*tcpauth.Client, error) {
	return tcpauth.NewClient([]string{c.TCPAddr}, tcpauth.ClientOptions{Secret: c.Secret, Timeout: adminTimeout, Attempt: adminTimeout})
}

// Backend returns a backend by name, nil if there is none.
func (c *Cluster) Backend(name string) *Backend {
	for _, b := range c.Backends {
		if b.Name == name {
			return b
		}
	}
	return nil
}

// Stop stops the daemons, proxies first so that no client meets half a
// cluster.
func (c *Cluster) Stop() error {
	var errs []error
	c.each(func(p *Process) { errs = append(errs, p.Stop()) })
	return errors.Join(errs...)
}

// Kill ends the daemons at once.
func (c *Cluster) Kill() { c.each((*Process).Kill) }

func (c *Cluster) each(do func(*Process)) {
	for _, p := range c.Proxies {
		if p.Process != nil {
			do(p.Process)
		}
	}
	for _, b := range c.Backends {
		if b.Process != nil {
			do(b.Process)
		}
	}
	if c.TCPAuth != nil {
		do(c.TCPAuth)
	}
}

// mkdir makes a directory of the cluster.
func mkdir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return nil
}
