package tcpauth

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
)

// patience is how long a test waits for the server.
const patience = 10 * time.Second

// TestDialogs plays the dialogues in testdata/dialogs: C: lines are sent, S:
// lines expected, = lines change the server.
func TestDialogs(t *testing.T) {
	files, err := filepath.Glob("testdata/dialogs/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			playDialog(t, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"))
		})
	}
}

func playDialog(t *testing.T, lines []string) {
	opts := ServerOptions{Version: "1.0"}
	db := newMemory()
	var p *peer
	for i, line := range lines {
		kind, text, _ := strings.Cut(line, " ")
		text = strings.NewReplacer(`\r`, "\r", `\t`, "\t", `\x00`, "\x00").Replace(text)
		if p == nil && (kind == "C:" || kind == "S:") {
			p = connect(t, serve(t, db, opts).address)
		}
		switch {
		case kind == "#":
		case kind == "C:":
			p.send(text + "\n")
		case kind == "S:" && text == "EOF":
			p.wantEOF()
		case kind == "S:":
			if got := p.line(); got != text {
				t.Fatalf("line %d: got %q, want %q", i+1, got, text)
			}
		case line == "= unplug":
			db.set(func(m *memory) { m.fail = errors.New("disk on fire") })
		case line == "= plug":
			db.set(func(m *memory) { m.fail = nil })
		case line == "= read-only":
			opts.ReadOnly = true
		case strings.HasPrefix(line, "= secret "):
			opts.Secret = strings.TrimPrefix(line, "= secret ")
		default:
			t.Fatalf("line %d is none of a dialogue: %q", i+1, line)
		}
	}
}

// peer is a client that types.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func connect(t *testing.T, address string) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return &peer{t: t, conn: conn, r: bufio.NewReader(conn)}
}

func (p *peer) send(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, s); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

func (p *peer) line() string {
	p.t.Helper()
	s, err := p.r.ReadString('\n')
	if err != nil {
		p.t.Fatalf("read: got %q, %v", s, err)
	}
	return strings.TrimSuffix(s, "\n")
}

func (p *peer) want(line string) {
	p.t.Helper()
	if got := p.line(); got != line {
		p.t.Errorf("got %q, want %q", got, line)
	}
}

// wantEOF waits until the server closes; a reset, because of bytes that it did
// not read, is fine.
func (p *peer) wantEOF() {
	p.t.Helper()
	rest, err := io.ReadAll(p.r)
	var timeout net.Error
	if len(rest) > 0 || errors.As(err, &timeout) && timeout.Timeout() {
		p.t.Errorf("got %q, %v, want the end", rest, err)
	}
}

func (r *running) wantFinished(t *testing.T, reason string) {
	t.Helper()
	eventually(t, "a log line that says "+reason, func() bool {
		for _, entry := range r.logs.FilterMessage("connection finished").All() {
			if strings.Contains(entry.ContextMap()["reason"].(string), reason) {
				return true
			}
		}
		return false
	})
}

func TestPipelined(t *testing.T) {
	s := serve(t, newMemory(), ServerOptions{})
	p := connect(t, s.address)
	p.send(strings.Repeat("lookup nobody@x.test\n", 500) + "looku")
	for range 500 {
		p.want("-ERR no such user")
	}
	p.send("p nobody@x.test\r\nquit\n")
	p.want("-ERR no such user\r")
	p.want("+OK")
	p.wantEOF()
	s.wantFinished(t, "quit")
}

func TestTooLong(t *testing.T) {
	s := serve(t, newMemory(), ServerOptions{})
	p := connect(t, s.address)
	p.send("lookup " + strings.Repeat("x", 2*maxLine))
	p.want("-ERR line too long")
	p.wantEOF()
	s.wantFinished(t, "line too long")
	// Before the secret less is allowed.
	s = serve(t, newMemory(), ServerOptions{Secret: "x"})
	p = connect(t, s.address)
	p.send("auth " + strings.Repeat("x", 5*maxEarlyLine))
	p.want("-ERR line too long")
	p.wantEOF()
	s.wantFinished(t, "line too long")
}

func TestTimeouts(t *testing.T) {
	s := serve(t, newMemory(), ServerOptions{Idle: 50 * time.Millisecond})
	p := connect(t, s.address)
	p.send("version\n")
	p.line()
	p.wantEOF()
	s.wantFinished(t, "timeout")
	// The time before the secret is one, however busy the client is.
	s = serve(t, newMemory(), ServerOptions{Early: 100 * time.Millisecond, Secret: "x"})
	p = connect(t, s.address)
	slow := p.conn
	go func() {
		for {
			if _, err := io.WriteString(slow, "v"); err != nil {
				return
			}
			time.Sleep(time.Millisecond) // a slow client, not a wait for something
		}
	}()
	p.wantEOF()
	s.wantFinished(t, "timeout")
	// It is over once the secret is shown.
	p = connect(t, s.address)
	p.send("auth x\n")
	p.want("+OK")
	time.Sleep(150 * time.Millisecond) // longer than Early, which is the point
	p.send("lookup a@x.test\n")
	p.want("-ERR no such user")
}

// A panic ends one connection and is no answer to anybody.
func TestPanicIsContained(t *testing.T) {
	db := contract(t)
	s := serve(t, db, ServerOptions{})
	other := connect(t, s.address)
	c := newClient(t, ClientOptions{MaxBackoff: time.Nanosecond}, s.address)
	db.set(func(m *memory) { m.panics = true })
	_, err := c.Lookup(t.Context(), "anna@example.test")
	wantUnavailable(t, "lookup", err)
	db.set(func(m *memory) { m.panics = false })
	s.wantFinished(t, "panic")
	other.send("lookup nobody@x.test\n")
	other.want("-ERR no such user")
	lookupHome(t, c, "anna@example.test", "b1")
}

// The daemon's end: the answer under way is given, then the connection ends.
func TestShutdown(t *testing.T) {
	db := newMemory()
	s := serve(t, db, ServerOptions{})
	idle, busy := connect(t, s.address), connect(t, s.address)
	idle.send("version\n")
	idle.line()
	started, hold := make(chan struct{}), make(chan struct{})
	db.set(func(m *memory) { m.started, m.hold = started, hold })
	busy.send("set anna@x.test p\nlookup anna@x.test\n")
	<-started
	var wg sync.WaitGroup
	wg.Go(s.stop)
	idle.wantEOF()
	close(hold)
	busy.want("+OK anna@x.test added to database")
	busy.wantEOF()
	wg.Wait()
	if _, err := net.Dial("tcp", s.address); err == nil {
		t.Error("it still accepts connections")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	s := serve(t, newMemory(), ServerOptions{MaxConnections: 2})
	first, second, third := connect(t, s.address), connect(t, s.address), connect(t, s.address)
	for _, p := range []*peer{first, second} {
		p.send("lookup a@x.test\n")
		p.want("-ERR no such user")
	}
	third.send("lookup a@x.test\n")
	third.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if line, err := third.r.ReadString('\n'); err == nil {
		t.Errorf("a third connection was served: %q", line)
	}
	third.conn.SetReadDeadline(time.Now().Add(patience))
	first.conn.Close()
	third.want("-ERR no such user")
}

func TestOneLogLine(t *testing.T) {
	s := serve(t, contract(t), ServerOptions{})
	p := connect(t, s.address)
	p.send("check anna@example.test sesame-1\nlookup x@y\nquit\n")
	p.line()
	p.line()
	p.want("+OK")
	p.wantEOF()
	s.stop()
	all := s.logs.All()
	if len(all) != 1 {
		t.Fatalf("got %d lines, want 1: %v", len(all), all)
	}
	f := all[0].ContextMap()
	if f["requests"] != int64(3) || f["reason"] != "quit" || f["client"] != p.conn.LocalAddr().String() || f["bytes_in"] != int64(49) || f["bytes_out"].(int64) < 100 {
		t.Errorf("got %v", f)
	}
}

func TestTLS(t *testing.T) {
	serverConfig, clientConfig := certificates(t)
	s := serve(t, contract(t), ServerOptions{TLS: serverConfig, Secret: "s", Early: time.Second})
	c := newClient(t, ClientOptions{TLS: clientConfig, Secret: "s"}, s.address)
	for range 3 {
		lookupHome(t, c, "anna@example.test", "b1")
	}
	if n := s.logs.FilterMessage("connection finished").Len(); n != 0 {
		t.Errorf("%d connections are finished, want one that is kept", n)
	}
	// One that does not trust the certificate, and one without TLS, get no answer.
	_, err := newClient(t, ClientOptions{TLS: &tls.Config{RootCAs: x509.NewCertPool()}, Secret: "s"}, s.address).Lookup(t.Context(), "anna@example.test")
	wantUnavailable(t, "an unknown authority", err)
	_, err = newClient(t, ClientOptions{Secret: "s", Timeout: 200 * time.Millisecond}, s.address).Lookup(t.Context(), "nobody@example.test")
	wantUnavailable(t, "without TLS", err)
	// A hanging handshake ends.
	p := connect(t, s.address)
	p.wantEOF()
	s.wantFinished(t, "TLS handshake")
}

// certificates makes a server's configuration and one that trusts it.
func certificates(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
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
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool}
}

// A record that the grammar cannot carry is "not now", never another record
// and never "no such user".
func TestRecordThatCannotBeCarried(t *testing.T) {
	db := newMemory()
	db.users["anna@x.test"] = user{labels: map[string]string{"note": "a\nb"}}
	s := serve(t, db, ServerOptions{})
	p := connect(t, s.address)
	p.send("lookup anna@x.test\nlookup nobody@x.test\n")
	p.want("-DEAD the record cannot be carried")
	p.want("-ERR no such user")
}

// FuzzSession types anything at the server: it answers line by line or ends
// the connection, and a later connection is served.
func FuzzSession(f *testing.F) {
	f.Add([]byte("lookup anna@x.test\ncheck a b c\nset a (NULL) b=\"c\"\nquit\n"))
	f.Add([]byte("auth x\r\nversion\r\nhelp\r\nsearch * -max 1\r\nxset a@b %20\r\ndel a@b\r\n"))
	f.Add([]byte("\x00\xff\n\n\n"))
	f.Add([]byte("#1 lookup anna@x.test\n#2 set a@b c\n#3 search *\n#2 check a@b c\n#\n#4 quit\n"))
	f.Add([]byte("xkeys anna@example.test SCRAM-SHA-256\n#1 xkeymechs\n#2 xkeys a@b X\nversion\n"))
	f.Add([]byte("lookup a@b\nfeed\nreplicate\n#1 feed\nquit\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		srv, err := NewServer(newKeyed(t), ServerOptions{Secret: "x"})
		if err != nil {
			t.Fatal(err)
		}
		ln := listen(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- srv.Serve(ctx, ln) }()
		p := connect(t, ln.Addr().String())
		p.send("auth x\n")
		p.want("+OK")
		var wg sync.WaitGroup
		wg.Go(func() {
			p.conn.Write(in)
			p.conn.(*net.TCPConn).CloseWrite()
		})
		out, err := io.ReadAll(p.r)
		wg.Wait()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatalf("%q: the server hangs", in)
		}
		for _, line := range strings.SplitAfter(string(out), "\n") {
			if line == "" {
				continue
			}
			bare := []byte(strings.TrimRight(line, "\r\n"))
			if isTagged(bare) {
				if _, _, bare, err = parseTagged(bare); err != nil {
					t.Fatalf("%q was answered with %q: %v", in, line, err)
				}
			}
			if _, err := authent.ParseReply(string(bare)); err != nil || !strings.HasSuffix(line, "\n") {
				t.Fatalf("%q was answered with %q: %v", in, line, err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

var _ lookup.Directory = (*Client)(nil)
