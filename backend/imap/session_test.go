package imap

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/backend"
	"switchyard/internal/message"
	"switchyard/internal/tlsconf"

	"go.uber.org/zap"
)

// raw is a bare connection with a few words.
type raw struct {
	testing.TB
	net.Conn
	r *bufio.Reader
}

func connect(t testing.TB, f *fixture) *raw {
	t.Helper()
	nc, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	r := &raw{t, nc, bufio.NewReader(nc)}
	r.line()
	return r
}

// tlsRaw is connect with implicit TLS.
func tlsRaw(t testing.TB, f *fixture) *raw {
	t.Helper()
	nc, err := tls.Dial("tcp", f.addr, f.tls)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	r := &raw{t, nc, bufio.NewReader(nc)}
	r.line()
	return r
}

func (r *raw) line() string {
	r.Helper()
	line, err := r.r.ReadString('\n')
	if err != nil {
		r.Fatalf("read a line: %v (got %q)", err, line)
	}
	return strings.TrimRight(line, "\r\n")
}

func (r *raw) send(text string) {
	r.Helper()
	if _, err := io.WriteString(r.Conn, text); err != nil {
		r.Fatal(err)
	}
}

// do runs a command with the tag x and returns the lines before the tagged
// one, which must begin with want.
func (r *raw) do(command, want string) []string {
	r.Helper()
	r.send("x " + command + "\r\n")
	var lines []string
	for {
		line := r.line()
		if rest, ok := strings.CutPrefix(line, "x "); ok {
			if !strings.HasPrefix(rest, want) {
				r.Fatalf("%s: got %q, want %q", command, rest, want)
			}
			return lines
		}
		lines = append(lines, line)
	}
}

// hooks lets a test change how a user's bodies are read.
type hooks struct {
	backend.Store
	body      func(backend.Body) backend.Body
	structure func() (*message.Part, error)
}

type hookedUser struct {
	backend.User
	h *hooks
}

func (h *hooks) CreateUser(ctx context.Context, account string, generation uint64) (backend.User, error) {
	u, err := h.Store.CreateUser(ctx, account, generation)
	return &hookedUser{u, h}, err
}

func (u *hookedUser) Body(ctx context.Context, mailbox backend.GUID, uid backend.UID) (backend.Body, error) {
	b, err := u.User.Body(ctx, mailbox, uid)
	if err == nil && u.h.body != nil {
		b = u.h.body(b)
	}
	return b, err
}

func (u *hookedUser) Structure(ctx context.Context, mailbox backend.GUID, uid backend.UID) (*message.Part, error) {
	if u.h.structure != nil {
		return u.h.structure()
	}
	return u.User.Structure(ctx, mailbox, uid)
}

// endless is a body of many bytes that exist nowhere.
type endless struct {
	size  int64
	reads atomic.Int64
}

func (e *endless) ReadAt(p []byte, off int64) (int, error) {
	e.reads.Add(1)
	n := int(min(int64(len(p)), e.size-off))
	for i := range n {
		p[i] = 'a'
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (e *endless) Size() int64  { return e.size }
func (e *endless) Close() error { return nil }

// TestFetchStreams holds that a body of 50 MB to a slow reader costs a bounded
// buffer.
func TestFetchStreams(t *testing.T) {
	const size = 50 << 20
	body := &endless{size: size}
	f := start(t, Options{}, func(s backend.Store) backend.Store {
		return &hooks{Store: s,
			body: func(b backend.Body) backend.Body { b.Close(); return body },
			structure: func() (*message.Part, error) {
				return &message.Part{End: size, Type: "text", Subtype: "plain", Encoding: "7bit"}, nil
			},
		}
	})
	f.append(t, "ada", "INBOX", "A: b\r\n\r\n")
	r := connect(t, f)
	r.do("LOGIN ada@example.test secret", "OK")
	r.do("SELECT INBOX", "OK")
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	base := heap()
	r.send("x FETCH 1 BODY.PEEK[]\r\n")
	if line := r.line(); line != fmt.Sprintf("* 1 FETCH (BODY[] {%d}", size) {
		t.Fatalf("got %q", line)
	}
	var grown uint64
	for read := 0; read < size; read += size / 10 {
		if _, err := io.CopyN(io.Discard, r.r, size/10); err != nil {
			t.Fatal(err)
		}
		now := heap()
		grown = max(grown, now-min(base, now))
	}
	if grown > 1<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	for {
		if line := r.line(); strings.HasPrefix(line, "x ") {
			if line != "x OK Done" {
				t.Errorf("got %q", line)
			}
			break
		}
	}
}

// breaks is a body whose disk fails in the middle, or at the start.
type breaks struct {
	backend.Body
	start bool
}

func (b breaks) ReadAt(p []byte, off int64) (int, error) {
	if b.start || off+int64(len(p)) > 200000 {
		return 0, errors.New("flipped bits")
	}
	return b.Body.ReadAt(p, off)
}

// TestDamagedBody holds that a client never takes a damaged message for a
// whole one: before the literal is announced the answer is NO, behind it the
// connection ends.
func TestDamagedBody(t *testing.T) {
	var atOnce atomic.Bool
	atOnce.Store(true)
	f := start(t, Options{}, func(s backend.Store) backend.Store {
		return &hooks{Store: s, body: func(b backend.Body) backend.Body { return breaks{b, atOnce.Load()} }}
	})
	f.append(t, "ada", "INBOX", testMessage(t, "big.eml"))
	r := connect(t, f)
	r.do("LOGIN ada@example.test secret", "OK")
	r.do("SELECT INBOX", "OK")
	if lines := r.do("FETCH 1 (UID BODY.PEEK[HEADER.FIELDS (Subject)])", "NO [SERVERBUG]"); len(lines) > 0 {
		t.Errorf("got %q", lines)
	}
	r.do("FETCH 1 (FLAGS BINARY.SIZE[2])", "NO [SERVERBUG]")
	r.do("SEARCH BODY nothing", "NO [SERVERBUG]")
	atOnce.Store(false)
	r.send("x FETCH 1 BODY.PEEK[]\r\n")
	all, err := io.ReadAll(r.r)
	if err != nil || !bytes.HasPrefix(all, []byte("* 1 FETCH (BODY[] {315829}\r\n")) || len(all) > 200000 || bytes.Contains(all, []byte("\nx ")) || bytes.Contains(all, []byte("* BYE")) {
		t.Errorf("got %d bytes, %v, ending in %q", len(all), err, all[max(0, len(all)-100):])
	}
}

// writes counts a connection's writes.
type writes struct {
	net.Conn
	n atomic.Int64
}

func (w *writes) Write(p []byte) (int, error) {
	w.n.Add(1)
	return w.Conn.Write(p)
}

// TestFewWrites holds that an answer of many lines is not written line by
// line: go-imap's server needed 10,012 writes for 10,000 lines.
func TestFewWrites(t *testing.T) {
	f := start(t, Options{})
	one := backend.Incoming{Body: strings.NewReader("A: b\r\n\r\n"), Size: 8}
	var many []backend.Incoming
	for range 2000 {
		many = append(many, one)
	}
	u := f.user(t, "ada")
	if _, err := u.Append(t.Context(), "INBOX", many); err != nil {
		t.Fatal(err)
	}
	client, end := net.Pipe()
	counted := &writes{Conn: end}
	var wg sync.WaitGroup
	wg.Go(func() { f.srv.Serve(t.Context(), counted) })
	r := &raw{t, client, bufio.NewReader(client)}
	r.line()
	r.do("LOGIN ada@example.test secret", "OK")
	r.do("SELECT INBOX", "OK")
	before := counted.n.Load()
	lines := r.do("FETCH 1:* FLAGS", "OK")
	if n := counted.n.Load() - before; len(lines) != 2000 || n > 20 {
		t.Errorf("%d lines in %d writes", len(lines), n)
	}
	client.Close()
	wg.Wait()
}

// TestShutdown holds that a server that stops says goodbye to the waiting and
// to the idle, and finishes what it is answering.
func TestShutdown(t *testing.T) {
	f := start(t, Options{})
	waiting, idle := connect(t, f), connect(t, f)
	idle.do("LOGIN ada@example.test secret", "OK")
	idle.do("SELECT INBOX", "OK")
	idle.send("x IDLE\r\n")
	if line := idle.line(); line != "+ idling" {
		t.Fatalf("got %q", line)
	}
	f.stop()
	for _, r := range []*raw{waiting, idle} {
		if line := r.line(); line != "* BYE Server is shutting down" {
			t.Errorf("got %q", line)
		}
		if _, err := r.r.ReadByte(); err != io.EOF {
			t.Errorf("got %v, want the end", err)
		}
	}
}

// TestShutdownFinishesTheAnswer stops the server in the middle of a FETCH.
func TestShutdownFinishesTheAnswer(t *testing.T) {
	const size = 20 << 20
	body := &endless{size: size}
	f := start(t, Options{}, func(s backend.Store) backend.Store {
		return &hooks{Store: s,
			body: func(b backend.Body) backend.Body { b.Close(); return body },
			structure: func() (*message.Part, error) {
				return &message.Part{End: size, Type: "text", Subtype: "plain", Encoding: "7bit"}, nil
			},
		}
	})
	f.append(t, "ada", "INBOX", "A: b\r\n\r\n")
	r := connect(t, f)
	r.do("LOGIN ada@example.test secret", "OK")
	r.do("SELECT INBOX", "OK")
	r.send("x FETCH 1 BODY.PEEK[]\r\n")
	r.line()
	var wg sync.WaitGroup
	wg.Go(f.stop)
	if _, err := io.CopyN(io.Discard, r.r, size); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{")", "x OK Done", "* BYE Server is shutting down"} {
		if line := r.line(); line != want {
			t.Errorf("got %q, want %q", line, want)
		}
	}
	wg.Wait()
}

// TestLoginTimeout holds that the time before login ends, however a client
// drips.
func TestLoginTimeout(t *testing.T) {
	f := start(t, Options{LoginTimeout: 200 * time.Millisecond})
	slow := connect(t, f)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := slow.Write([]byte("x")); err != nil {
				return
			}
			runtime.Gosched()
		}
	})
	waitFor(t, func() bool { return f.logs.FilterField(zap.String("reason", "timeout")).Len() == 1 })
	slow.Close()
	wg.Wait()
}

// TestIdleTimeout holds that a silent session ends with a word.
func TestIdleTimeout(t *testing.T) {
	f := start(t, Options{IdleTimeout: 200 * time.Millisecond})
	r := connect(t, f)
	r.do("LOGIN ada@example.test secret", "OK")
	if line := r.line(); line != "* BYE Too long without a word" {
		t.Errorf("got %q", line)
	}
}

// TestHalfOpen holds that clients that leave in the middle end their sessions.
func TestHalfOpen(t *testing.T) {
	f := start(t, Options{})
	for _, text := range []string{"", "x", "x LOGIN ada {5}\r\n", "x LOGIN ada {5+}\r\nab", "x AUTHENTICATE PLAIN\r\n", "x IDLE\r\n",
		"x LOGIN ada@example.test secret\r\ny APPEND INBOX {100+}\r\nabc", "x LOGIN ada@example.test secret\r\ny SELECT INBOX\r\nz IDLE\r\n"} {
		r := connect(t, f)
		r.send(text)
		r.Close()
	}
	waitFor(t, func() bool { return f.logs.FilterMessage("session").Len() == 8 })
	u := f.user(t, "ada")
	if m, err := u.Mailbox(t.Context(), "INBOX"); err != nil || m.Messages != 0 {
		t.Errorf("half a message was kept: %+v, %v", m, err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}

// TestProxiedSession holds that a session carries the proxy's word for who the
// client is into its log line, once, from a proxy only.
func TestProxiedSession(t *testing.T) {
	f := start(t, Options{Mode: tlsconf.Implicit})
	r := tlsRaw(t, f)
	r.do(`ID ("x-session-id" "edge1" "x-originating-ip" "192.0.2.9" "x-originating-port" "50123" "x-client-transport" "TLS" "x-forward-home-generation" "7")`, "OK")
	r.do(`ID ("x-session-id" "other" "x-originating-ip" "192.0.2.66")`, "OK")
	// ada@example.test\0proxy\0joint
	r.do("AUTHENTICATE PLAIN YWRhQGV4YW1wbGUudGVzdABwcm94eQBqb2ludA==", "OK")
	r.do(`ID ("x-session-id" "third" "x-originating-ip" "192.0.2.67")`, "OK")
	r.do("LOGOUT", "OK")
	waitFor(t, func() bool { return f.logs.FilterMessage("session").Len() == 1 })
	line := f.logs.FilterMessage("session").All()[0].ContextMap()
	if line["session"] != "edge1" || line["client"] != "192.0.2.9:50123" || line["user"] != "ada@example.test" || line["reason"] != "logout" || line["proxy"] == nil {
		t.Errorf("got %v", line)
	}
	if generation, err := f.store.Generation(t.Context(), "ada@example.test"); err != nil || generation != 7 {
		t.Errorf("got generation %d, %v", generation, err)
	}

	bad := tlsRaw(t, f)
	bad.do(`ID ("x-originating-ip" "not an address")`, "NO [CLIENTBUG]")
	bad.do("LOGOUT", "OK")
}

// TestStrangersIdentity holds that nobody else is believed.
func TestStrangersIdentity(t *testing.T) {
	f := start(t, Options{})
	r := connect(t, f)
	r.do(`ID ("x-session-id" "forged" "x-originating-ip" "192.0.2.9")`, "OK")
	r.do("LOGIN ada@example.test secret", "OK")
	r.do("LOGOUT", "OK")
	waitFor(t, func() bool { return f.logs.FilterMessage("session").Len() == 1 })
	line := f.logs.FilterMessage("session").All()[0].ContextMap()
	if line["session"] == "forged" || !strings.HasPrefix(line["client"].(string), "127.0.0.1:") {
		t.Errorf("got %v", line)
	}
}

// TestPanic holds that a session that panics ends alone.
func TestPanic(t *testing.T) {
	f := start(t, Options{}, func(s backend.Store) backend.Store {
		return &hooks{Store: s, structure: func() (*message.Part, error) { panic("a bug") }}
	})
	f.append(t, "ada", "INBOX", testMessage(t, "plain.eml"))
	other, r := connect(t, f), connect(t, f)
	for _, s := range []*raw{other, r} {
		s.do("LOGIN ada@example.test secret", "OK")
		s.do("SELECT INBOX", "OK")
	}
	r.send("x FETCH 1 ENVELOPE\r\n")
	if all, err := io.ReadAll(r.r); err != nil || len(all) > 0 {
		t.Errorf("got %q, %v", all, err)
	}
	other.do("FETCH 1 FLAGS", "OK")
	f.stop() // the connection closes before the log is written
	if f.logs.FilterMessage("session panicked").Len() != 1 {
		t.Error("no word of it in the log")
	}
}

// TestStopCompressed holds that a server that stops says goodbye through the
// compressed layer too, to clients that idle and to those that do not.
func TestStopCompressed(t *testing.T) {
	f := start(t, Options{})
	var clients []*raw
	for _, last := range []string{"IDLE", "NOOP"} {
		r := connect(t, f)
		r.do("LOGIN ada@example.test secret", "OK")
		r.do("COMPRESS DEFLATE", "OK")
		c := compressed(t, &client{r.Conn, r.r})
		r = &raw{t, c.Conn, c.r}
		r.send("x " + last + "\r\n")
		r.line()
		clients = append(clients, r)
	}
	f.stop()
	for _, r := range clients {
		if line := r.line(); line != "* BYE Server is shutting down" {
			t.Errorf("got %q", line)
		}
	}
}
