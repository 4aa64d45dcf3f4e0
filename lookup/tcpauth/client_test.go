package tcpauth

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
)

// oldFashioned stands in front of a server and hides from its client that it
// takes tags.
func oldFashioned(t *testing.T, target string) string {
	t.Helper()
	ln := listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer client.Close()
				server, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				var both sync.WaitGroup
				both.Go(func() { io.Copy(server, client); server.Close() })
				lines := bufio.NewReader(server)
				for {
					line, err := lines.ReadString('\n')
					if strings.HasPrefix(line, "+OK switchyard ") {
						line = strings.Replace(line, " "+extTagged, "", 1)
					}
					io.WriteString(client, line)
					if err != nil {
						break
					}
				}
				client.Close()
				both.Wait()
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// Without tags, one question at a time on a connection, it is the same.
func TestContractWithoutTags(t *testing.T) {
	const short = time.Second
	var g *gate
	lookuptest.Run(t, lookuptest.Fixture{
		Open: func(t *testing.T) lookup.Directory {
			g = newGate(t, serve(t, contract(t), ServerOptions{}).address)
			timeout := 20 * time.Second
			if strings.HasSuffix(t.Name(), "/hanging") {
				timeout = short
			}
			return newClient(t, ClientOptions{Timeout: timeout}, oldFashioned(t, g.address))
		},
		Break:   func(*testing.T) { g.set("closed") },
		Hang:    func(*testing.T) { g.set("hanging") },
		Mend:    func(*testing.T) { g.set("open") },
		Timeout: short,
	})
}

func TestHostileNames(t *testing.T) {
	lookuptest.RunHostile(t, func(t *testing.T) lookup.Directory {
		return newClient(t, ClientOptions{Timeout: 20 * time.Second}, serve(t, contract(t), ServerOptions{}).address)
	})
}

// With a second server nobody notices.
func TestContractWithSecondServer(t *testing.T) {
	lookuptest.Run(t, lookuptest.Fixture{Open: func(t *testing.T) lookup.Directory {
		db := contract(t)
		g := newGate(t, serve(t, db, ServerOptions{}).address)
		g.set("closed")
		return newClient(t, ClientOptions{Timeout: 20 * time.Second}, g.address, serve(t, db, ServerOptions{}).address)
	}})
}

func lookupHome(t *testing.T, c *Client, name, home string) {
	t.Helper()
	if a, err := c.Lookup(t.Context(), name); err != nil || a.Home != home || a.Name != name {
		t.Errorf("lookup %s: got %+v, %v, want home %s", name, a, err, home)
	}
}

func wantUnavailable(t *testing.T, what string, err error) {
	t.Helper()
	if lookup.AnswerOf(err) != lookup.AnswerUnavailable || !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("%s: got %v, want unavailable", what, err)
	}
}

// Whatever is not a well-formed answer about the account that was asked for is
// unavailable, and the next question gets its own answer.
func TestBadAnswers(t *testing.T) {
	for what, answer := range map[string]string{
		"nothing":                 "",
		"half a line":             "+OK anna@x.test config 0",
		"half a label":            "+OK anna@x.test config 0 tohost=\"b",
		"rubbish":                 "HTTP/1.1 400 Bad Request\n",
		"binary":                  "\x00\x01\x02\xff\n",
		"empty line":              "\n",
		"another user":            "+OK berta@x.test config 0 tohost=\"b2\"\n",
		"a longer name":           "+OK anna@x.test.org config 0 tohost=\"b2\"\n",
		"no user":                 "+OK\n",
		"bad labels":              "+OK anna@x.test config 0 tohost=\"b2\" tohost=\"b1\"\n",
		"bad generation":          "+OK anna@x.test config 0 homegen=\"x\"\n",
		"a data line":             "+DATA anna@x.test\n",
		"two answers":             "+OK anna@x.test config 0 tohost=\"b2\"\n-ERR no such user\n",
		"the right one, and more": "+OK anna@x.test config 0 tohost=\"b1\"\n+",
		"an endless line":         "+OK anna@x.test " + strings.Repeat("x", 200000),
		"control character":       "+OK anna@x.test config 0 a=\"b\rc\"\n",
		"dead":                    "-DEAD database is down\n",
	} {
		t.Run(what, func(t *testing.T) {
			a := newActor(t, "-ERR", func(w io.Writer, line string, _ int) bool {
				if strings.Contains(line, "berta") {
					io.WriteString(w, right(line))
					return true
				}
				io.WriteString(w, answer)
				return answer == "-DEAD database is down\n"
			})
			c := newClient(t, ClientOptions{MaxBackoff: time.Nanosecond}, a.address)
			_, err := c.Lookup(t.Context(), "anna@x.test")
			wantUnavailable(t, "lookup", err)
			lookupHome(t, c, "berta@x.test", "b1")
			_, err = c.Check(t.Context(), lookup.Credentials{Name: "anna@x.test", Password: "p"})
			wantUnavailable(t, "check", err)
			lookupHome(t, c, "berta@x.test", "b1")
			if strings.Contains(err.Error(), "b2") {
				t.Errorf("the error shows the answer: %v", err)
			}
		})
	}
}

// Answers that come after the time-out are never taken for the next one's.
func TestLateAnswers(t *testing.T) {
	release := make(chan struct{})
	a := newActor(t, "-ERR", func(w io.Writer, line string, _ int) bool {
		if strings.Contains(line, "late") {
			<-release
			io.WriteString(w, "-ERR no such user\n")
			return true
		}
		io.WriteString(w, right(line))
		return true
	})
	c := newClient(t, ClientOptions{Timeout: 100 * time.Millisecond, MaxBackoff: time.Nanosecond, Connections: 1}, a.address)
	_, err := c.Lookup(t.Context(), "late@x.test")
	wantUnavailable(t, "late lookup", err)
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	_, err = c.Lookup(ctx, "late@x.test")
	wantUnavailable(t, "cancelled lookup", err)
	close(release)
	for range 20 {
		lookupHome(t, c, "anna@x.test", "b1")
	}
}

// Bytes that arrive while a connection is idle belong to no question.
func TestUnaskedBytes(t *testing.T) {
	sent := make(chan struct{}, 1)
	a := newActor(t, "-ERR", func(w io.Writer, line string, conn int) bool {
		io.WriteString(w, right(line))
		if conn == 1 {
			go func() {
				io.WriteString(w, "-ERR no such user\n")
				sent <- struct{}{}
			}()
		}
		return true
	})
	c := newClient(t, ClientOptions{}, a.address)
	// The unasked line may come along with the answer, then that is not
	// believed either; it never becomes an answer.
	if _, err := c.Lookup(t.Context(), "anna@x.test"); err != nil {
		wantUnavailable(t, "lookup", err)
	}
	<-sent
	eventually(t, "the right answer", func() bool {
		account, err := c.Lookup(t.Context(), "berta@x.test")
		if errors.Is(err, lookup.ErrAbsent) {
			t.Fatal("an unasked line was taken for the answer")
		}
		return err == nil && account.Home == "b1"
	})
}

// A server that was restarted is not noticed: the connections to it are dead,
// the question is asked again on a fresh one.
func TestRestart(t *testing.T) {
	db := contract(t)
	s := serve(t, db, ServerOptions{})
	c := newClient(t, ClientOptions{}, s.address)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { lookupHome(t, c, "anna@example.test", "b1") })
	}
	wg.Wait()
	s.stop()
	s = serve(t, db, ServerOptions{}, s.address)
	for range 8 {
		wg.Go(func() { lookupHome(t, c, "anna@example.test", "b1") })
	}
	wg.Wait()
	password := "x"
	s.stop()
	serve(t, db, ServerOptions{}, s.address)
	if err := c.Set(t.Context(), "new@x.test", &password, nil); err != nil {
		t.Errorf("set after a restart: %v", err)
	}
}

// An idempotent question is sent twice when the connection breaks, a change
// once.
func TestSentHowOften(t *testing.T) {
	a := newActor(t, "-ERR", func(w io.Writer, line string, conn int) bool {
		if strings.HasPrefix(line, "lookup warm") {
			io.WriteString(w, right(line))
			return true
		}
		return false
	})
	c := newClient(t, ClientOptions{MaxBackoff: time.Nanosecond}, a.address)
	warm := func() { lookupHome(t, c, "warm@x.test", "b1") }
	count := func(prefix string) (n int) {
		for _, line := range a.asked() {
			if strings.HasPrefix(line, prefix) {
				n++
			}
		}
		return n
	}
	warm()
	_, err := c.Lookup(t.Context(), "anna@x.test")
	wantUnavailable(t, "lookup", err)
	warm()
	_, err = c.Check(t.Context(), lookup.Credentials{Name: "anna@x.test", Password: "p", Client: netip.MustParseAddr("::ffff:192.0.2.1")})
	wantUnavailable(t, "check", err)
	warm()
	_, err = c.Search(t.Context(), "*", 0, 0)
	wantUnavailable(t, "search", err)
	warm()
	wantUnavailable(t, "set", c.Set(t.Context(), "anna@x.test", nil, nil))
	warm()
	wantUnavailable(t, "del", c.Delete(t.Context(), "anna@x.test"))
	for prefix, want := range map[string]int{"lookup anna": 2, "check anna@x.test p 192.0.2.1": 2, "search * -max 1000": 2, "set": 1, "del": 1} {
		if got := count(prefix); got != want {
			t.Errorf("%s: sent %d times, want %d", prefix, got, want)
		}
	}
}

func TestFailover(t *testing.T) {
	second := newActor(t, "-ERR", func(w io.Writer, line string, _ int) bool {
		io.WriteString(w, strings.Replace(right(line), "b1", "b2", 1))
		return true
	})
	dead := newActor(t, "-ERR", func(w io.Writer, line string, _ int) bool {
		io.WriteString(w, "-DEAD not now\n")
		return true
	})
	closes := newActor(t, "-ERR", func(io.Writer, string, int) bool { return false })
	notReady := newActor(t, "-DEAD loading", func(io.Writer, string, int) bool { return false })
	garbles := newActor(t, "-ERR", func(w io.Writer, _ string, _ int) bool {
		io.WriteString(w, "+OK who config 0\n")
		return true
	})
	ln := listen(t)
	refuses := ln.Addr().String()
	ln.Close()
	hangs := newActor(t, "-ERR", func(io.Writer, string, int) bool { return true })
	for what, first := range map[string]string{
		"refuses": refuses, "says dead": dead.address, "closes": closes.address, "not ready": notReady.address, "garbles": garbles.address, "hangs": hangs.address,
	} {
		t.Run(what, func(t *testing.T) {
			c := newClient(t, ClientOptions{Timeout: 10 * time.Second, Attempt: 200 * time.Millisecond}, first, second.address)
			for range 3 {
				lookupHome(t, c, "anna@x.test", "b2")
			}
		})
	}
	t.Run("a caller in a hurry", func(t *testing.T) {
		c := newClient(t, ClientOptions{}, hangs.address, second.address)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if a, err := c.Lookup(ctx, "anna@x.test"); err != nil || a.Home != "b2" {
			t.Errorf("got %+v, %v", a, err)
		}
	})
	t.Run("back again", func(t *testing.T) {
		g := newGate(t, serve(t, contract(t), ServerOptions{}).address)
		c := newClient(t, ClientOptions{MaxBackoff: 50 * time.Millisecond}, g.address, second.address)
		lookupHome(t, c, "anna@example.test", "b1")
		g.set("closed")
		lookupHome(t, c, "anna@example.test", "b2")
		g.set("open")
		eventually(t, "the first server is asked again", func() bool {
			a, err := c.Lookup(t.Context(), "anna@example.test")
			return err == nil && a.Home == "b1"
		})
	})
}

// A server that is slow with one question goes on being asked others.
func TestSlowQuestion(t *testing.T) {
	a := newActor(t, "-ERR", func(w io.Writer, line string, _ int) bool {
		if !strings.Contains(line, "slow") {
			io.WriteString(w, right(line))
		}
		return true
	})
	c := newClient(t, ClientOptions{Attempt: 300 * time.Millisecond, MaxBackoff: time.Hour}, a.address)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := c.Lookup(t.Context(), "slow@x.test")
		wantUnavailable(t, "slow", err)
	})
	eventually(t, "the slow question is under way", func() bool { return len(a.asked()) == 1 })
	lookupHome(t, c, "anna@x.test", "b1")
	wg.Wait()
	lookupHome(t, c, "berta@x.test", "b1")
}

// A server that is away is left alone, so that questions are answered at once
// and it is not stormed.
func TestBackoff(t *testing.T) {
	g := newGate(t, "")
	g.set("closed")
	c := newClient(t, ClientOptions{MaxBackoff: time.Hour}, g.address)
	// 50 ms, 100 ms, … half of it at least.
	start := time.Now()
	for time.Since(start) < 300*time.Millisecond {
		_, err := c.Lookup(t.Context(), "anna@x.test")
		wantUnavailable(t, "lookup", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dialled > 6 {
		t.Errorf("dialled %d times within 300 ms", g.dialled)
	}
}

func TestBounds(t *testing.T) {
	release := make(chan struct{})
	a := newActor(t, "-ERR", func(w io.Writer, line string, _ int) bool {
		<-release
		io.WriteString(w, right(line))
		return true
	})
	c := newClient(t, ClientOptions{Connections: 2, MaxWaiting: 3, Timeout: 20 * time.Second}, a.address)
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() { lookupHome(t, c, fmt.Sprintf("u%d@x.test", i), "b1") })
	}
	eventually(t, "two asked, three wait", func() bool { return len(a.asked()) == 2 && c.waiting.Load() == 3 })
	_, err := c.Lookup(t.Context(), "more@x.test")
	if !errors.Is(err, errWaiting) {
		t.Errorf("a sixth: got %v, want %v", err, errWaiting)
	}
	wantUnavailable(t, "a sixth", err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Lookup(ctx, "more@x.test")
	wantUnavailable(t, "ended context", err)
	close(release)
	wg.Wait()
	if n := a.connections(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// An old server never sees what its grammar does not have.
func TestOldServer(t *testing.T) {
	a := newActor(t, "+OK NWAuth 4.0g", func(w io.Writer, line string, _ int) bool {
		if strings.HasPrefix(line, "check") {
			io.WriteString(w, right(line))
		} else {
			io.WriteString(w, "-ERR readonly\n")
		}
		return true
	})
	c := newClient(t, ClientOptions{}, a.address)
	for _, password := range []string{"open sesame", `a"b`, "a\nquit", "(NULL)", ""} {
		if _, err := c.Check(t.Context(), lookup.Credentials{Name: "anna@x.test", Password: password}); !errors.Is(err, lookup.ErrRejected) {
			t.Errorf("check with %q: got %v, want rejected", password, err)
		}
		var refused *RefusedError
		if err := c.Set(t.Context(), "anna@x.test", &password, nil); !errors.As(err, &refused) {
			t.Errorf("set of %q: got %v, want a refusal", password, err)
		}
	}
	var refused *RefusedError
	if err := c.Set(t.Context(), "anna@x.test", nil, map[string]string{"a": "b"}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "readonly") {
		t.Errorf("set: got %v, want the server's reason", err)
	}
	if _, err := c.Check(t.Context(), lookup.Credentials{Name: "anna@x.test", Password: "plain"}); err != nil {
		t.Errorf("check: %v", err)
	}
	want := []string{`set anna@x.test (NULL) a="b"`, "check anna@x.test plain"}
	if got := a.asked(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("it was asked %q, want %q", got, want)
	}
	// That a password cannot be carried is known only once the server's
	// grammar is: before that, nobody can say.
	ln := listen(t)
	ln.Close()
	away := newClient(t, ClientOptions{}, ln.Addr().String())
	_, err := away.Check(t.Context(), lookup.Credentials{Name: "anna@x.test", Password: "open sesame"})
	wantUnavailable(t, "check without a server", err)
}

// Our own server takes any password.
func TestEncodedPasswords(t *testing.T) {
	s := serve(t, newMemory(), ServerOptions{})
	c := newClient(t, ClientOptions{}, s.address)
	for _, password := range []string{"open sesame", `a"b`, " ", "100%", "%20", "a\nquit", "pässwörd ß", "\xff\x00", "(NULL) "} {
		if err := c.Set(t.Context(), "anna@x.test", &password, map[string]string{"tohost": "b1"}); err != nil {
			t.Errorf("set %q: %v", password, err)
		}
		if _, err := c.Check(t.Context(), lookup.Credentials{Name: "anna@x.test", Password: password}); err != nil {
			t.Errorf("check %q: %v", password, err)
		}
		if _, err := c.Check(t.Context(), lookup.Credentials{Name: "anna@x.test", Password: password + "x"}); !errors.Is(err, lookup.ErrRejected) {
			t.Errorf("check %q with an x: got %v, want rejected", password, err)
		}
	}
}

func TestAdmin(t *testing.T) {
	s := serve(t, newMemory(), ServerOptions{Version: "1.2"})
	c := newClient(t, ClientOptions{}, s.address)
	password := "p"
	for i := range 25 {
		if err := c.Set(t.Context(), fmt.Sprintf("u%02d@x.test", i), &password, map[string]string{"tohost": "b1", "full_name": "Some Body"}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := c.Search(t.Context(), "@x.test", 3, 10)
	if err != nil || len(m.Names) != 10 || m.Names[0] != "u03@x.test" || m.Found != 25 || m.Total != 25 {
		t.Errorf("search: got %+v, %v", m, err)
	}
	if err := c.Delete(t.Context(), "u03@x.test"); err != nil {
		t.Errorf("delete: %v", err)
	}
	var refused *RefusedError
	if err := c.Delete(t.Context(), "u03@x.test"); !errors.As(err, &refused) {
		t.Errorf("second delete: got %v, want a refusal", err)
	}
	if err := c.Set(t.Context(), "u03@x.test", nil, map[string]string{"a": "b"}); !errors.As(err, &refused) {
		t.Errorf("set of nobody: got %v, want a refusal", err)
	}
	if err := c.Set(t.Context(), "u04@x.test", nil, map[string]string{"a": "b\n"}); !errors.As(err, &refused) {
		t.Errorf("set of a bad value: got %v, want a refusal", err)
	}
	if a, err := c.Lookup(t.Context(), "u04@x.test"); err != nil || a.Attributes["full_name"] != "Some Body" {
		t.Errorf("lookup: got %+v, %v", a, err)
	}
	if v, err := c.Version(t.Context()); err != nil || v != "switchyard 1.2 1 encoded tagged" {
		t.Errorf("version: got %q, %v", v, err)
	}
	s.db.set(func(m *memory) { m.fail = errors.New("disk on fire") })
	wantUnavailable(t, "set", c.Set(t.Context(), "u04@x.test", nil, nil))
	_, err = c.Search(t.Context(), "*", 0, 0)
	wantUnavailable(t, "search", err)
}

func TestSearchIsBounded(t *testing.T) {
	a := newActor(t, "-ERR", func(w io.Writer, _ string, _ int) bool {
		for i := range 20 {
			fmt.Fprintf(w, "+DATA u%d@x.test\n", i)
		}
		io.WriteString(w, "+OK 20 found\n")
		return true
	})
	c := newClient(t, ClientOptions{MaxBackoff: time.Nanosecond}, a.address)
	m, err := c.Search(t.Context(), "*", 0, 20)
	if err != nil || len(m.Names) != 20 || m.Found != -1 {
		t.Errorf("got %+v, %v", m, err)
	}
	_, err = c.Search(t.Context(), "*", 0, 19)
	wantUnavailable(t, "more than asked for", err)
}

func TestSecretAndNetworks(t *testing.T) {
	s := serve(t, contract(t), ServerOptions{Secret: "open sesame"})
	for secret, want := range map[string]lookup.Answer{
		"open sesame": lookup.AnswerFound,
		// A client that may not ask never takes that for an answer.
		"": lookup.AnswerUnavailable, "wrong": lookup.AnswerUnavailable,
	} {
		c := newClient(t, ClientOptions{Secret: secret}, s.address)
		_, err := c.Lookup(t.Context(), "anna@example.test")
		if got := lookup.AnswerOf(err); got != want {
			t.Errorf("secret %q: got %v (%v), want %v", secret, got, err, want)
		}
		_, err = c.Lookup(t.Context(), "nobody@example.test")
		if got := lookup.AnswerOf(err); got == lookup.AnswerAbsent && want != lookup.AnswerFound {
			t.Errorf("secret %q: lookup of nobody: got absent", secret)
		}
	}
	// A server without a secret takes any.
	open := serve(t, contract(t), ServerOptions{})
	lookupHome(t, newClient(t, ClientOptions{Secret: "whatever"}, open.address), "anna@example.test", "b1")
	closed := serve(t, contract(t), ServerOptions{Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	_, err := newClient(t, ClientOptions{}, closed.address).Lookup(t.Context(), "anna@example.test")
	wantUnavailable(t, "from another network", err)
	for _, entry := range s.logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "sesame") {
			t.Errorf("the log shows a secret: %s", text)
		}
	}
	for _, secret := range []string{"a\nb", strings.Repeat("x", 1000)} {
		if _, err := NewClient([]string{"127.0.0.1:1"}, ClientOptions{Secret: secret}); err == nil {
			t.Errorf("client with the secret %.10q: got no error", secret)
		}
		if _, err := NewServer(newMemory(), ServerOptions{Secret: secret}); err == nil {
			t.Errorf("server with the secret %.10q: got no error", secret)
		}
	}
}

func TestNewClientRefuses(t *testing.T) {
	for _, servers := range [][]string{nil, {"localhost"}, {"127.0.0.1:1", ""}} {
		if _, err := NewClient(servers, ClientOptions{}); err == nil {
			t.Errorf("%q: got no error", servers)
		}
	}
}

func TestClosedClient(t *testing.T) {
	s := serve(t, contract(t), ServerOptions{})
	c := newClient(t, ClientOptions{}, s.address)
	lookupHome(t, c, "anna@example.test", "b1")
	c.Close()
	_, err := c.Lookup(t.Context(), "anna@example.test")
	wantUnavailable(t, "lookup after close", err)
	eventually(t, "the connection is closed", func() bool { return s.logs.FilterMessage("connection finished").Len() == 1 })
}

// A connection that lies idle for too long is closed, and nobody notices.
func TestIdleConnections(t *testing.T) {
	s := serve(t, contract(t), ServerOptions{})
	c := newClient(t, ClientOptions{Idle: 20 * time.Millisecond}, s.address)
	for i := range 3 {
		lookupHome(t, c, "anna@example.test", "b1")
		eventually(t, "the connection is closed", func() bool { return s.logs.FilterMessage("connection finished").Len() == i+1 })
	}
	// To an old server too.
	a := newActor(t, "-ERR", func(w io.Writer, line string, _ int) bool {
		io.WriteString(w, right(line))
		return true
	})
	c = newClient(t, ClientOptions{Idle: time.Nanosecond}, a.address)
	for range 3 {
		lookupHome(t, c, "anna@x.test", "b1")
	}
	if n := a.connections(); n < 3 {
		t.Errorf("%d connections, want a new one each time", n)
	}
}

// The client's address goes along, and the hanging server's socket is closed.
func TestClientAddress(t *testing.T) {
	s := serve(t, contract(t), ServerOptions{})
	c := newClient(t, ClientOptions{}, s.address)
	r := lookuptest.Account("anna@example.test")
	address := netip.MustParseAddr("fe80::1%eth0")
	if _, err := c.Check(t.Context(), lookup.Credentials{Name: r.Name, Password: r.Password, Client: address}); err != nil {
		t.Fatal(err)
	}
	if got := s.db.checks[0].Client; got != address.WithZone("") {
		t.Errorf("got %v, want %v without its zone", got, address)
	}
}

// BenchmarkLookup1, 8 and 64 are callers of one client over loopback; the
// server is in the same process and answers from memory at once.
func BenchmarkLookup1(b *testing.B)  { benchmarkLookup(b, 1) }
func BenchmarkLookup8(b *testing.B)  { benchmarkLookup(b, 8) }
func BenchmarkLookup64(b *testing.B) { benchmarkLookup(b, 64) }

// instant is a database that answers at once.
type instant struct{ *memory }

func (instant) AppendAnswer(dst []byte, name string) ([]byte, error) {
	return append(dst, `homegen="1" mailstatus="ok" quota="5G" tohost="b1"`...), nil
}

func benchmarkLookup(b *testing.B, callers int) {
	srv, err := NewServer(instant{newMemory()}, ServerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, ln) }()
	defer func() { cancel(); <-done }()
	c, err := NewClient([]string{ln.Addr().String()}, ClientOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, callers)
	for caller := range callers {
		wg.Go(func() {
			name := fmt.Sprintf("user%d@example.test", caller)
			for left.Add(-1) >= 0 {
				start := time.Now()
				if _, err := c.Lookup(b.Context(), name); err != nil {
					b.Error(err)
					return
				}
				took[caller] = append(took[caller], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lookups/s")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
}
