package router_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/admit"
	"switchyard/router/routertest"
	"switchyard/router/upstream"

	"go.uber.org/goleak"
	"go.uber.org/zap/zapcore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// talk is a protocol as small as can be: a line with a name and a password,
// and the answer's kind.
type talk struct{}

func (talk) Name() string { return "talk" }
func (talk) Busy() string { return "busy\r\n" }

func (talk) Serve(ctx context.Context, s *router.Session) error {
	if err := s.Conn.Line("hello %s", s.Client.Addr()); err != nil {
		return err
	}
	for !s.Exhausted() {
		line, err := s.Conn.ReadLine(1000)
		if err != nil {
			return err
		}
		name, password, _ := strings.Cut(string(line), " ")
		switch name {
		case "panic":
			panic("as told")
		case "bye":
			return nil
		}
		account, err := s.Check(ctx, name, password)
		if err == nil {
			err = openAndJoin(ctx, s, account)
			if err == nil || !errors.Is(err, errOpen) {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.Conn.Line("%d", router.KindOf(err)); err != nil {
			return err
		}
	}
	return nil
}

var errOpen = errors.New("open")

func openAndJoin(ctx context.Context, s *router.Session, account lookup.Account) error {
	b, err := s.Open(ctx, account, upstream.IMAP, func(_ context.Context, b *router.Back, a lookup.Account) error {
		if err := b.Conn.Line("user %s generation %d", a.Name, s.Origin(a.Generation).Generation); err != nil {
			return err
		}
		line, err := b.Conn.ReadLine(1000)
		if err != nil {
			return fmt.Errorf("%w: %w", router.ErrBackend, err)
		}
		if string(line) == "moved" {
			return router.ErrMoved
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errOpen, err)
	}
	defer b.Close()
	s.Conn.Printf("joined\r\n")
	return s.Join(ctx, b)
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func directory() *routertest.Directory {
	d := routertest.NewDirectory()
	d.Add(lookup.Account{Name: "anna@example.test", Home: "b2", Generation: 3}, "sesame")
	d.Add(lookup.Account{Name: "berta@example.test"}, "sesame")
	d.Add(lookup.Account{Name: "erna@example.test", Home: "b9"}, "sesame")
	return d
}

func config() routertest.Config {
	return routertest.Config{
		Protocol: talk{}, Directory: directory(),
		Options: router.Options{DefaultDomain: "example.test", DefaultBackend: "b1"},
	}
}

func read(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(line, "\r\n")
}

// TestProxyHeader: required or off, from named networks only.
func TestProxyHeader(t *testing.T) {
	elsewhere := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x09\xc6\x33\x64\x01\xc3\x50\x03\xe1"
	for name, c := range map[string]struct {
		required bool
		networks []netip.Prefix
		send     string
		hello    string // empty: closed without a word
		client   string
		result   string
	}{
		"off":                         {false, nil, "", "hello 127.0.0.1", "", "no login"},
		"v1":                          {true, loopback, "PROXY TCP4 192.0.2.9 198.51.100.1 50000 993\r\n", "hello 192.0.2.9", "192.0.2.9:50000", "no login"},
		"v2":                          {true, loopback, v2, "hello 192.0.2.9", "192.0.2.9:50000", "no login"},
		"health check":                {true, loopback, "PROXY UNKNOWN\r\n", "hello 127.0.0.1", "", "no login"},
		"required and not there":      {true, loopback, "anna sesame and more\r\n", "", "", "protocol error"},
		"from the wrong network":      {true, elsewhere, "PROXY TCP4 192.0.2.9 198.51.100.1 50000 993\r\n", "", "", "protocol error"},
		"no networks":                 {true, nil, "PROXY TCP4 192.0.2.9 198.51.100.1 50000 993\r\n", "", "", "protocol error"},
		"never sent":                  {true, loopback, "PROXY TC", "", "", "timeout"},
		"a forgery where none is due": {false, loopback, "PROXY TCP4 192.0.2.9 198.51.100.1 50000 993\r\n", "hello 127.0.0.1", "", "no login"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			cfg.Listener.ProxyProtocol, cfg.Listener.ProxyNetworks = c.required, c.networks
			cfg.Options.HeaderTimeout = 100 * time.Millisecond
			p := routertest.Start(t, cfg)
			conn := p.Dial()
			io.WriteString(conn, c.send)
			if c.hello != "" {
				r := bufio.NewReader(conn)
				if got := read(t, r); got != c.hello {
					t.Errorf("got %q, want %q", got, c.hello)
				}
				if !c.required && c.send != "" { // it is a login that fails, no more
					if got := read(t, r); got != fmt.Sprint(int(router.Rejected)) {
						t.Errorf("got %q", got)
					}
					c.result = "login rejected"
				}
				io.WriteString(conn, "bye\r\n")
			}
			if rest, _ := io.ReadAll(conn); len(rest) > 0 {
				t.Errorf("got %q, want the end", rest)
			}
			line := p.Session()
			if line["result"] != c.result || c.client != "" && line["client"] != c.client {
				t.Errorf("got %v", line)
			}
		})
	}
}

// TestProxyHeaderInFrontOfTLS: the header is read to the byte.
func TestProxyHeaderInFrontOfTLS(t *testing.T) {
	server, client := routertest.TLS(t)
	cfg := config()
	cfg.TLS = client
	cfg.Listener = router.Listener{ProxyProtocol: true, ProxyNetworks: loopback, TLS: tlsconf.Implicit, Config: server}
	p := routertest.Start(t, cfg)
	p.Play("C- PROXY TCP4 192.0.2.9 198.51.100.1 50000 993\\r\\n\nTLS\nS: hello 192.0.2.9\nC: bye\nEOF")
	if line := p.Session(); line["tls"] != true {
		t.Errorf("got %v", line)
	}
}

// TestPlacesBeforeLogin: in all, and from one address.
func TestPlacesBeforeLogin(t *testing.T) {
	for name, o := range map[string]admit.Options{"total": {Total: 1}, "address": {PerAddress: 1}} {
		t.Run(name, func(t *testing.T) {
			backend := routertest.NewBackend(t, nil, "C: user *\nS: welcome\nEOF")
			cfg := config()
			cfg.Options.Admit = o
			cfg.Backends = one("b2", backend)
			p := routertest.Start(t, cfg)
			first := p.Dial()
			r := bufio.NewReader(first)
			read(t, r)
			p.Play("S: busy\nEOF")
			if got := p.Session()["result"]; got != "too many sessions" {
				t.Errorf("got %v", got)
			}
			// Behind its login the first takes no place any more.
			io.WriteString(first, "anna sesame\r\n")
			if got := read(t, r); got != "joined" {
				t.Errorf("got %q", got)
			}
			p.Play("S: hello 127.0.0.1\nC: bye\nEOF")
			first.Close()
			p.Sessions(3)
		})
	}
}

func one(name string, b *routertest.Backend) []upstream.Backend {
	return []upstream.Backend{{Name: name, Nodes: []upstream.Node{b.Node(name+"a", upstream.IMAP, tlsconf.Off, nil)}}}
}

// TestSessionLine: one line at Info, with all there is to know.
func TestSessionLine(t *testing.T) {
	backend := routertest.NewBackend(t, nil, "C: user anna@example.test generation 3\nS: welcome\nC: ping\nS: pong!")
	cfg := config()
	cfg.Backends = one("b2", backend)
	p := routertest.Start(t, cfg)
	p.Play("S: hello 127.0.0.1\nC: Anna sesame\nS: joined\nC: ping\nS: pong!\nEOF")
	line := p.Session()
	for k, want := range map[string]any{
		"listener": "test", "protocol": "talk", "user": "anna@example.test", "home": "b2", "node": "b2a", "tls": false,
		"result": "logged out", "reason": "", "bytes_in": int64(len("Anna sesame\r\nping\r\n")),
		"bytes_out": int64(len("hello 127.0.0.1\r\njoined\r\npong!\r\n")),
	} {
		if line[k] != want {
			t.Errorf("%s: got %v, want %v", k, line[k], want)
		}
	}
	if line["session"] == "" || line["client"] == "" || line["took"].(time.Duration) <= 0 {
		t.Errorf("got %v", line)
	}
	for _, l := range p.Logs.All() {
		if _, ofSession := l.ContextMap()["session"]; ofSession && l.Level >= zapcore.InfoLevel && l.Message != "session" {
			t.Errorf("beside the session's line: %v", l)
		}
	}
}

// TestPanic ends one session, and that one leaves its line too.
func TestPanic(t *testing.T) {
	p := routertest.Start(t, config())
	other := p.Dial()
	r := bufio.NewReader(other)
	read(t, r)
	p.Play("S: hello 127.0.0.1\nC: panic\nEOF")
	if got := p.Session()["result"]; got != "broken" {
		t.Errorf("got %v", got)
	}
	io.WriteString(other, "bye\r\n")
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("the other session: %q, %v", rest, err)
	}
}

// TestHomes: where accounts go, and where they never go.
func TestHomes(t *testing.T) {
	for name, c := range map[string]struct {
		login          string
		defaultBackend string
		want           string
		b1, b2         int
	}{
		"home":                            {"anna sesame", "b1", "joined", 0, 1},
		"no home":                         {"berta sesame", "b1", "joined", 1, 0},
		"no home, no default":             {"berta sesame", "", fmt.Sprint(int(router.Unavailable)), 0, 0},
		"no home, default does not exist": {"berta sesame", "b8", fmt.Sprint(int(router.Unavailable)), 0, 0},
		"home does not exist":             {"erna sesame", "b1", fmt.Sprint(int(router.Unavailable)), 0, 0},
		"nobody":                          {"nobody sesame", "b1", fmt.Sprint(int(router.Rejected)), 0, 0},
		"wrong password":                  {"berta wrong", "b1", fmt.Sprint(int(router.Rejected)), 0, 0},
		"no password":                     {"berta ", "b1", fmt.Sprint(int(router.Rejected)), 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b1 := routertest.NewBackend(t, nil, "C: user *\nS: welcome\nEOF")
			b2 := routertest.NewBackend(t, nil, "C: user *\nS: welcome\nEOF")
			cfg := config()
			cfg.Options.DefaultBackend = c.defaultBackend
			cfg.Backends = append(one("b1", b1), one("b2", b2)...)
			p := routertest.Start(t, cfg)
			p.Play("S: hello 127.0.0.1\nC: " + c.login + "\nS: " + c.want + "\nCLOSE")
			p.Session()
			if b1.Calls() != c.b1 || b2.Calls() != c.b2 {
				t.Errorf("b1 was called %d times, b2 %d", b1.Calls(), b2.Calls())
			}
		})
	}
}

// TestDrainSaysGoodbyeOnJoinedSessions: the backend hears the end and has the
// last word.
func TestDrainSaysGoodbyeOnJoinedSessions(t *testing.T) {
	backend := routertest.NewBackend(t, nil, "C: user *\nS: welcome\nEOF\nS: * BYE drained")
	cfg := config()
	cfg.Backends = one("b2", backend)
	p := routertest.Start(t, cfg)
	conn := p.Dial()
	io.WriteString(conn, "anna sesame\r\n")
	r := bufio.NewReader(conn)
	read(t, r)
	read(t, r)
	p.Drain()
	if got := read(t, r); got != "* BYE drained" {
		t.Errorf("got %q", got)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("got %v, want the end", err)
	}
	conn.Close()
	if got := p.Session()["result"]; got != "shutdown" {
		t.Errorf("got %v", got)
	}
}

// TestHalfOpenClient: a client that shut its half behind the login still gets
// its answers.
func TestHalfOpenClient(t *testing.T) {
	backend := routertest.NewBackend(t, nil, "C: user *\nS: welcome\nC: fetch\nEOF\nS: here you are")
	cfg := config()
	cfg.Backends = one("b2", backend)
	p := routertest.Start(t, cfg)
	p.Play("S: hello 127.0.0.1\nC: anna sesame\nC: fetch\nHALF\nS: joined\nS: here you are\nEOF")
	p.Session()
}

// TestKeepAlive: a joined session has no idle time-out by default, so the
// kernel has to find dead peers, on both legs.
func TestKeepAlive(t *testing.T) {
	backend := routertest.NewBackend(t, nil, "C: user *\nS: welcome\nEOF")
	cfg := config()
	cfg.Backends = one("b2", backend)
	p := routertest.Start(t, cfg)
	conn := p.Dial()
	io.WriteString(conn, "anna sesame\r\n")
	r := bufio.NewReader(conn)
	read(t, r)
	read(t, r)
	// While bytes wait for their acknowledgement another timer runs.
	for front, back, deadline := false, false, time.Now().Add(5*time.Second); !front || !back; time.Sleep(time.Millisecond) {
		for _, s := range sockets(t) {
			if s.keepAlive {
				front = front || s.local == port(t, p.Addr) && s.remote == port(t, conn.LocalAddr().String())
				back = back || s.remote == port(t, backend.Addr)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("keepalive: front %v, back %v", front, back)
		}
	}
	conn.Close()
	p.Session()
}

func port(t *testing.T, address string) uint64 {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

type socket struct {
	local, remote uint64 // ports
	keepAlive     bool
}

// sockets reads the kernel's table of TCP sockets (proc_net_tcp.txt: timer 2 is
// keepalive).
func sockets(t *testing.T) []socket {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skip("there is no /proc/net/tcp on this system")
	}
	var out []socket
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.Contains(f[1], ":") {
			continue
		}
		_, local, _ := strings.Cut(f[1], ":")
		_, remote, _ := strings.Cut(f[2], ":")
		l, err1 := strconv.ParseUint(local, 16, 16)
		r, err2 := strconv.ParseUint(remote, 16, 16)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		out = append(out, socket{l, r, strings.HasPrefix(f[5], "02:")})
	}
	return out
}
