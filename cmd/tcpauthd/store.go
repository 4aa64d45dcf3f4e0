package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"iter"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"switchyard/conf"
	"switchyard/lookup"
	"switchyard/lookup/module"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/nwauth/hash"
	"switchyard/lookup/postgres"
	"switchyard/lookup/tcpauth"
)

// users is where the users are: the embedded database, PostgreSQL or a module.
type users interface {
	tcpauth.Database

	// Ready returns why nobody can be looked up now.
	Ready(ctx context.Context) error
	Close() error
}

// What the server makes use of if a store has it.
var (
	_ tcpauth.Feeder    = (*nwauth.DB)(nil)
	_ tcpauth.Immediate = (*nwauth.DB)(nil)
	_ tcpauth.Source    = (*nwauth.DB)(nil)
	_ tcpauth.Feeder    = (*postgres.DB)(nil)
	_ lookup.KeyHolder  = (*nwauth.DB)(nil)
	_ lookup.KeyHolder  = (*postgres.DB)(nil)
)

// openStore opens the store that the configuration names. Only an embedded one
// has to be there; others may come later.
func openStore(ctx context.Context, c *conf.Config, log *zap.Logger) (users, error) {
	switch c.Tcpauthd.Store {
	case "postgresql":
		return openPostgres(ctx, c, log.Named("postgres"))
	case "module":
		m := c.Tcpauthd.Module
		return module.New(m.Command, module.Options{
			Processes: m.Processes, Timeout: time.Duration(m.Timeout), MaxWaiting: m.MaxWaiting,
			MaxBackoff: time.Duration(m.MaxBackoff), Farewell: time.Duration(m.Farewell),
			ASCII: m.ASCII, Dir: c.Path(m.Dir), Env: m.Env, Logger: log.Named("module"),
		})
	default:
		return openEmbedded(c, log.Named("nwauth"))
	}
}

func openEmbedded(c *conf.Config, log *zap.Logger) (*nwauth.DB, error) {
	return nwauth.Open(c.Path(c.Tcpauthd.Data), databaseOptions(c, log))
}

func openPostgres(ctx context.Context, c *conf.Config, log *zap.Logger) (*postgres.DB, error) {
	p, cost := c.Tcpauthd.PostgreSQL, argon2(c)
	passwords := postgres.Passwords{
		Hash:   func(password string) (string, error) { return hash.New(password, cost) },
		Verify: hash.Verify,
		Keys:   hash.Keys,
	}
	if c.Tcpauthd.UpgradeHashes {
		passwords.Outdated = func(stored string) bool { return hash.Outdated(stored, cost) }
	}
	return postgres.Open(ctx, postgresDSN(c), passwords, postgres.Options{
		Password: p.Password.Value(), Connections: p.Connections, Timeout: time.Duration(p.Timeout), Poll: time.Duration(p.Poll),
		Hashers: c.Tcpauthd.Hashers, HashWait: time.Duration(c.Tcpauthd.HashWait), Logger: log,
	})
}

// postgresDSN adds to the connection string who signed the server's certificate.
func postgresDSN(c *conf.Config) string {
	p := c.Tcpauthd.PostgreSQL
	file := p.CAFile
	if file == "" {
		file = c.Cluster.CAFile
	}
	if file == "" || !strings.Contains(p.DSN, "verify-full") || strings.Contains(p.DSN, "sslrootcert") {
		return p.DSN
	}
	file = c.Path(file)
	if strings.Contains(p.DSN, "://") {
		return p.DSN + "&sslrootcert=" + url.QueryEscape(file) // verify-full stands behind a ?
	}
	return p.DSN + " sslrootcert='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(file) + "'"
}

// argon2 are the costs of new hashes.
func argon2(c *conf.Config) hash.Argon2 {
	a := c.Tcpauthd.Argon2
	return hash.Argon2{Memory: uint32(a.Memory), Passes: uint32(a.Passes), Threads: uint8(a.Threads)}
}

// transferred is what a transfer into a store came to.
type transferred struct {
	added, replaced, bad, unverifiable int
	errors                             []error
	schemes                            []string
}

// transfer is a store whose users can be taken out and in.
type transfer interface {
	Close() error
	take(ctx context.Context, r io.Reader, progress func(lines, bytes int64)) (transferred, error)
	give(ctx context.Context, w io.Writer, progress func(lines, bytes int64)) error
	count() int // zero: not known
}

// errNoTransfer: a module keeps its users where only it knows.
var errNoTransfer = errors.New("a module's users cannot be imported or exported here: use the module's own tools")

// embedded is nwauth as a transfer.
type embedded struct{ *nwauth.DB }

func (e embedded) take(ctx context.Context, r io.Reader, progress func(lines, bytes int64)) (transferred, error) {
	done, err := e.Import(ctx, r, progress)
	return transferred{done.Added, done.Replaced, done.Bad, done.Unverifiable, done.Errors, done.Schemes}, err
}

func (e embedded) give(ctx context.Context, w io.Writer, progress func(lines, bytes int64)) error {
	return e.Export(ctx, w, progress)
}

func (e embedded) count() int { return e.Len() }

// shared is PostgreSQL as a transfer. Its records are read and written in
// NWAuth's text form too.
type shared struct{ *postgres.DB }

func (s shared) take(ctx context.Context, r io.Reader, progress func(lines, bytes int64)) (transferred, error) {
	counted := &counter{r: r}
	next, stop := iter.Pull2(nwauth.Records(counted))
	defer stop()
	known := make(map[string]bool) // why hashes cannot be verified
	var result transferred
	lines := int64(0)
	done, err := s.Import(ctx, func() (postgres.Record, error) {
		r, err, ok := next()
		if !ok {
			return postgres.Record{}, io.EOF
		}
		lines++
		if why := hash.Known(r.Hash); err == nil && why != nil {
			result.unverifiable++
			if text := why.Error(); !known[text] {
				known[text] = true
				result.schemes = append(result.schemes, text+", as of "+r.Name)
			}
		}
		return postgres.Record(r), err
	}, func(postgres.Imported) { progress(lines, counted.n) })
	result.added, result.replaced, result.bad, result.errors = done.Added, done.Replaced, done.Bad, done.Errors
	return result, err
}

func (s shared) give(ctx context.Context, w io.Writer, progress func(lines, bytes int64)) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	var line []byte
	var lines, bytes int64
	err := s.Export(ctx, func(r postgres.Record) error {
		line = nwauth.AppendRecord(line[:0], nwauth.Record(r))
		_, err := bw.Write(line)
		lines++
		bytes += int64(len(line))
		progress(lines, bytes)
		return err
	})
	return errors.Join(err, bw.Flush())
}

func (s shared) count() int {
	n, err := s.Count(context.Background())
	if err != nil {
		return 0
	}
	return n
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
