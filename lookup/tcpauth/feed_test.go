package tcpauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/lookuptest"
)

// telling is a database that tells of its changes.
type telling struct {
	*memory
	mu       sync.Mutex
	watchers map[chan lookup.Change]bool
	noFeed   bool
}

func newTelling(m *memory) *telling {
	return &telling{memory: m, watchers: make(map[chan lookup.Change]bool)}
}

func (d *telling) tell(c lookup.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.watchers {
		w <- c
	}
}

func (d *telling) watching() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.watchers)
}

func (d *telling) Watch(ctx context.Context, changed func(lookup.Change)) error {
	return d.Feed(ctx, func() {}, changed)
}

func (d *telling) Feed(ctx context.Context, live func(), changed func(lookup.Change)) error {
	if d.noFeed {
		return lookup.ErrNoFeed
	}
	w := make(chan lookup.Change, 1000)
	d.mu.Lock()
	d.watchers[w] = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watchers, w)
	}()
	live()
	for {
		select {
		case c := <-w:
			changed(c)
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *telling) Set(ctx context.Context, name string, password *string, labels map[string]string) (bool, error) {
	before, _ := d.memory.Lookup(ctx, name)
	added, err := d.memory.Set(ctx, name, password, labels)
	if err == nil {
		after, _ := d.memory.Lookup(ctx, name)
		d.tell(lookup.Change{Name: name, Sessions: !added && (password != nil || before.Home != after.Home || before.Status != after.Status)})
	}
	return added, err
}

func (d *telling) Delete(ctx context.Context, name string) error {
	err := d.memory.Delete(ctx, name)
	if err == nil {
		d.tell(lookup.Change{Name: name, Sessions: true})
	}
	return err
}

func TestFeedContract(t *testing.T) {
	for what, interrupt := range map[string]func(t *testing.T, w *lookuptest.Wire){
		"stopped": func(t *testing.T, w *lookuptest.Wire) { w.Stop(); w.Mend(t) },
		"cut":     func(t *testing.T, w *lookuptest.Wire) { w.Truncate(1); w.Stop(); w.Mend(t) },
	} {
		t.Run(what, func(t *testing.T) {
			var db *telling
			var w *lookuptest.Wire
			lookuptest.RunFeed(t, lookuptest.FeedFixture{
				Open: func(t *testing.T) lookup.Watcher {
					db = newTelling(contract(t))
					w = lookuptest.NewWire(t, "tcp", serveAny(t, db, ServerOptions{Secret: "x"}).address)
					return newClient(t, ClientOptions{Secret: "x", Timeout: 5 * time.Second, MaxBackoff: 10 * time.Millisecond}, w.Addr())
				},
				Set: func(t *testing.T, r lookuptest.Record) {
					if _, err := db.Set(t.Context(), r.Name, &r.Password, netwin.Labels(r.Account)); err != nil {
						t.Fatal(err)
					}
				},
				Delete: func(t *testing.T, name string) {
					if err := db.Delete(t.Context(), name); err != nil {
						t.Fatal(err)
					}
				},
				Interrupt: func(t *testing.T) { interrupt(t, w) },
			})
			eventually(t, "nobody watches any more", func() bool { return db.watching() == 0 })
		})
	}
}

func TestNoFeed(t *testing.T) {
	old := newActor(t, "+OK NWAuth 4.0g feed", func(w io.Writer, line string, _ int) bool {
		io.WriteString(w, "-ERR unknown command\n")
		return true
	})
	lookuptest.NoFeed(t, newClient(t, ClientOptions{}, old.address))
	if got := old.asked(); len(got) != 0 {
		t.Errorf("an old server was asked %q", got)
	}
	without := serve(t, newMemory(), ServerOptions{})
	lookuptest.NoFeed(t, newClient(t, ClientOptions{}, without.address))
	turnsOut := newTelling(newMemory())
	turnsOut.noFeed = true
	lookuptest.NoFeed(t, newClient(t, ClientOptions{}, serveAny(t, turnsOut, ServerOptions{}).address, without.address))
	p := connect(t, without.address)
	p.send("feed\nlookup a@x.test\n")
	p.want("-ERR this server has no feed of changes")
	p.want("-ERR no such user")
}

// TestFeedDialog: the feed as it is on the wire.
func TestFeedDialog(t *testing.T) {
	db := newTelling(newMemory())
	s := serveAny(t, db, ServerOptions{})
	p := connect(t, s.address)
	p.send("feed\n")
	p.want("+OK feed")
	db.tell(lookup.Change{Name: "anna@x.test"})
	db.tell(lookup.Change{Name: "bob@x.test", Sessions: true})
	db.tell(lookup.Change{Sessions: true})
	p.want("+DATA 1 change anna@x.test")
	p.want("+DATA 2 sessions bob@x.test")
	p.want("+DATA 3 all")
	s.stop()
	p.want("-DEAD not now")
	p.wantEOF()
	if n := db.watching(); n != 0 {
		t.Errorf("%d watch still", n)
	}
	// Whatever the client says ends it.
	s = serveAny(t, db, ServerOptions{})
	p = connect(t, s.address)
	p.send("feed\n")
	p.want("+OK feed")
	p.send("quit\n")
	p.wantEOF()
	eventually(t, "nobody watches any more", func() bool { return db.watching() == 0 })
}

// Every server is watched; one that comes back counts as a gap.
func TestWatchSeveral(t *testing.T) {
	first, second := newTelling(newMemory()), newTelling(newMemory())
	a, b := serveAny(t, first, ServerOptions{}), serveAny(t, second, ServerOptions{})
	c := newClient(t, ClientOptions{MaxBackoff: 5 * time.Millisecond}, a.address, b.address, serve(t, newMemory(), ServerOptions{}).address)
	changes := make(chan lookup.Change, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx, func(ch lookup.Change) { changes <- ch }) }()
	eventually(t, "both are watched", func() bool { return first.watching() == 1 && second.watching() == 1 })
	for _, db := range []*telling{first, second} {
		want := lookup.Change{Name: "anna@x.test", Sessions: true}
		db.tell(want)
		if got := <-changes; got != want {
			t.Errorf("got %+v", got)
		}
	}
	a.stop()
	serveAny(t, first, ServerOptions{}, a.address)
	if got := <-changes; got != (lookup.Change{}) {
		t.Errorf("after a gap: got %+v", got)
	}
	second.tell(lookup.Change{Name: "bob@x.test"})
	if got := <-changes; got.Name != "bob@x.test" {
		t.Errorf("got %+v", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch ended with %v", err)
	}
}

func FuzzFeed(f *testing.F) {
	for _, s := range []string{"1 change anna@x.test", "1 sessions anna@x.test", "1 all", "0 alive", "2 change a@b", "1 all x", "1 change A@b", "1"} {
		f.Add(s, uint64(0))
	}
	f.Fuzz(func(t *testing.T, text string, last uint64) {
		c, found, err := parseFeed(text, last)
		if err != nil || !found {
			return
		}
		if again := string(appendFeed(nil, last+1, c)); strings.TrimLeft(strings.TrimPrefix(again, "+DATA "), "0") != strings.TrimLeft(text, "0") {
			t.Fatalf("%q is written %q", text, again)
		}
	})
}

// copies is a source of a scripted stream, and a replica that writes down what
// it is given.
type copies struct {
	*memory
	stream func(ctx context.Context, from *netwin.Mark, to netwin.Follower) error
}

func (c copies) Stream(ctx context.Context, from *netwin.Mark, to netwin.Follower) error {
	return c.stream(ctx, from, to)
}

type notes struct {
	mu    sync.Mutex
	from  *netwin.Mark
	lines []string
}

func (n *notes) note(format string, args ...any) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
	return nil
}
func (n *notes) Begin() *netwin.Mark                  { n.note("begin"); return n.from }
func (n *notes) Continue(at netwin.Mark) error        { return n.note("continue %s", at) }
func (n *notes) Copy(at netwin.Mark, count int) error { return n.note("copy %s %d", at, count) }
func (n *notes) Line(line string) error               { return n.note("line %s", line) }
func (n *notes) Copied(until netwin.Mark) error       { return n.note("copied %s", until) }
func (n *notes) Head(newest netwin.Mark) error        { return n.note("head %s", newest) }
func (n *notes) Change(line string, at netwin.Mark, sessions bool) error {
	return n.note("change %s %s %v", line, at, sessions)
}
func (n *notes) text() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.lines, "\n")
}

// What a source sends is what a replica gets, and a stream that is garbled is
// begun anew.
func TestFollow(t *testing.T) {
	m := netwin.Mark{Position: 5, Sum: 77}
	db := copies{memory: newMemory(), stream: func(ctx context.Context, from *netwin.Mark, to netwin.Follower) error {
		if from != nil {
			return errors.Join(to.Continue(*from), to.Head(*from), io.ErrUnexpectedEOF)
		}
		err := errors.Join(to.Copy(m, 2), to.Line(`anna@x.test:{SSHA}x:a="b c"`), to.Line(`:gone@x.test:homegen="3"`), to.Copied(m),
			to.Change(`bob@x.test:*:`, m.Next("bob@x.test:*:"), true), to.Change(":bob@x.test:", m, false), to.Head(m))
		<-ctx.Done()
		return err
	}}
	networks := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	s := serveAny(t, db, ServerOptions{Replicas: networks, Secret: "x"})
	follow := func(address string, n *notes) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Follow(ctx, address, n, FollowOptions{Secret: "x", MaxBackoff: time.Millisecond}) }()
		return sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("follow: %v", err)
			}
		})
	}
	want := fmt.Sprintf("begin\ncopy %[1]s 2\nline anna@x.test:{SSHA}x:a=\"b c\"\nline :gone@x.test:homegen=\"3\"\ncopied %[1]s\nchange bob@x.test:*: %[2]s true\nchange :bob@x.test: %[1]s false\nhead %[1]s", m, m.Next("bob@x.test:*:"))
	n := &notes{}
	stop := follow(s.address, n)
	eventually(t, "the whole stream", func() bool { return n.text() == want })
	stop()
	n = &notes{from: &m}
	stop = follow(s.address, n)
	eventually(t, "a stream that ends is begun again", func() bool {
		once := fmt.Sprintf("begin\ncontinue %[1]s\nhead %[1]s\n", m)
		return strings.HasPrefix(n.text(), once+once)
	})
	stop()
	// A copy with a changed byte does not become whole.
	w := lookuptest.NewWire(t, "tcp", s.address)
	w.Garble(150)
	n = &notes{}
	stop = follow(w.Addr(), n)
	eventually(t, "several attempts", func() bool { return strings.Count(n.text(), "begin") > 3 })
	stop()
	if text := n.text(); strings.Contains(text, "copied") && strings.Contains(text, "line") {
		for _, part := range strings.Split(text, "begin\n") {
			if strings.Contains(part, "copied") && !strings.HasPrefix("begin\n"+part, want[:strings.Index(want, "change")]) {
				t.Errorf("a garbled copy was taken for a whole one:\n%s", part)
			}
		}
	}
	// Who is not named gets nothing, and is told so.
	p := connect(t, serveAny(t, db, ServerOptions{}).address)
	p.send("replicate\nlookup a@x.test\n")
	p.want("-ERR this address may not copy the database")
	p.want("-ERR no such user")
	p = connect(t, serve(t, newMemory(), ServerOptions{Replicas: networks}).address)
	p.send("replicate 1-x\nreplicate\n")
	p.want("-ERR a mark is a position, a hyphen and 16 hexadecimal digits")
	p.want("-ERR this address may not copy the database")
	if err := Follow(t.Context(), "nowhere", n, FollowOptions{}); err == nil {
		t.Error("a primary without a port: got no error")
	}
}

// FuzzStream: any lines in the place of a stream are refused or make sense.
func FuzzStream(f *testing.F) {
	const mark = "5-000000000000004d"
	f.Add("+OK copy " + mark + " 2\n+DATA = a@x.test:*:\n+DATA . " + mark + " 0\n+DATA + " + mark + " change x\n+DATA ~ " + mark)
	f.Add("+OK continue " + mark + "\n+DATA + " + mark + " sessions :x:\n-DEAD not now")
	f.Fuzz(func(t *testing.T, text string) {
		n := &notes{}
		p := &playback{to: n}
		for i, line := range strings.Split(text, "\n") {
			reply, err := authent.ParseReply(line)
			if err != nil || p.play(reply, i == 0) != nil {
				break
			}
		}
		if len(n.lines) > 0 && !strings.HasPrefix(n.lines[0], "copy ") && !strings.HasPrefix(n.lines[0], "continue ") {
			t.Fatalf("%q began with %q", text, n.lines[0])
		}
	})
}
