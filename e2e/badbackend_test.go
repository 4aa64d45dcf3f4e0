package e2e

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"switchyard/internal/harness"

	"golang.org/x/sync/errgroup"
)

// badBackends are servers that are none, by name.
var badBackends = map[string]func(net.Conn){
	"silent":  func(conn net.Conn) { io.Copy(io.Discard, conn) },
	"rubbish": func(conn net.Conn) { conn.Write(junk(64 << 10)); io.Copy(io.Discard, conn) },
	"endless": func(conn net.Conn) {
		for line := strings.Repeat("x", 4096); ; {
			if _, err := io.WriteString(conn, line); err != nil {
				return
			}
		}
	},
	"gone": func(net.Conn) {},
}

// serveBad starts a server of that kind and returns its address.
func serveBad(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(loopback(t), "0"))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			all.Go(func() { defer conn.Close(); serve(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return ln.Addr().String()
}

// TestBadBackend: behind a backend that says nothing, or rubbish, or hangs up,
// users are told "not now", and those of other backends do not notice.
func TestBadBackend(t *testing.T) {
	slow(t)
	var foreign strings.Builder
	for name, serve := range badBackends {
		a := serveBad(t, serve)
		fmt.Fprintf(&foreign, "[[backend]]\nname = %q\n[[backend.node]]\ntls = \"off\"\nimap = %[2]q\npop3 = %[2]q\nsubmission = %[2]q\nlmtp = %[2]q\n", name, a)
	}
	c := start(t, harness.Spec{Foreign: foreign.String()})
	w := c.witness(t)
	var all errgroup.Group
	for name := range badBackends {
		a := c.account(t, name, name)
		plainSASL := base64.StdEncoding.EncodeToString([]byte("\x00" + a.Name + "\x00" + a.Password))
		for protocol, s := range map[string]struct{ say, want string }{
			"imap":       {fmt.Sprintf("a LOGIN %s %s\r\nz LOGOUT\r\n", a.Name, a.Password), "\na NO [UNAVAILABLE]"},
			"pop3":       {fmt.Sprintf("USER %s\r\nPASS %s\r\nQUIT\r\n", a.Name, a.Password), "\n-ERR [SYS/TEMP]"},
			"submission": {fmt.Sprintf("EHLO client\r\nAUTH PLAIN %s\r\nQUIT\r\n", plainSASL), "\n454 4.7.0"},
			"smtp":       {fmt.Sprintf("EHLO client\r\nMAIL FROM:<x@example.org>\r\nRCPT TO:<%s>\r\nQUIT\r\n", a.Name), "\n451 4.4.1"},
		} {
			k := plain(t, c.Proxies[0].Addr[protocol])
			k.send(s.say)
			all.Go(func() error {
				if heard := k.end(); !strings.Contains(heard, s.want) {
					return fmt.Errorf("%s backend, %s: heard %q, want %q", name, protocol, heard, s.want)
				}
				return nil
			})
		}
		w.fine(t)
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	w.fine(t)
}
