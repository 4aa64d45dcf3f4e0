package imap

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/backend"
	"switchyard/backend/access"
	"switchyard/backend/store"
	"switchyard/backend/textindex"
	"switchyard/internal/server"
	"switchyard/lookup"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// directory is a small one whose moods a test sets.
type directory struct {
	accounts map[string]lookup.Account
	down     atomic.Bool
}

var errOdd = errors.New("something nobody thought of")

func (d *directory) Lookup(_ context.Context, name string) (lookup.Account, error) {
	if d.down.Load() {
		return lookup.Account{}, lookup.Unavailable("ask the test", errors.New("down"))
	}
	a, ok := d.accounts[name]
	if !ok {
		return a, lookup.ErrAbsent
	}
	return a, nil
}

func (d *directory) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	if c.Name == "odd@example.test" {
		return lookup.Account{}, errOdd
	}
	a, err := d.Lookup(ctx, c.Name)
	if err != nil && !errors.Is(err, lookup.ErrAbsent) {
		return a, err
	}
	if err != nil || c.Password != "secret" {
		return a, lookup.ErrRejected
	}
	return a, nil
}

// fixture is a server on loopback over a store in memory.
type fixture struct {
	addr  string
	srv   *Server
	store *store.Store
	dir   *directory
	logs  *observer.ObservedLogs
	tls   *tls.Config // the client's
	stop  func()      // stops the server and waits
}

// wrap lets a test put something between gate and store.
type wrap func(backend.Store) backend.Store

func start(t testing.TB, o Options, wraps ...wrap) *fixture {
	t.Helper()
	st, err := store.Open("store", store.Options{FS: vfs.NewMem(), MaxMessage: 100 << 20, MemTable: 1 << 20, Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{store: st, dir: &directory{accounts: map[string]lookup.Account{}}}
	for _, name := range []string{"ada", "bob", "carol"} {
		f.dir.accounts[name+"@example.test"] = lookup.Account{Name: name + "@example.test", Home: "b1"}
	}
	f.dir.accounts["moved@example.test"] = lookup.Account{Name: "moved@example.test", Home: "b2"}
	f.dir.accounts["closed@example.test"] = lookup.Account{Name: "closed@example.test", Home: "b1", Status: lookup.StatusSuspended}
	var s backend.Store = st
	for _, w := range wraps {
		s = w(s)
	}
	gate := access.New("b1", f.dir, s, access.Options{
		ProxyName: "proxy", ProxySecret: "joint", ProxyNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	core, logs := observer.New(zap.InfoLevel)
	f.logs = logs
	o.Logger = zap.New(core)
	o.Hostname = "b1.example.test"
	o.SpoolDir = t.TempDir()
	if o.Index, err = textindex.Open("index", textindex.Options{FS: vfs.NewMem()}); err != nil {
		t.Fatal(err)
	}
	o.TLS, f.tls = testTLS(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	srv := New(gate, o)
	f.srv = srv
	go func() { done <- server.Run(ctx, ln, server.Options{Logger: o.Logger}, srv.Serve) }()
	stopped := false
	f.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() {
		f.stop()
		if err := o.Index.Close(); err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// user opens a user's mail past the server.
func (f *fixture) user(t testing.TB, name string) backend.User {
	t.Helper()
	u, err := f.store.CreateUser(t.Context(), name+"@example.test", 0)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// append puts a message into a mailbox past the server.
func (f *fixture) append(t testing.TB, user, mailbox, text string, flags ...string) backend.Appended {
	t.Helper()
	done, err := f.user(t, user).Append(t.Context(), mailbox, []backend.Incoming{{
		Body: strings.NewReader(text), Size: int64(len(text)), Flags: flags,
		InternalDate: time.Date(2026, 3, 2, 9, 15, 0, 0, time.UTC),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return done[0]
}

// testMessage loads a message of the project's testdata.
func testMessage(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../testdata/messages", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func testTLS(t testing.TB) (srv, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"test"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: pool, ServerName: "test"}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
