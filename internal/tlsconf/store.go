package tlsconf

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Pair is a certificate chain and its key, both PEM.
type Pair struct{ CertFile, KeyFile string }

// StoreOptions for NewStore. The zero value works.
type StoreOptions struct {
	// Poll is how often Run looks whether a file has changed. Zero means a
	// minute.
	Poll time.Duration

	Logger *zap.Logger // nil: none
}

// Store holds certificates and takes over what replaces their files. It is safe
// for concurrent use.
type Store struct {
	o   StoreOptions
	now atomic.Pointer[table]

	mu          sync.Mutex // held to reload
	pairs       []Pair
	seen        [][2]stamp // the files that are in use, pair by pair
	bad         string     // what was last complained about
	authorities map[string]*authority
}

// authority is a file of CAs.
type authority struct {
	file string
	pool atomic.Pointer[x509.CertPool]
	seen stamp
}

// stamp is what shows that a file was replaced.
type stamp struct {
	modified time.Time
	size     int64
}

// table is the certificates of one moment, by the names that they are for.
type table struct {
	all   []*tls.Certificate
	files []string           // where they came from
	names map[string]*choice // lower case; wildcards with their *
	any   *choice            // for other names, and for clients that name none
}

// choice is the certificates that are for one name, for instance an ECDSA and an
// RSA one, in the order of the configuration.
type choice struct {
	certs  []*tls.Certificate
	digest []byte // of their keys
}

// NewStore loads the pairs. The first one also serves clients that ask for a name
// which none is for, or for no name.
func NewStore(pairs []Pair, o StoreOptions) (*Store, error) {
	if len(pairs) == 0 {
		return nil, errors.New("no certificate is given")
	}
	if o.Poll == 0 {
		o.Poll = time.Minute
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	s := &Store{o: o, pairs: pairs, authorities: make(map[string]*authority)}
	return s, s.Reload()
}

// Use replaces the pairs by others, in the same way as Reload: all or none.
func (s *Store) Use(pairs []Pair) error {
	if len(pairs) == 0 {
		return errors.New("no certificate is given")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.pairs
	s.pairs = pairs
	err := s.load()
	if err != nil {
		s.pairs = before
	}
	return err
}

// Reload reads all files again, whether they have changed or not. All are taken
// over or none: on an error, which is logged too unless it was the last one that
// was, what is in use stays in use.
func (s *Store) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load()
}

// Run takes over files that change, until ctx ends, and returns nil then. What
// has become of a file is looked at by time and size, so that a file on any file
// system will do.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(s.o.Poll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.poll()
		case <-ctx.Done():
			return nil
		}
	}
}

// poll reloads if a file has changed.
func (s *Store) poll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for i, p := range s.pairs {
		changed = changed || s.seen[i] != [2]stamp{stampOf(p.CertFile), stampOf(p.KeyFile)}
	}
	for _, a := range s.authorities {
		changed = changed || a.seen != stampOf(a.file)
	}
	if changed {
		s.load()
	}
}

// load reads all files. The caller holds mu.
func (s *Store) load() error {
	err := s.tryLoad()
	switch {
	case err == nil:
		s.bad = ""
	case s.now.Load() == nil: // the caller's to report
	case s.bad != err.Error():
		s.bad = err.Error()
		s.o.Logger.Error("certificates cannot be reloaded: the old ones stay in use", zap.Error(err))
	}
	return err
}

func (s *Store) tryLoad() error {
	seen := make([][2]stamp, len(s.pairs))
	certs := make([]*tls.Certificate, len(s.pairs))
	for i, p := range s.pairs {
		// The stamps are taken first: a file that is replaced meanwhile is
		// read once more.
		seen[i] = [2]stamp{stampOf(p.CertFile), stampOf(p.KeyFile)}
		var err error
		if certs[i], err = loadPair(p); err != nil {
			return err
		}
	}
	pools := make(map[*authority]*x509.CertPool)
	stamps := make(map[*authority]stamp)
	for _, a := range s.authorities {
		stamps[a] = stampOf(a.file)
		pool, err := readPool(a.file)
		if err != nil {
			return err
		}
		pools[a] = pool
	}
	again := s.now.Load() != nil
	next := newTable(certs)
	for _, p := range s.pairs {
		next.files = append(next.files, p.CertFile)
	}
	s.now.Store(next)
	s.seen = seen
	for a, pool := range pools {
		if a.seen = stamps[a]; !pool.Equal(a.pool.Load()) {
			a.pool.Store(pool)
		}
	}
	if again {
		s.o.Logger.Info("certificates reloaded", zap.Int("certificates", len(certs)))
	}
	return nil
}

// authority returns the CAs of a file, which is watched from then on.
func (s *Store) authority(file string) (*authority, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.authorities[file]; a != nil {
		return a, nil
	}
	a := &authority{file: file, seen: stampOf(file)}
	pool, err := readPool(file)
	if err != nil {
		return nil, err
	}
	a.pool.Store(pool)
	s.authorities[file] = a
	return a, nil
}

func stampOf(file string) stamp {
	info, err := os.Stat(file)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size()}
}

func loadPair(p Pair) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate %s with key %s: %w", p.CertFile, p.KeyFile, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, fmt.Errorf("load certificate %s: %w", p.CertFile, err)
		}
	}
	return &pair, nil
}

func newTable(certs []*tls.Certificate) *table {
	t := &table{all: certs, names: make(map[string]*choice)}
	for _, c := range certs {
		names := c.Leaf.DNSNames
		for _, ip := range c.Leaf.IPAddresses {
			names = append(names[:len(names):len(names)], ip.String())
		}
		for _, name := range names {
			name = strings.ToLower(name)
			if t.names[name] == nil {
				t.names[name] = &choice{}
			}
			t.names[name].certs = append(t.names[name].certs, c)
		}
	}
	for _, c := range t.names {
		c.sum()
	}
	// The default: the first certificate, and those that are for all its
	// names too, with another kind of key.
	t.any = &choice{certs: certs[:1]}
	if names := certs[0].Leaf.DNSNames; len(names) > 0 {
		t.any = t.names[strings.ToLower(names[0])]
	}
	t.any.sum()
	return t
}

// sum notes the digest of the keys.
func (c *choice) sum() {
	h := sha256.New()
	for _, cert := range c.certs {
		h.Write(cert.Leaf.RawSubjectPublicKeyInfo)
	}
	c.digest = h.Sum(nil)
}

// choose returns the certificates for a name: those that have it, else those
// whose wildcard stands for its first label (RFC 9525 §6.3), else the default.
func (t *table) choose(name string) *choice {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if c := t.names[name]; c != nil {
		return c
	}
	if _, domain, found := strings.Cut(name, "."); found {
		if c := t.names["*."+domain]; c != nil {
			return c
		}
	}
	return t.any
}

// certificate is a tls.Config.GetCertificate.
func (s *Store) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certs := s.now.Load().choose(hello.ServerName).certs
	if len(certs) > 1 {
		for _, c := range certs {
			if hello.SupportsCertificate(c) == nil {
				return shown(hello.Context(), c), nil
			}
		}
	}
	return shown(hello.Context(), certs[0]), nil
}

// serving returns the digest of the keys that serve a name.
func (s *Store) serving(name string) []byte { return s.now.Load().choose(name).digest }

// first is a tls.Config.GetClientCertificate.
func (s *Store) first(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return s.now.Load().all[0], nil
}

// Status is a certificate that is in use.
type Status struct {
	File    string
	Names   []string
	Expires time.Time
}

// Certificates describes what is in use, in the order of the pairs.
func (s *Store) Certificates() []Status {
	var out []Status
	now := s.now.Load()
	for i, c := range now.all {
		out = append(out, Status{File: now.files[i], Names: c.Leaf.DNSNames, Expires: c.Leaf.NotAfter})
	}
	return out
}

// Warnings says which certificates expire within a time, or have expired.
func (s *Store) Warnings(within time.Duration) (out []string) {
	for _, c := range s.Certificates() {
		switch left := time.Until(c.Expires); {
		case left <= 0:
			out = append(out, fmt.Sprintf("certificate %s expired on %s", c.File, c.Expires.UTC().Format(time.DateOnly)))
		case left < within:
			out = append(out, fmt.Sprintf("certificate %s expires on %s", c.File, c.Expires.UTC().Format(time.DateOnly)))
		}
	}
	return out
}
