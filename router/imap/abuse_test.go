package imap

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/router"
	"switchyard/router/routertest"
)

// TestLoginDeadline holds the whole time before login against one that is
// named, whatever the client does meanwhile.
func TestLoginDeadline(t *testing.T) {
	for name, listener := range map[string]tlsconf.Mode{"silent": tlsconf.Off, "no handshake": tlsconf.Implicit} {
		t.Run(name, func(t *testing.T) {
			server, _ := routertest.TLS(t)
			cfg := clear(nil)
			cfg.Listener = router.Listener{TLS: listener, Config: server}
			cfg.Options.LoginTimeout = 50 * time.Millisecond
			p := routertest.Start(t, cfg)
			p.Play("HANG")
			check(t, p.Session(), map[string]any{"result": "timeout"})
		})
	}
	t.Run("busy", func(t *testing.T) {
		cfg := clear(nil)
		cfg.Options.LoginTimeout = 100 * time.Millisecond
		p := routertest.Start(t, cfg)
		conn := p.Dial()
		go io.Copy(io.Discard, conn)
		for {
			if _, err := io.WriteString(conn, "a"); err != nil {
				break
			}
		}
		if r := p.Session()["result"]; r != "timeout" && r != "protocol error" {
			t.Errorf("got %v", r)
		}
	})
}

// TestTenMegabytesBeforeLogin: memory stays bounded, whatever shape they have.
func TestTenMegabytesBeforeLogin(t *testing.T) {
	const size = 10 << 20
	for name, junk := range map[string]struct{ head, unit string }{
		"one line":         {"", "x"},
		"a literal":        {"a LOGIN {10000000+}\r\n", "x"},
		"many literals":    {"a LOGIN", " {1000+}\r\n" + strings.Repeat("x", 1000)},
		"empty literals":   {"a LOGIN", " {0+}\r\n"},
		"commands":         {"", "a NOOP\r\n"},
		"parentheses":      {"a ID ", "("},
		"a quoted string":  {`a LOGIN "`, `\"`},
		"SASL":             {"a AUTHENTICATE PLAIN\r\n", "QUFB"},
		"lines of nothing": {"", "\r\n"},
		"failed logins":    {"", "a LOGIN anna wrong\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := routertest.Start(t, clear(nil))
			conn := p.Dial()
			read := make(chan struct{})
			go func() {
				defer close(read)
				io.Copy(io.Discard, conn)
			}()
			chunk := []byte(strings.Repeat(junk.unit, 1+1<<16/len(junk.unit)))
			before := allocated()
			_, err := io.WriteString(conn, junk.head)
			for sent := 0; sent < size && err == nil; sent += len(chunk) {
				_, err = conn.Write(chunk) // breaks off when the proxy has had enough
			}
			conn.Close()
			<-read
			p.Session()
			if grown := allocated() - before; grown > 1<<20 {
				t.Errorf("allocated %d bytes for %d received", grown, size)
			}
		})
	}
}

// allocated returns all bytes ever allocated, so that garbage counts too.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// TestMemoryBeforeLogin holds the bound that router/admit states: what a client
// can make us keep.
func TestMemoryBeforeLogin(t *testing.T) {
	const sessions = 50
	for name, c := range map[string]struct {
		tls   bool
		send  string
		bound uint64 // bytes a session, both ends of it, as the client is here too
	}{
		"ordinary":          {false, "", 40 << 10},
		"half a literal":    {false, "a LOGIN {16000+}\r\n" + strings.Repeat("x", 15999), 128 << 10},
		"half a line":       {false, strings.Repeat("x", 16500), 128 << 10},
		"half a line, TLS":  {true, strings.Repeat("x", 16500), 192 << 10},
		"half a SASL reply": {false, "a AUTHENTICATE PLAIN\r\n" + strings.Repeat("x", 16000), 128 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := clear(nil)
			var client *tls.Config
			if c.tls {
				cfg, client = implicit(t, cfg)
			}
			cfg.Options.Admit.PerAddress = sessions
			p := routertest.Start(t, cfg)
			before := held()
			for range sessions {
				var conn net.Conn = p.Dial()
				if c.tls {
					conn = tls.Client(conn, client)
				}
				if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
					t.Fatal(err)
				}
				io.WriteString(conn, c.send)
			}
			grown := held()
			for deadline := time.Now().Add(50 * time.Millisecond); time.Now().Before(deadline); {
				grown = max(grown, held()) // the last bytes may be on their way
			}
			each := (max(grown, before) - before) / sessions
			t.Logf("%d bytes a session", each)
			if each > c.bound {
				t.Errorf("got %d bytes a session, want at most %d", each, c.bound)
			}
		})
	}
}

// held returns what is in use, stacks included.
func held() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
