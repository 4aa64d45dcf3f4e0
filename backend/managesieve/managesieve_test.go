package managesieve

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"switchyard/backend/access"
	"switchyard/backend/sieve"
	"switchyard/backend/store"
	"switchyard/internal/server"
	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a server over a store in memory.
type fixture struct {
	t     *testing.T
	srv   *Server
	dir   *lookuptest.Scripted
	store *store.Store
	tls   *tls.Config // the client's
	logs  *observer.ObservedLogs
}

func newFixture(t *testing.T, o Options) *fixture {
	t.Helper()
	f := &fixture{t: t}
	f.dir = lookuptest.NewScripted(
		lookuptest.Record{Account: lookup.Account{Name: "anna@example.test", Home: "b1"}, Password: "sesame"},
		lookuptest.Record{Account: lookup.Account{Name: "bert@example.test", Home: "b2"}, Password: "sesame"},
		lookuptest.Record{Account: lookup.Account{Name: "shut@example.test", Home: "b1", Status: lookup.StatusSuspended}, Password: "sesame"},
	)
	var err error
	f.store, err = store.Open("store", store.Options{FS: vfs.NewMem(), MemTable: 1 << 20, Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.store.Close(); err != nil {
			t.Error(err)
		}
	})
	gate := access.New("b1", f.dir, f.store, access.Options{
		ProxyName: "proxy", ProxySecret: "joint", ProxyNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, DefaultDomain: "example.test",
	})
	core, logs := observer.New(zap.InfoLevel)
	f.logs, o.Logger = logs, zap.New(core)
	o.TLS, f.tls = testTLS(t)
	f.srv = New(gate, o)
	return f
}

func testTLS(t *testing.T) (srv, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"b1"}, NotAfter: time.Now().Add(time.Hour)}
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
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool, ServerName: "b1"}
}

// client is one end of a connection.
type client struct {
	t  *testing.T
	nc net.Conn
	r  *bufio.Reader
	f  *fixture
}

func (f *fixture) dial(ctx context.Context) *client {
	f.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		f.t.Fatal(err)
	}
	sc, err := ln.Accept()
	if err != nil {
		f.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); f.srv.Serve(ctx, sc) }()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	f.t.Cleanup(func() { nc.Close(); <-done })
	return &client{f.t, nc, bufio.NewReader(nc), f}
}

// run plays a dialogue: C: and S: lines, of which the server's may have * for
// anything, TLS for a handshake, CAPS for lines up to OK, EOF for the end.
func (c *client) run(script string) {
	c.t.Helper()
	var out strings.Builder
	flush := func() {
		if out.Len() > 0 {
			io.WriteString(c.nc, out.String())
			out.Reset()
		}
	}
	for line := range strings.SplitSeq(strings.TrimSpace(script), "\n") {
		line = strings.TrimLeft(line, "\t ")
		kind, text, _ := strings.Cut(line, " ")
		switch kind {
		case "C:":
			out.WriteString(text + "\r\n")
			continue
		case "":
			continue
		}
		flush()
		switch kind {
		case "S:":
			got := c.read()
			pattern := strings.NewReplacer("[", `\[`, "?", `\?`, `\`, `\\`).Replace(text)
			if ok, err := path.Match(strings.ReplaceAll(pattern, "/", "|"), strings.ReplaceAll(got, "/", "|")); err != nil || !ok {
				c.t.Fatalf("got %q, want %q (%v)", got, text, err)
			}
		case "CAPS":
			for !strings.HasPrefix(c.read(), "OK") {
			}
		case "TLS":
			tc := tls.Client(c.nc, c.f.tls)
			if err := tc.Handshake(); err != nil {
				c.t.Fatal(err)
			}
			c.nc, c.r = tc, bufio.NewReader(tc)
		case "EOF":
			if line, err := c.r.ReadString('\n'); err == nil {
				c.t.Fatalf("open, and says %q", line)
			}
		default:
			c.t.Fatalf("no step: %s", line)
		}
	}
	flush()
}

func (c *client) read() string {
	c.t.Helper()
	got, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("got %q and %v", got, err)
	}
	return strings.TrimSuffix(got, "\r\n")
}

func plain(parts ...string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Join(parts, "\x00")))
}

var anna = plain("", "anna", "sesame")

// TestBeforeLogin: what is offered, STARTTLS, and what is refused.
func TestBeforeLogin(t *testing.T) {
	c := newFixture(t, Options{}).dial(t.Context())
	c.run(`
		S: "IMPLEMENTATION" "Switchyard"
		S: "SASL" ""
		S: "SIEVE" "body * vacation*"
		S: "STARTTLS"
		S: "MAXREDIRECTS" "4"
		S: "VERSION" "1.0"
		S: OK "Switchyard is ready"
		C: AUTHENTICATE "PLAIN" "` + anna + `"
		S: NO (ENCRYPT-NEEDED) *
		C: LISTSCRIPTS
		S: NO "log in first"
		C: XCLIENT ADDR=192.0.2.1
		S: NO *
		C: noop "tag {1}"
		S: OK (TAG "tag {1}") "done"
		C: STARTTLS
		S: OK *
		TLS
		S: "IMPLEMENTATION" "Switchyard"
		S: "SASL" "PLAIN LOGIN"
		S: "SIEVE" *
		S: "XCLIENT"
		S: "X-PROBE"
		S: "MAXREDIRECTS" *
		S: "VERSION" *
		S: OK "TLS is active"
		C: STARTTLS
		S: NO "TLS is active already"
		C: AUTHENTICATE "PLAIN" "` + plain("", "anna", "wrong") + `"
		S: NO "wrong name or password"
		C: AUTHENTICATE "PLAIN" {` + fmt.Sprint(len(anna)) + `+}
		C: ` + anna + `
		S: OK "logged in"
		C: CAPABILITY
		S: "IMPLEMENTATION" *
		S: "OWNER" "anna@example.test"
		S: "SASL" ""
		CAPS
		C: LOGOUT
		S: OK "goodbye"
		EOF`)
}

// TestLogins: the three answers, and who may act for whom.
func TestLogins(t *testing.T) {
	f := newFixture(t, Options{AllowClear: true})
	c := f.dial(t.Context())
	c.run(`
		CAPS
		C: AUTHENTICATE "LOGIN"
		S: "VXNlcm5hbWU6"
		C: "` + base64.StdEncoding.EncodeToString([]byte("anna")) + `"
		S: "UGFzc3dvcmQ6"
		C: "*"
		S: NO "cancelled"
		C: AUTHENTICATE "PLAIN" "` + plain("", "bert", "sesame") + `"
		S: NO (TRYLATER/MOVED) "account lives elsewhere"
		C: AUTHENTICATE "PLAIN" "` + plain("", "shut", "sesame") + `"
		S: NO "account is suspended"
		C: AUTHENTICATE "PLAIN" "` + plain("anna", "proxy", "joint") + `"
		S: NO "wrong name or password"
		C: AUTHENTICATE "PLAIN" "` + plain("bert", "anna", "sesame") + `"
		S: NO "wrong name or password"
		S: BYE "too many mistakes"
		EOF`)
	f.dir.Fail(lookup.Unavailable("ask", nil))
	c = f.dial(t.Context())
	c.run(`
		CAPS
		C: AUTHENTICATE "PLAIN" "` + anna + `"
		S: NO (TRYLATER) "not possible now"
		C: AUTHENTICATE "PLAIN" "!!!"
		S: NO *
		C: AUTHENTICATE "KLINGON"
		S: NO "unknown mechanism"`)
}

// TestProxied: a proxy logs in for a user, over TLS, and says whose client it is.
func TestProxied(t *testing.T) {
	f := newFixture(t, Options{})
	c := f.dial(t.Context())
	c.run(`
		CAPS
		C: STARTTLS
		S: OK *
		TLS
		CAPS
		C: XCLIENT ADDR=192.0.2.7 PORT=1234 SESSION=d1b2k3m4n5p6q7r8
		S: OK "Updated"
		C: XCLIENT ADDR=192.0.2.8
		S: NO "XCLIENT was sent already"
		C: AUTHENTICATE "PLAIN" "` + plain("anna@example.test", "proxy", "joint") + `"
		S: OK "logged in"
		C: LOGOUT
		S: OK *
		EOF`)
	line := f.logs.FilterMessage("session").All()
	if len(line) != 1 {
		t.Fatalf("%d lines", len(line))
	}
	got := line[0].ContextMap()
	if got["client"] != "192.0.2.7:1234" || got["session"] != "d1b2k3m4n5p6q7r8" || got["proxied"] != true || got["user"] != "anna@example.test" {
		t.Errorf("logged %v", got)
	}
}

// TestScripts: all commands on scripts (RFC 5804 §2).
func TestScripts(t *testing.T) {
	c := newFixture(t, Options{AllowClear: true}).dial(t.Context())
	c.run(`
		CAPS
		C: AUTHENTICATE "PLAIN" "` + anna + `"
		S: OK *
		C: LISTSCRIPTS
		S: OK *
		C: HAVESPACE "main" 100
		S: OK *
		C: HAVESPACE "main" 9999999
		S: NO (QUOTA/MAXSIZE) *
		C: HAVESPACE "main"
		S: NO "HAVESPACE takes a name and a size"
		C: PUTSCRIPT "main" {28+}
		C: require "fileinto";
		C: keep; #
		S: OK *
		C: PUTSCRIPT "bad" "keep"
		S: NO "line 1, column 5: a semicolon is missing behind keep"
		C: CHECKSCRIPT "stop;"
		S: OK *
		C: CHECKSCRIPT "flop;"
		S: NO "line 1, column 1: unknown command flop"
		C: PUTSCRIPT "a \"quoted\" name" "discard;"
		S: OK *
		C: SETACTIVE "main"
		S: OK *
		C: LISTSCRIPTS
		S: "a \"quoted\" name"
		S: "main" ACTIVE
		S: OK *
		C: GETSCRIPT "main"
		S: {28}
		S: require "fileinto";
		S: keep; #
		S: OK *
		C: GETSCRIPT "none"
		S: NO (NONEXISTENT) *
		C: DELETESCRIPT "main"
		S: NO (ACTIVE) *
		C: RENAMESCRIPT "main" "a \"quoted\" name"
		S: NO (ALREADYEXISTS) *
		C: RENAMESCRIPT "main" "other"
		S: OK *
		C: SETACTIVE ""
		S: OK *
		C: DELETESCRIPT "other"
		S: OK *
		C: LISTSCRIPTS
		S: "a \"quoted\" name"
		S: OK *
		C: JUMP
		S: NO "unknown command"`)
}

// TestLiterals: what is too big is passed over, or ends the session where that
// would take too long; nothing behind it is taken for a command.
func TestLiterals(t *testing.T) {
	f := newFixture(t, Options{AllowClear: true})
	c := f.dial(t.Context())
	c.run(`
		CAPS
		C: AUTHENTICATE "PLAIN" "` + anna + `"
		S: OK *`)
	big := strings.Repeat("#\r\n", sieve.MaxScriptSize/3+1)
	fmt.Fprintf(c.nc, "PUTSCRIPT \"big\" {%d+}\r\n%s\r\nNOOP \"after\"\r\n", len(big), big)
	c.run(`
		S: NO (QUOTA/MAXSIZE) *
		S: OK (TAG "after") *
		C: PUTSCRIPT "x" {5}
		S: NO "a literal is *"
		C: PUTSCRIPT "x" {99999999+}
		S: BYE *
		EOF`)
	c = f.dial(t.Context())
	c.run(`
		CAPS
		C: AUTHENTICATE "PLAIN" {70000+}
		S: BYE *
		EOF`)
	c = f.dial(t.Context())
	c.run("CAPS")
	io.WriteString(c.nc, "NOOP\nLOGOUT\r\n")
	c.run(`
		S: BYE "lines end in CR LF"
		EOF`)
}

// TestMistakes end a session that makes too many of them.
func TestMistakes(t *testing.T) {
	c := newFixture(t, Options{AllowClear: true}).dial(t.Context())
	c.run("CAPS")
	for range maxBadCommands {
		c.run("C: NONSENSE\nS: NO *")
	}
	c.run("S: BYE \"too many mistakes\"\nEOF")
}

// TestStop: a server that stops says goodbye.
func TestStop(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	c := newFixture(t, Options{AllowClear: true}).dial(ctx)
	c.run("CAPS")
	stop(server.ErrShutdown)
	c.run("S: BYE (TRYLATER) *\nEOF")
}

// FuzzSession: whatever a client says, the session ends with it, and what is
// answered has the form of an answer.
func FuzzSession(f *testing.F) {
	f.Add([]byte("NOOP {3+}\r\nabc\r\nCAPABILITY\r\n"))
	f.Add([]byte("AUTHENTICATE \"PLAIN\" \"" + anna + "\"\r\nPUTSCRIPT \"a\" {5+}\r\nkeep;\r\nGETSCRIPT \"a\"\r\nLISTSCRIPTS\r\n"))
	f.Add([]byte("AUTHENTICATE \"LOGIN\"\r\n\"*\"\r\nSTARTTLS\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		fx := newFixture(t, Options{AllowClear: true})
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); fx.srv.Serve(t.Context(), far) }()
		var got bytes.Buffer
		read := make(chan struct{})
		go func() { defer close(read); io.Copy(&got, near) }()
		near.SetDeadline(time.Now().Add(5 * time.Second))
		near.Write(data)
		near.Close()
		<-done
		<-read
		if !bytes.HasPrefix(got.Bytes(), []byte("\"IMPLEMENTATION\"")) {
			t.Fatalf("%q", got.Bytes())
		}
	})
}
