package routertest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"time"

	"switchyard/router"
	"switchyard/router/splice"
	"switchyard/router/upstream"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// T is what is used of a testing.T, so that a rapid.T will do too.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Config is what Start makes a router of.
type Config struct {
	Protocol  router.Protocol
	Listener  router.Listener // Name and Protocol are filled in
	Options   router.Options  // Logger is filled in; no FailureDelay means none
	Upstream  upstream.Options
	Backends  []upstream.Backend
	Directory router.Directory // nil: an empty one
	TLS       *tls.Config      // for clients' TLS step
	Net       net.Listener     // nil: loopback TCP

	// Wrap may put something between the router and its backends.
	Wrap func(router.Upstream) router.Upstream
}

// Proxy is a running router with one listener.
type Proxy struct {
	Addr   string
	Router *router.Router
	Logs   *observer.ObservedLogs

	t      T
	config *tls.Config
	loop   *splice.Loop // nil with a Config's Net: pipes cannot be parked
	stop   context.CancelFunc
	done   chan error
}

// Start starts a router. It is stopped, and waited for, when the test ends.
func Start(t T, c Config) *Proxy {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	log := zap.New(core)
	if c.Directory == nil {
		c.Directory = NewDirectory()
	}
	if c.Upstream.ProxyName == "" {
		c.Upstream.ProxyName, c.Upstream.ProxySecret = "proxy", Secret
	}
	c.Upstream.Logger, c.Options.Logger = log, log
	if c.Options.FailureDelay == 0 {
		c.Options.FailureDelay = -1
	}
	if c.Options.Hostname == "" {
		c.Options.Hostname = "px1.example.test"
	}
	ln, err := c.Net, error(nil)
	if ln == nil {
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if c.Options.Loop, err = splice.NewLoop(splice.LoopOptions{}); err != nil {
			t.Fatal(err)
		}
		if c.Upstream.Dial == nil {
			c.Upstream.Dial = c.Options.Loop.Dial
		}
	}
	set, err := upstream.New(c.Backends, c.Upstream)
	if err != nil {
		t.Fatal(err)
	}
	var up router.Upstream = set
	if c.Wrap != nil {
		up = c.Wrap(set)
	}
	c.Listener.Name, c.Listener.Protocol = "test", c.Protocol
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{
		Addr: ln.Addr().String(), Router: router.New(c.Directory, up, c.Options), Logs: logs,
		t: t, config: c.TLS, loop: c.Options.Loop, stop: cancel, done: make(chan error, 1),
	}
	go func() { p.done <- p.Router.Serve(ctx, ln, c.Listener) }()
	t.Cleanup(p.Stop)
	return p
}

// Stop stops the router and waits for its sessions. It may be called twice.
func (p *Proxy) Stop() {
	p.stop()
	err, ok := <-p.done
	if !ok {
		return
	}
	close(p.done)
	if err != nil {
		p.t.Errorf("router: %v", err)
	}
	if p.loop != nil {
		p.loop.Close(nil)
	}
}

// Drain begins to stop the router, without waiting.
func (p *Proxy) Drain() { p.stop() }

// Dial connects to the router.
func (p *Proxy) Dial() *net.TCPConn {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.Addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// Play plays the client's side of a script on a new connection.
func (p *Proxy) Play(script string) {
	p.t.Helper()
	p.PlayOn(p.Dial(), script)
}

// PlayOn plays the client's side of a script on conn, and closes it.
func (p *Proxy) PlayOn(conn net.Conn, script string) {
	p.t.Helper()
	PlayClient(p.t, conn, p.config, script)
}

// Sessions waits until n sessions have ended and returns their lines in the
// log.
func (p *Proxy) Sessions(n int) []map[string]any {
	p.t.Helper()
	deadline := time.Now().Add(stepTimeout)
	for {
		lines := p.Logs.FilterMessage("session").All()
		if len(lines) >= n {
			var out []map[string]any
			for _, l := range lines {
				out = append(out, l.ContextMap())
			}
			return out
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("got %d lines for sessions, want %d", len(lines), n)
		}
		time.Sleep(time.Millisecond)
	}
}

// Session waits for one session's line.
func (p *Proxy) Session() map[string]any {
	p.t.Helper()
	return p.Sessions(1)[0]
}

// TLS makes a certificate for 127.0.0.1, and configurations that use and trust
// it.
func TLS(t T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	return server, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
}
