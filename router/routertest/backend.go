package routertest

import (
	"crypto/tls"
	"net"
	"sync"

	"switchyard/internal/tlsconf"
	"switchyard/router/upstream"
)

// Secret is what routers that Start makes log in with, as "proxy".
const Secret = "proxy-secret"

// Backend is a node that plays a script to each connection.
type Backend struct {
	Addr string

	t      T
	config *tls.Config
	ln     net.Listener
	wg     sync.WaitGroup

	mu      sync.Mutex
	scripts []string
	calls   int
	heard   []string
	open    map[net.Conn]struct{}
}

// NewBackend starts a node. The first connection gets the first script and so
// on; the last script is played to all that follow. config is for the TLS step
// and may be nil. A script that does not end as written fails the test.
func NewBackend(t T, config *tls.Config, scripts ...string) *Backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &Backend{Addr: ln.Addr().String(), t: t, config: config, ln: ln, scripts: scripts, open: make(map[net.Conn]struct{})}
	b.wg.Add(1)
	go b.accept()
	t.Cleanup(b.stop)
	return b
}

func (b *Backend) accept() {
	defer b.wg.Done()
	for {
		conn, err := b.ln.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		script := b.scripts[min(b.calls, len(b.scripts)-1)]
		b.calls++
		b.open[conn] = struct{}{}
		b.mu.Unlock()
		b.wg.Add(1)
		go b.serve(conn, script)
	}
}

func (b *Backend) serve(conn net.Conn, script string) {
	defer b.wg.Done()
	defer func() {
		conn.Close()
		b.mu.Lock()
		delete(b.open, conn)
		b.mu.Unlock()
	}()
	p := newPlayer(conn, "S", b.config)
	p.heard = func(line string) {
		b.mu.Lock()
		b.heard = append(b.heard, line)
		b.mu.Unlock()
	}
	if err := p.play(script); err != nil {
		b.t.Errorf("backend's script: %v", err)
	}
	if tc, ok := p.conn.(*tls.Conn); ok {
		tc.CloseWrite()
	}
}

// stop waits for the scripts to end.
func (b *Backend) stop() {
	b.ln.Close()
	b.wg.Wait()
}

// Calls returns how many connections were made.
func (b *Backend) Calls() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

// Heard returns the lines received so far, over all connections.
func (b *Backend) Heard() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.heard...)
}

// Node describes the node to an upstream.Set.
func (b *Backend) Node(name string, service upstream.Service, mode tlsconf.Mode, config *tls.Config) upstream.Node {
	return upstream.Node{Name: name, Services: map[upstream.Service]upstream.Endpoint{
		service: {Address: b.Addr, TLS: mode, Config: config},
	}}
}
