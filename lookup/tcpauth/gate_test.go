package tcpauth

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

func listen(t *testing.T, address ...string) net.Listener {
	t.Helper()
	at := "127.0.0.1:0"
	if len(address) > 0 {
		at = address[0]
	}
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// gate stands in front of a server and can take it away.
type gate struct {
	address, target string

	mu      sync.Mutex
	mode    string // "open", "closed" or "hanging"
	conns   map[net.Conn]struct{}
	wg      sync.WaitGroup
	dialled int
}

func newGate(t *testing.T, target string) *gate {
	t.Helper()
	ln := listen(t)
	g := &gate{address: ln.Addr().String(), target: target, mode: "open", conns: make(map[net.Conn]struct{})}
	g.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			g.wg.Go(func() { g.relay(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		g.set("closed")
		g.wg.Wait()
	})
	return g
}

// set changes the mode. Connections that are there are cut, except that a
// hanging gate keeps them and passes nothing on.
func (g *gate) set(mode string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if mode != "hanging" {
		for conn := range g.conns {
			conn.Close()
		}
	}
	g.mode = mode
}

func (g *gate) is(mode string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mode == mode
}

func (g *gate) track(conns ...net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range conns {
		g.conns[conn] = struct{}{}
	}
	if g.mode == "closed" {
		for _, conn := range conns {
			conn.Close()
		}
	}
}

func (g *gate) relay(client net.Conn) {
	defer client.Close()
	g.mu.Lock()
	g.dialled++
	g.mu.Unlock()
	g.track(client)
	if g.is("hanging") {
		io.Copy(io.Discard, client)
		return
	}
	if g.is("closed") {
		return
	}
	server, err := net.Dial("tcp", g.target)
	if err != nil {
		return
	}
	g.track(server)
	var wg sync.WaitGroup
	wg.Go(func() { g.pass(server, client) })
	g.pass(client, server)
	wg.Wait()
}

func (g *gate) pass(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if g.is("hanging") {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// actor is a server whose every answer the test writes.
type actor struct {
	address string

	mu    sync.Mutex
	lines []string // what it was asked, without version
	conns int
}

// newActor starts one. answer gets each line but version and the number of
// the connection, from 1; it writes the answer itself and returns false to
// close the connection. A nil version answer means that of an old server.
func newActor(t *testing.T, version string, answer func(w io.Writer, line string, conn int) bool) *actor {
	t.Helper()
	ln := listen(t)
	a := &actor{address: ln.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			a.mu.Lock()
			a.conns++
			n := a.conns
			a.mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				lines := bufio.NewScanner(conn)
				for lines.Scan() {
					if lines.Text() == "version" {
						io.WriteString(conn, version+"\n")
						continue
					}
					a.mu.Lock()
					a.lines = append(a.lines, lines.Text())
					a.mu.Unlock()
					if !answer(conn, lines.Text(), n) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return a
}

func (a *actor) asked() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.lines...)
}

func (a *actor) connections() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conns
}

// right is the right answer to a lookup or a check: the home is b1.
func right(line string) string {
	name := strings.Split(line, " ")[1]
	return "+OK " + name + " config 0 tohost=\"b1\"\n"
}
