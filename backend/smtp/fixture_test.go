package smtp

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/backend"
	"switchyard/backend/access"
	"switchyard/backend/queue"
	"switchyard/backend/store"
	"switchyard/lookup"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// directory is a fixed set of accounts; err, when set, is its only answer.
type directory struct {
	mu       sync.Mutex
	accounts map[string]lookup.Account
	err      error
}

const password = "sesame street"

func (d *directory) set(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *directory) Lookup(_ context.Context, name string) (lookup.Account, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return lookup.Account{}, d.err
	}
	a, ok := d.accounts[name]
	if !ok {
		return a, lookup.ErrAbsent
	}
	return a, nil
}

func (d *directory) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	a, err := d.Lookup(ctx, c.Name)
	if errors.Is(err, lookup.ErrAbsent) || err == nil && c.Password != password {
		return lookup.Account{}, lookup.ErrRejected
	}
	return a, err
}

func accounts() map[string]lookup.Account {
	m := make(map[string]lookup.Account)
	for name, a := range map[string]lookup.Account{
		"anna": {Home: "b1"}, "ben": {Home: "b1"}, "far": {Home: "b2", Generation: 3},
		"eve": {Home: "b1", Status: lookup.StatusSuspended}, "closed": {Home: "b1", Status: lookup.StatusClosed},
	} {
		a.Name = name + "@here.test"
		m[a.Name] = a
	}
	return m
}

// node is a backend node: a real store in memory, with its gate, its queue and
// both servers.
type node struct {
	t      testing.TB
	dir    *directory
	fs     vfs.FS
	store  *store.Store
	gate   *access.Gate
	queue  *queue.Queue
	lmtp   *LMTP
	subm   *Submission
	logs   *observer.ObservedLogs
	client *tls.Config
	stop   func()
	errs   chan error // what was fatal
}

// settings of a node; the zero value works.
type settings struct {
	fs    vfs.FS
	store store.Options
	queue queue.Options
	smtp  Options
	still bool // the queue does not run
	dir   *directory
}

func newNode(t testing.TB, s settings) *node {
	t.Helper()
	if s.dir == nil {
		s.dir = &directory{accounts: accounts()}
	}
	n := &node{t: t, dir: s.dir, fs: s.fs, errs: make(chan error, 10)}
	if n.fs == nil {
		n.fs = vfs.NewMem()
	}
	s.store.FS, s.store.MemTable, s.store.BlockCache = n.fs, 1<<20, 1<<20
	s.store.Fatal = func(err error) { n.errs <- err }
	var err error
	if n.store, err = store.Open("store", s.store); err != nil {
		t.Fatal(err)
	}
	n.gate = access.New("b1", n.dir, n.store, access.Options{
		ProxyName: "proxy", ProxySecret: "cluster secret",
		ProxyNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, DefaultDomain: "here.test",
	})
	s.queue.Domains, s.queue.Hostname = []string{"here.test"}, "b1a.here.test"
	if n.queue, err = queue.New(context.Background(), n.store, n.gate, s.queue); err != nil {
		t.Fatal(err)
	}
	var server *tls.Config
	server, n.client = certificate(t)
	core, logs := observer.New(zap.InfoLevel)
	n.logs = logs
	s.smtp.Hostname, s.smtp.Node, s.smtp.TLS, s.smtp.Logger = "b1a.here.test", "b1a", server, zap.New(core)
	n.lmtp, n.subm = NewLMTP(n.gate, n.queue, s.smtp), NewSubmission(n.gate, n.queue, s.smtp)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !s.still {
			n.queue.Run(ctx)
		}
	}()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			<-done
			if err := n.store.Close(); err != nil {
				t.Errorf("close the store: %v", err)
			}
		})
	}
	t.Cleanup(n.stop)
	return n
}

// inbox returns the messages of an account.
func (n *node) inbox(name string) []string {
	n.t.Helper()
	ctx := context.Background()
	u, err := n.store.User(ctx, name+"@here.test")
	if errors.Is(err, backend.ErrNoUser) {
		return nil
	}
	if err != nil {
		n.t.Fatal(err)
	}
	box, err := u.Mailbox(ctx, backend.Inbox)
	if err != nil {
		n.t.Fatal(err)
	}
	view, err := u.View(ctx, box.ID)
	if err != nil {
		n.t.Fatal(err)
	}
	var out []string
	for _, m := range view.Messages.All() {
		b, err := u.Body(ctx, box.ID, m.UID)
		if err != nil {
			n.t.Fatal(err)
		}
		raw, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
		b.Close()
		if err != nil {
			n.t.Fatal(err)
		}
		out = append(out, string(raw))
	}
	return out
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for tick := time.NewTicker(2 * time.Millisecond); !f(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// certificate makes a self-signed certificate for 127.0.0.1 and a client
// configuration that trusts it.
func certificate(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "smtp test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
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
		&tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}

// client speaks to a server over loopback.
type client struct {
	t    testing.TB
	nc   net.Conn
	r    *bufio.Reader
	tls  *tls.Config
	done chan struct{} // closed when the session has ended
}

func (n *node) dial(ctx context.Context, local string, serve func(context.Context, net.Conn)) *client {
	n.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	defer ln.Close()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
	nc, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		n.t.Fatal(err)
	}
	sc, err := ln.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	c := &client{t: n.t, nc: nc, r: bufio.NewReader(nc), tls: n.client, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		serve(ctx, sc)
	}()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	n.t.Cleanup(func() { nc.Close(); <-c.done })
	return c
}

// secured opens a session with TLS from the first byte.
func (n *node) secured(serve func(context.Context, net.Conn)) *client {
	n.t.Helper()
	c := n.dial(context.Background(), "127.0.0.1", serve)
	c.secure()
	return c
}

func (c *client) secure() {
	c.t.Helper()
	tc := tls.Client(c.nc, c.tls)
	if err := tc.Handshake(); err != nil {
		c.t.Fatalf("handshake: %v", err)
	}
	c.nc, c.r = tc, bufio.NewReader(tc)
}

// run plays a dialogue: "C: …" is sent, "S: …" is expected (a * stands for
// anything), "S- …" expects a reply of which some line fits and reads all of
// it, "TLS" does a handshake, "EOF" expects the end of the connection.
func (c *client) run(script string) {
	c.t.Helper()
	var out strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(script), "\n") {
		kind, text, _ := strings.Cut(strings.TrimLeft(line, "\t "), " ")
		if kind != "C:" && out.Len() > 0 {
			io.WriteString(c.nc, out.String())
			out.Reset()
		}
		switch kind {
		case "C:":
			out.WriteString(text + "\r\n")
		case "S:":
			if got := c.line(); !fits(text, got) {
				c.t.Fatalf("got %q, want %q", got, text)
			}
		case "S-":
			found := false
			var all []string
			for {
				got := c.line()
				all = append(all, got)
				found = found || fits(text, got[min(4, len(got)):])
				if len(got) < 4 || got[3] != '-' {
					break
				}
			}
			if !found {
				c.t.Fatalf("got %q, want a line %q", all, text)
			}
		case "TLS":
			c.secure()
		case "EOF":
			if rest, _ := io.ReadAll(c.r); len(rest) > 0 {
				c.t.Fatalf("want the end, got %q", rest)
			}
			<-c.done
		case "":
		default:
			c.t.Fatalf("no such step: %q", line)
		}
	}
	io.WriteString(c.nc, out.String())
}

func (c *client) line() string {
	c.t.Helper()
	got, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("got %q and %v", got, err)
	}
	return strings.TrimSuffix(got, "\r\n")
}

func fits(pattern, s string) bool {
	escape := strings.NewReplacer("[", `\[`, "?", `\?`, "/", "|", `\`, `\\`)
	ok, err := path.Match(escape.Replace(pattern), strings.ReplaceAll(s, "/", "|"))
	return err == nil && ok
}
