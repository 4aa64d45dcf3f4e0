package tcpauth

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
)

const taggedVersion = "+OK switchyard test 1 encoded tagged"

// tagged writes a line of an answer as a server does.
func tagged(tag, command, line string) string {
	return string(appendTagged(nil, []byte(tag), sumOf([]byte(command)).add([]byte(line)), []byte(line))) + "\n"
}

// The protocol document's example.
func TestTagExample(t *testing.T) {
	const want = "#7f aecf8fc9 +OK anna@example.test config 0 tohost=\"b1\"\n"
	if got := tagged("7f", "lookup anna@example.test", `+OK anna@example.test config 0 tohost="b1"`); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	tag, s, rest, err := parseTagged([]byte(strings.TrimSuffix(want, "\n")))
	if err != nil || string(tag) != "7f" || s != 0xaecf8fc9 || !strings.HasPrefix(string(rest), "+OK anna") {
		t.Errorf("read: %q, %x, %q, %v", tag, uint32(s), rest, err)
	}
}

func FuzzTags(f *testing.F) {
	f.Add([]byte("#7f 5a61ec47 +OK x"), uint64(1))
	f.Add([]byte("#0z 5a61ec47 "), uint64(1<<63))
	f.Add([]byte("# 5a61ec47 +OK"), uint64(36))
	f.Fuzz(func(t *testing.T, line []byte, n uint64) {
		if text := appendTag(nil, n%(1<<60)); len(text) > maxTag {
			t.Fatalf("%d: %q", n, text)
		} else if got, ok := parseTag(text); !ok || got != n%(1<<60) {
			t.Fatalf("%d is written %q and read %d, %v", n%(1<<60), text, got, ok)
		}
		tag, s, rest, err := parseTagged(line)
		if err != nil {
			return
		}
		if again := appendTagged(nil, tag, s, rest); !bytes.Equal(again, line) {
			t.Fatalf("%q is written %q", line, again)
		}
		if number, ok := parseTag(tag); ok && string(appendTag(nil, number)) != string(tag) {
			t.Fatalf("two tags are %d", number)
		}
	})
}

// TestTaggedDialog: tags at the server, as somebody types them.
func TestTaggedDialog(t *testing.T) {
	s := serve(t, contract(t), ServerOptions{Secret: "x", Version: "1"})
	p := connect(t, s.address)
	ask := func(command string, lines ...string) {
		t.Helper()
		p.send("#a1 " + command + "\n")
		sum := sumOf([]byte(command))
		for _, line := range lines {
			sum = sum.add([]byte(line))
			p.want(string(appendTagged(nil, []byte("a1"), sum, []byte(line))))
		}
	}
	ask("lookup anna@example.test", "-DEAD the secret must be shown first")
	ask("auth x", "-DEAD the secret must be shown first")
	ask("quit", "-DEAD the secret must be shown first")
	p.send("auth x\n")
	p.want("+OK")
	ask("lookup nobody@example.test", "-ERR no such user")
	ask("check anna@example.test wrong", "-ERR password wrong or not a valid user")
	ask("version", "+OK switchyard 1 1 encoded tagged")
	ask("set new@x.test p", "+OK new@x.test added to database")
	ask("search new@", "+DATA new@x.test", fmt.Sprintf("+OK Search Complete 1 items found out of %d", len(lookuptest.Accounts())+1))
	ask("del new@x.test", "+OK new@x.test deleted from database")
	ask("quit", "-ERR not with a tag")
	ask("feed", "-ERR not with a tag")
	ask("auth x", "-ERR not with a tag")
	ask("rubbish", "-ERR unknown command, try help")
	for _, bad := range []string{"#", "# lookup a@b", "#A lookup a@b", "#abcdefghijklmnopq lookup a@b", "#a", "#a\tb c"} {
		p.send(bad + "\n")
		p.want("-ERR a tag is 1 to 16 digits and lower-case letters, and a command follows")
	}
	p.send("lookup nobody@example.test\n")
	p.want("-ERR no such user")
	p.send("quit\n")
	p.want("+OK")
	p.wantEOF()
}

// Many callers over few connections; answers come in any order.
func TestManyCallers(t *testing.T) {
	db := newMemory()
	const users = 50
	for i := range users {
		if _, err := db.Set(t.Context(), fmt.Sprintf("u%d@x.test", i), new("p"), map[string]string{"tohost": fmt.Sprint("b", i)}); err != nil {
			t.Fatal(err)
		}
	}
	for what, database := range map[string]Database{"background": db, "immediate": homes{db}} {
		s := serveAny(t, database, ServerOptions{})
		c := newClient(t, ClientOptions{Timeout: 20 * time.Second}, s.address)
		var wg sync.WaitGroup
		for caller := range 64 {
			wg.Go(func() {
				for i := range 100 {
					n := (caller*31 + i) % (users + 5)
					name := fmt.Sprintf("u%d@x.test", n)
					a, err := c.Lookup(t.Context(), name)
					if n >= users && !errors.Is(err, lookup.ErrAbsent) || n < users && (err != nil || a.Home != fmt.Sprint("b", n)) {
						t.Errorf("%s: %s: got %+v, %v", what, name, a, err)
					}
				}
			})
		}
		wg.Wait()
		if n := s.logs.FilterMessage("connection finished").Len(); n != 0 {
			t.Errorf("%s: %d connections were finished", what, n)
		}
	}
}

// homes answers lookups at once.
type homes struct{ *memory }

func (h homes) AppendAnswer(dst []byte, name string) ([]byte, error) {
	a, err := h.memory.Lookup(context.Background(), name)
	if err != nil {
		return dst, err
	}
	return append(dst, "tohost=\""+a.Home+"\""...), nil
}

// A quick lookup reads like any other.
func TestImmediateAnswers(t *testing.T) {
	db := newMemory()
	for name, home := range map[string]string{"anna@x.test": "b1", "jörg@x.test": "b2"} {
		if _, err := db.Set(t.Context(), name, new("p"), map[string]string{"tohost": home}); err != nil {
			t.Fatal(err)
		}
	}
	p := connect(t, serveAny(t, homes{db}, ServerOptions{}).address)
	p.send("lookup ANNA@x.test\r\nlookup jörg@x.test\nlookup  anna@x.test\nlookup nobody@x.test\nlookup a@b@c\nlookup \n")
	p.want("+OK anna@x.test config 0 tohost=\"b1\"\r")
	p.want(`+OK jörg@x.test config 0 tohost="b2"`)
	p.want(`+OK anna@x.test config 0 tohost="b1"`)
	p.want("-ERR no such user")
	p.want("-ERR no such user")
	p.want("-ERR a user name is missing")
	db.set(func(m *memory) { m.fail = errors.New("disk on fire") })
	p.send("#1 lookup anna@x.test\n")
	p.want(strings.TrimSuffix(tagged("1", "lookup anna@x.test", "-DEAD user database unavailable"), "\n"))
}

// Lookups do not wait behind passwords.
func TestLookupsOvertake(t *testing.T) {
	db := newMemory()
	if _, err := db.Set(t.Context(), "anna@x.test", new("p"), map[string]string{"tohost": "b1"}); err != nil {
		t.Fatal(err)
	}
	started, hold := make(chan struct{}, 100), make(chan struct{})
	s := serveAny(t, homes{db}, ServerOptions{})
	c := newClient(t, ClientOptions{Timeout: 20 * time.Second}, s.address)
	lookupHome(t, c, "anna@x.test", "b1")
	db.set(func(m *memory) { m.started, m.hold = started, hold })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := c.Check(t.Context(), lookup.Credentials{Name: "anna@x.test", Password: "p"}); err != nil {
				t.Errorf("check: %v", err)
			}
		})
	}
	for range 20 {
		<-started
	}
	db.set(func(m *memory) { m.started, m.hold = nil, nil })
	for range 20 {
		lookupHome(t, c, "anna@x.test", "b1")
	}
	// On one connection too.
	close(hold)
	wg.Wait()
}

// More requests than a connection may have in flight wait for their turn.
func TestInFlightIsBounded(t *testing.T) {
	db := newMemory()
	started, hold := make(chan struct{}, 2*maxInFlight), make(chan struct{})
	db.set(func(m *memory) { m.started, m.hold = started, hold })
	s := serve(t, db, ServerOptions{})
	p := connect(t, s.address)
	const n = maxInFlight + 10
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, "#%d lookup u%d@x.test\n", i, i)
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.send(lines.String()) })
	for range maxInFlight {
		<-started
	}
	select {
	case <-started:
		t.Error("one more is in flight")
	case <-time.After(20 * time.Millisecond): // that it never comes cannot be waited for
	}
	close(hold)
	wg.Wait()
	seen := make(map[string]bool)
	for range n {
		tag, _, rest, err := parseTagged([]byte(p.line()))
		if err != nil || string(rest) != "-ERR no such user" || seen[string(tag)] {
			t.Fatalf("got %q, %q, %v", tag, rest, err)
		}
		seen[string(tag)] = true
	}
}

// A client that takes no answers is cut off, and holds up nobody else.
func TestClientThatTakesNothing(t *testing.T) {
	db := newMemory()
	if _, err := db.Set(t.Context(), "anna@x.test", new("p"), map[string]string{"a": strings.Repeat("x", 30000)}); err != nil {
		t.Fatal(err)
	}
	s := serve(t, db, ServerOptions{Early: 200 * time.Millisecond})
	p := connect(t, s.address)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 5000 {
			if _, err := fmt.Fprintf(p.conn, "#%d lookup anna@x.test\n", i); err != nil {
				return
			}
		}
	})
	other := connect(t, s.address)
	other.send("lookup nobody@x.test\n")
	other.want("-ERR no such user")
	eventually(t, "it is cut off", func() bool { return s.logs.FilterMessage("connection finished").Len() >= 1 })
	wg.Wait()
}

// An answer under way is given when the daemon ends.
func TestShutdownTagged(t *testing.T) {
	db := newMemory()
	s := serve(t, db, ServerOptions{})
	p := connect(t, s.address)
	started, hold := make(chan struct{}), make(chan struct{})
	db.set(func(m *memory) { m.started, m.hold = started, hold })
	p.send("#1 set anna@x.test p\n")
	<-started
	var wg sync.WaitGroup
	wg.Go(s.stop)
	eventually(t, "it does not listen any more", func() bool {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(hold)
	p.want(strings.TrimSuffix(tagged("1", "set anna@x.test p", "+OK anna@x.test added to database"), "\n"))
	p.wantEOF()
	wg.Wait()
}

// An old server never sees a tag; one that becomes a new one does.
func TestTagsAreNegotiated(t *testing.T) {
	a := newActor(t, "+OK NWAuth 4.0g tagged", func(w io.Writer, line string, _ int) bool {
		io.WriteString(w, right(line))
		return true
	})
	c := newClient(t, ClientOptions{}, a.address)
	for range 5 {
		lookupHome(t, c, "anna@x.test", "b1")
	}
	for _, line := range a.asked() {
		if strings.Contains(line, "#") {
			t.Errorf("an old server was asked %q", line)
		}
	}
	if n := a.connections(); n != 1 {
		t.Errorf("%d connections to it", n)
	}
}

// TestFaultsOnTheWire runs the contract through a wire that stops, hangs, slows,
// truncates and garbles while many ask. No answer is ever another caller's, and
// it recovers.
func TestFaultsOnTheWire(t *testing.T) {
	db := newMemory()
	const users = 40
	for i := range users {
		if _, err := db.Set(t.Context(), fmt.Sprintf("u%d@x.test", i), new("p"), map[string]string{"tohost": fmt.Sprint("b", i)}); err != nil {
			t.Fatal(err)
		}
	}
	s := serveAny(t, homes{db}, ServerOptions{})
	w := lookuptest.NewWire(t, "tcp", s.address)
	c := newClient(t, ClientOptions{Timeout: 400 * time.Millisecond, MaxBackoff: time.Millisecond}, w.Addr())
	var found, absent, away atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for caller := range 32 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				n := (caller*7 + i) % (2 * users)
				a, err := c.Lookup(t.Context(), fmt.Sprintf("u%d@x.test", n))
				switch lookup.AnswerOf(err) {
				case lookup.AnswerFound:
					if found.Add(1); n >= users || a.Home != fmt.Sprint("b", n) {
						t.Errorf("u%d is at %s", n, a.Home)
					}
				case lookup.AnswerAbsent:
					if absent.Add(1); n < users {
						t.Errorf("u%d is absent", n)
					}
				case lookup.AnswerUnavailable:
					away.Add(1)
				default:
					t.Errorf("u%d: %v", n, err)
				}
			}
		})
	}
	for round := range 3 {
		for what, fault := range map[string]func(){
			"stop": w.Stop, "hang": w.Hang, "slow": func() { w.Slow(time.Millisecond) },
			"truncate": func() { w.Truncate(500 + round*777) }, "garble": func() { w.Garble(50 + 333*round) },
		} {
			w.Mend(t)
			before := found.Load()
			eventually(t, "answers before "+what, func() bool { return found.Load() > before+50 })
			fault()
			asked := found.Load() + absent.Load() + away.Load()
			eventually(t, "questions under "+what, func() bool { return found.Load()+absent.Load()+away.Load() > asked+60 })
		}
	}
	w.Mend(t)
	before := found.Load()
	eventually(t, "answers in the end", func() bool { return found.Load() > before+50 })
	cancel()
	wg.Wait()
	t.Logf("%d found, %d absent, %d unavailable", found.Load(), absent.Load(), away.Load())
	if away.Load() == 0 || absent.Load() == 0 {
		t.Error("the faults did nothing")
	}
}

// hostile is a server that mixes up tagged answers as a script says.
func hostile(t testing.TB, script []byte) (address string, stop func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	conns := make(map[net.Conn]bool)
	step := 0
	next := func() byte {
		mu.Lock()
		defer mu.Unlock()
		if step++; step > len(script) {
			return 0
		}
		return script[step-1]
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				mixUp(conn, next)
			})
		}
	})
	return ln.Addr().String(), func() {
		ln.Close()
		mu.Lock()
		for conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	}
}

// truth is the answer to a lookup: the home is made of the name, and names with
// an x at their front do not exist.
func truth(command string) string {
	name := strings.TrimPrefix(command, "lookup ")
	if strings.HasPrefix(name, "x") {
		return "-ERR no such user"
	}
	return "+OK " + name + " config 0 tohost=\"home-of-" + name + "\""
}

func mixUp(conn net.Conn, next func() byte) {
	lines := bufio.NewScanner(conn)
	type asked struct{ tag, command string }
	var held []asked
	for lines.Scan() {
		if lines.Text() == "version" {
			io.WriteString(conn, taggedVersion+"\n")
			continue
		}
		tag, command, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "#"), " ")
		now := asked{tag, command}
		line := tagged(tag, command, truth(command))
		action := next()
		other := now
		if len(held) > 0 {
			other = held[int(action>>4)%len(held)]
		}
		switch action & 15 {
		case 1, 2: // later
			held = append(held, now)
			continue
		case 3: // the answer to another question, and the other way round
			line = tagged(tag, other.command, truth(other.command)) + tagged(other.tag, command, truth(command))
		case 4: // another's tag on the right answer
			line = tagged(other.tag, command, truth(command))
		case 5: // twice
			line += line
		case 6: // a tag that nobody has
			line = tagged("zz"+tag, command, truth(command))
		case 7: // a bit
			b := []byte(line)
			b[int(action>>4)*7%len(b)] ^= 1 << (action >> 5)
			line = string(b)
		case 8: // cut
			io.WriteString(conn, line[:len(line)*int(action>>4)/16])
			return
		case 9: // another account, with a sum that is right
			line = tagged(tag, command, truth("lookup other@x.test"))
		case 10:
			line = tagged(tag, command, "-DEAD not now")
		case 11: // one line too many in front
			line = tagged(tag, command, "+DATA x") + line
		case 12: // without a tag
			line = truth(command) + "\n"
		case 13: // the request was garbled on the way
			line = tagged(tag, command+"x", truth("lookup x"))
		case 14: // old ones now, in the other order
			for i := len(held) - 1; i >= 0; i-- {
				line += tagged(held[i].tag, held[i].command, truth(held[i].command))
			}
			held = nil
		}
		if _, err := io.WriteString(conn, line); err != nil {
			return
		}
	}
}

// FuzzMixUps: whatever a server does to tags, sums, orders and bytes, a caller
// gets its own answer or none.
func FuzzMixUps(f *testing.F) {
	f.Add([]byte{1, 1, 1, 14, 0, 3, 0x13, 0x23})
	f.Add([]byte{1, 4, 1, 0x14, 5, 6, 7, 0x37, 0x57, 0x97, 8, 0x88})
	f.Add([]byte{9, 10, 11, 12, 13, 1, 2, 1, 14})
	r := rand.New(rand.NewPCG(1, 2))
	for range 5 {
		script := make([]byte, 60)
		for i := range script {
			script[i] = byte(r.Uint32())
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 200 {
			return
		}
		address, stop := hostile(t, script)
		defer stop()
		c, err := NewClient([]string{address}, ClientOptions{Timeout: 60 * time.Millisecond, MaxBackoff: time.Microsecond})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var wg sync.WaitGroup
		for caller := range 8 {
			wg.Go(func() {
				for i := range 6 {
					name := fmt.Sprintf("u%d-%d@x.test", caller, i)
					if (caller+i)%3 == 0 {
						name = "x" + name
					}
					a, err := c.Lookup(context.Background(), name)
					switch lookup.AnswerOf(err) {
					case lookup.AnswerFound:
						if a.Name != name || a.Home != "home-of-"+name {
							t.Errorf("%s got %+v", name, a)
						}
					case lookup.AnswerAbsent:
						if name[0] != 'x' {
							t.Errorf("%s is absent", name)
						}
					case lookup.AnswerRejected:
						t.Errorf("%s: %v", name, err)
					}
				}
			})
		}
		wg.Wait()
	})
}
