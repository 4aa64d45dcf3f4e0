package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/internal/tlsconf"
)

// world is a network of nodes that do as they are told.
type world struct {
	mu    sync.Mutex
	nodes map[string]manner
	took  map[string]time.Duration // a connect
	serve map[string]func(net.Conn)
	calls map[string]int

	now, most map[string]int // connections at the same time, of those counted by hold
}

// manner is what a node does with a connect.
type manner int

const (
	accepts manner = iota // and says nothing, unless it has something to serve
	refuses
	hangs
)

func newWorld() *world {
	return &world{nodes: map[string]manner{}, took: map[string]time.Duration{}, serve: map[string]func(net.Conn){}, calls: map[string]int{}, now: map[string]int{}, most: map[string]int{}}
}

func (w *world) set(address string, m manner) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[address] = m
}

func (w *world) called(address string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[address]
}

func (w *world) dial(ctx context.Context, _, address string) (net.Conn, error) {
	w.mu.Lock()
	m, took, serve := w.nodes[address], w.took[address], w.serve[address]
	w.calls[address]++
	w.mu.Unlock()
	if m == refuses {
		return nil, errors.New("connection refused")
	}
	if m == hangs {
		took = time.Hour
	}
	if took > 0 {
		timer := time.NewTimer(took)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	near, far := net.Pipe()
	if serve == nil {
		serve = func(c net.Conn) {
			for b := make([]byte, 512); ; {
				if _, err := c.Read(b); err != nil {
					return
				}
			}
		}
	}
	go func() {
		defer far.Close()
		serve(far)
	}()
	return local{near}, nil
}

// local makes a pipe look like a connection to this machine, which the secret
// may be told without TLS.
type local struct{ net.Conn }

func (local) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// pairOf is a backend of two nodes, a:1 and b:1, that offer IMAP.
func pairOf(t *testing.T, w *world, mode tlsconf.Mode, o Options) *Set {
	t.Helper()
	o.Dial = w.dial
	s, err := New(pairBackend(mode), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func pairBackend(mode tlsconf.Mode) []Backend {
	at := func(address string) map[Service]Endpoint {
		return map[Service]Endpoint{IMAP: {Address: address, TLS: mode}}
	}
	return []Backend{{Name: "b1", Nodes: []Node{{Name: "a", Services: at("a:1")}, {Name: "b", Services: at("b:1")}}}}
}

func want(account string, client byte) Want {
	return Want{Backend: "b1", Service: IMAP, Account: account, Client: netip.AddrFrom4([4]byte{192, 0, 2, client}), Retry: true}
}

// TestWhatADeadNodeCosts: how long a session waits for the peer, to the
// millisecond, and whether it may try a peer after that.
func TestWhatADeadNodeCosts(t *testing.T) {
	for name, c := range map[string]struct {
		a, b  manner
		slow  time.Duration // a's connect
		slowB time.Duration
		tls   tlsconf.Mode
		node  string
		took  time.Duration
		peer  bool
	}{
		"all is well":                {node: "a", peer: true},
		"refused":                    {a: refuses, node: "b"},
		"hangs":                      {a: hangs, node: "b", took: 250 * time.Millisecond, peer: true},
		"hangs, and the peer is far": {a: hangs, slowB: 2 * time.Second, node: "b", took: 2250 * time.Millisecond},
		"slow, and still the first":  {slow: 200 * time.Millisecond, node: "a", took: 200 * time.Millisecond, peer: true},
		"slow, peer too":             {slow: 400 * time.Millisecond, slowB: 200 * time.Millisecond, node: "a", took: 400 * time.Millisecond, peer: true},
		"peer refuses":               {slow: 400 * time.Millisecond, b: refuses, node: "a", took: 400 * time.Millisecond},
		"silent in the handshake":    {tls: tlsconf.Implicit, took: 6 * time.Second}, // a second, and five for the last one
		"both refuse":                {a: refuses, b: refuses},
		"both hang":                  {a: hangs, b: hangs, took: 5250 * time.Millisecond},
		"one hangs, one refuses":     {a: hangs, b: refuses, took: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.nodes["a:1"], w.nodes["b:1"] = c.a, c.b
				w.took["a:1"], w.took["b:1"] = c.slow, c.slowB
				s := pairOf(t, w, c.tls, Options{})
				started := time.Now()
				b, err := s.Dial(t.Context(), want("anna", 1))
				if took := time.Since(started); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
				if c.node == "" {
					if !errors.Is(err, ErrUnreachable) {
						t.Fatalf("got %v, want ErrUnreachable", err)
					}
				} else {
					if err != nil {
						t.Fatal(err)
					}
					if b.Node != c.node || b.Peer != c.peer {
						t.Errorf("got node %s with peer %v, want %s, %v", b.Node, b.Peer, c.node, c.peer)
					}
					b.Served()
					b.Close()
				}
				for _, n := range s.Status()[0].Nodes {
					if n.Services[0].Logins != 0 || n.Services[0].Waiting != 0 {
						t.Errorf("a turn was not given back: %+v", n.Services[0])
					}
				}
				synctest.Wait()
			})
		})
	}
}

// TestALoginIsTriedOnThePeer: patience with a silent node is short while there is
// a peer, the retry goes there and nowhere else, and has all the time.
func TestALoginIsTriedOnThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := pairOf(t, w, tlsconf.Off, Options{})
		started := time.Now()
		one := want("anna", 1)
		b, err := s.Dial(t.Context(), one)
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Conn.ReadLine(100)
		if took := time.Since(started); err == nil || took != 2*time.Second || !b.Peer {
			t.Errorf("silence was borne for %v (%v), want 2 s", took, err)
		}
		b.Failed(err)
		one.Not = b.Node
		b, err = s.Dial(t.Context(), one)
		if err != nil || b.Node != "b" || b.Peer {
			t.Fatalf("got %+v, %v, want node b and none behind it", b, err)
		}
		if took := time.Since(started); took > 3*time.Second {
			t.Errorf("the peer was reached behind %v", took)
		}
		started = time.Now()
		if _, err := b.Conn.ReadLine(100); err == nil || time.Since(started) != 20*time.Second {
			t.Errorf("the peer's silence was borne for %v, want 20 s", time.Since(started))
		}
		b.Close()
		nodes := s.Status()[0].Nodes
		if nodes[0].Services[0].State != Up || nodes[1].TakenOver != 1 {
			t.Errorf("got %+v", nodes)
		}
		w.set("b:1", refuses)
		if _, err := s.Dial(t.Context(), one); !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v, want ErrUnreachable", err)
		}
	})
}

// TestALoneNodeThatIsDown: "not now" at once, and one trial when its time has
// come.
func TestALoneNodeThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s, err := New([]Backend{{Name: "b1", Nodes: []Node{node("a", "a:1")}}}, Options{Dial: w.dial})
		if err != nil {
			t.Fatal(err)
		}
		w.set("a:1", hangs)
		var waits sync.WaitGroup
		for i := range byte(3) {
			waits.Go(func() { s.Dial(t.Context(), want(fmt.Sprint(i), i)) })
		}
		waits.Wait()
		calls := w.called("a:1")
		started := time.Now()
		if _, err := s.Dial(t.Context(), want("anna", 9)); !errors.Is(err, ErrUnreachable) || time.Since(started) != 0 || w.called("a:1") != calls {
			t.Errorf("got %v behind %v, and %d connects", err, time.Since(started), w.called("a:1")-calls)
		}
		time.Sleep(5 * time.Second)
		w.set("a:1", accepts)
		w.mu.Lock()
		w.took["a:1"] = time.Second
		w.mu.Unlock()
		go func() {
			time.Sleep(time.Second / 2)
			if _, err := s.Dial(t.Context(), want("bert", 8)); !errors.Is(err, ErrUnreachable) {
				t.Errorf("two trials at once: %v", err)
			}
		}()
		trial, err := s.Dial(t.Context(), want("anna", 9))
		if err != nil {
			t.Fatal(err)
		}
		trial.Served()
		trial.Close()
		for range 2 {
			b, err := s.Dial(t.Context(), want("anna", 9))
			if err != nil {
				t.Fatal(err)
			}
			b.Served()
			b.Close()
		}
		if got := s.Status()[0].Nodes[0].Services[0]; got.State != Up {
			t.Errorf("got %+v", got)
		}
	})
}

// TestStampede: the users of a dead node come to its peer in turns, and none
// waits for longer than is allowed. Those for whom there is no place are told at
// once.
func TestStampede(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users, most, queue = 3000, 64, 1000
		w := newWorld()
		w.set("a:1", refuses)
		s := pairOf(t, w, tlsconf.Off, Options{})
		var in, peak, served, busy atomic.Int64
		var all sync.WaitGroup
		started := time.Now()
		for i := range users {
			all.Go(func() {
				b, err := s.Dial(t.Context(), want(fmt.Sprint(i), byte(i)))
				switch {
				case err == nil:
				case errors.Is(err, ErrBusy):
					if took := time.Since(started); took > 10*time.Second {
						t.Errorf("told \"busy\" behind %v", took)
					}
					busy.Add(1)
					return
				default:
					t.Error(err)
					return
				}
				n := in.Add(1)
				for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
				}
				time.Sleep(100 * time.Millisecond) // the login
				in.Add(-1)
				served.Add(1)
				b.Served()
				b.Close()
			})
		}
		all.Wait()
		if peak.Load() != most || served.Load() != most+queue || busy.Load() != users-most-queue {
			t.Errorf("%d at once, %d served, %d told to come again", peak.Load(), served.Load(), busy.Load())
		}
		if got := s.Status()[0].Nodes[1].Services[0]; got.TurnedAway != users-most-queue || got.Logins != 0 || got.Waiting != 0 {
			t.Errorf("got %+v", got)
		}
	})
}

// TestWaitersGoToThePeer: logins that wait for a node when that dies do not wait
// for it any longer.
func TestWaitersGoToThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := pairOf(t, w, tlsconf.Off, Options{Logins: 2})
		var held []*Back
		for range 2 {
			b, err := s.Dial(t.Context(), want("anna", 1))
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, b)
		}
		nodes := make(chan string, 2)
		for i := range byte(2) {
			go func() {
				b, err := s.Dial(t.Context(), want("bert", 2+i))
				if err != nil {
					nodes <- err.Error()
					return
				}
				nodes <- b.Node
				b.Close()
			}()
		}
		synctest.Wait()
		if got := s.Status()[0].Nodes[0].Services[0]; got.Waiting != 2 || got.Logins != 2 {
			t.Errorf("got %+v", got)
		}
		s.fail(s.top.Load().backends["b1"].nodes[0].services[IMAP], failure{at: checking, err: errors.New("dead")})
		for range 2 {
			if got := <-nodes; got != "b" {
				t.Errorf("got %s, want b", got)
			}
		}
		for _, b := range held {
			b.Close()
		}
	})
}

// TestPrefer: the owner that a node names is tried first, while it is up.
func TestPrefer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := pairOf(t, w, tlsconf.Off, Options{})
		dial := func(one Want, node string) {
			t.Helper()
			b, err := s.Dial(t.Context(), one)
			if err != nil {
				t.Fatal(err)
			}
			if b.Node != node {
				t.Errorf("got %s, want %s", b.Node, node)
			}
			b.Close()
		}
		s.Prefer("b1", "anna", "b")
		s.Prefer("b1", "bert", "nowhere")
		s.Prefer("b9", "bert", "b")
		s.Prefer("b1", "", "b")
		dial(want("anna", 1), "b")
		dial(want("bert", 1), "a")
		dial(want("", 1), "a")
		if s.Owner("b1", "anna") != "b" || s.Owner("b1", "bert") != "" {
			t.Error("Owner is wrong")
		}
		explicit := want("anna", 1)
		explicit.Prefer = "a"
		dial(explicit, "a")
		s.fail(s.top.Load().backends["b1"].nodes[1].services[IMAP], failure{at: checking, err: errors.New("dead")})
		dial(want("anna", 1), "a")
		if got := s.Route("b1", IMAP, "anna"); got[0].Name != "a" || got[1].Name != "b" {
			t.Errorf("got %+v", got)
		}
	})
}
