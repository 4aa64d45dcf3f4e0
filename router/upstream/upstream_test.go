package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/internal/tlsconf"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func node(name, address string) Node {
	return Node{Name: name, Services: map[Service]Endpoint{IMAP: {Address: address}}}
}

// network is a Dial that knows which addresses are up.
type network struct {
	mu    sync.Mutex
	up    map[string]bool
	hangs map[string]bool
	tried []string
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.tried = append(n.tried, address)
	up, hangs := n.up[address], n.hangs[address]
	n.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if !up {
		return nil, errors.New("connection refused")
	}
	a, b := net.Pipe()
	go io.Copy(io.Discard, b) // ends with a's Close
	return a, nil
}

func (n *network) took() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	tried := n.tried
	n.tried = nil
	return tried
}

func (n *network) set(address string, up bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.up[address] = up
}

func TestNodesAreTriedInOrderAndMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{up: map[string]bool{"a:1": false, "b:1": true}}
		s, err := New([]Backend{{Name: "b1", Nodes: []Node{node("a", "a:1"), node("b", "b:1")}}}, Options{Dial: n.dial, Mark: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		dial := func(wantNode string, wantTried ...string) {
			t.Helper()
			b, err := s.Dial(t.Context(), Want{Backend: "b1", Service: IMAP})
			if err != nil {
				t.Fatal(err)
			}
			if b.Node != wantNode || b.Backend != "b1" {
				t.Errorf("got node %s of %s, want %s", b.Node, b.Backend, wantNode)
			}
			if tried := n.took(); !slices.Equal(tried, wantTried) {
				t.Errorf("tried %v, want %v", tried, wantTried)
			}
			b.Close()
		}
		dial("b", "a:1", "b:1") // a costs one try,
		dial("b", "b:1")        // and then none,
		time.Sleep(6 * time.Second)
		dial("b", "a:1", "b:1") // until the mark is old
		n.set("a:1", true)
		time.Sleep(6 * time.Second)
		dial("a", "a:1")
		dial("a", "a:1")
		n.set("a:1", false)
		n.set("b:1", false)
		_, err = s.Dial(t.Context(), Want{Backend: "b1", Service: IMAP})
		if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUnknown) {
			t.Errorf("got %v, want ErrUnreachable", err)
		}
		n.took()
		n.set("b:1", true)
		dial("b", "a:1", "b:1") // both marked: still both are tried
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hangs: map[string]bool{"a:1": true}}
		s, _ := New([]Backend{{Name: "b1", Nodes: []Node{node("a", "a:1")}}}, Options{Dial: n.dial})
		cause := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		if _, err := s.Dial(ctx, Want{Backend: "b1", Service: IMAP}); err != cause {
			t.Errorf("got %v, want the cause", err)
		}
	})
}

func TestDialogueTimeout(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s, _ := New([]Backend{{Name: "b1", Nodes: []Node{node("a", ln.Addr().String())}}}, Options{DialogueTimeout: 20 * time.Millisecond})
	b, err := s.Dial(t.Context(), Want{Backend: "b1", Service: IMAP})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Conn.ReadLine(100); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("got %v, want a time-out", err)
	}
}

// TestBackEndsWithItsContext: the session is over while its backend thinks.
func TestBackEndsWithItsContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s, _ := New([]Backend{{Name: "b1", Nodes: []Node{node("a", ln.Addr().String())}}}, Options{})
	cause := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	b, err := s.Dial(ctx, Want{Backend: "b1", Service: IMAP})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	go cancel(cause)
	if _, err := b.Conn.ReadLine(100); err != cause {
		t.Errorf("got %v, want the cause", err)
	}
}

func TestUnknownIsNotUnreachable(t *testing.T) {
	s, err := New([]Backend{{Name: "b1", Nodes: []Node{node("a", "a:1")}}}, Options{Dial: (&network{}).dial})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		backend string
		service Service
	}{
		"backend": {"b9", IMAP},
		"service": {"b1", POP3},
	} {
		if _, err := s.Dial(t.Context(), Want{Backend: c.backend, Service: c.service}); !errors.Is(err, ErrUnknown) || errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: got %v, want ErrUnknown", name, err)
		}
	}
	if s.Has("b9") || !s.Has("b1") {
		t.Error("Has is wrong")
	}
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		backends []Backend
		want     string
	}{
		"no name":     {[]Backend{{Name: "", Nodes: []Node{node("a", "a:1")}}}, "no name"},
		"twice":       {[]Backend{{Name: "b1", Nodes: []Node{node("a", "a:1")}}, {Name: "b1", Nodes: []Node{node("a", "a:1")}}}, "twice"},
		"no nodes":    {[]Backend{{Name: "b1"}}, "no nodes"},
		"twins":       {[]Backend{{Name: "b1", Nodes: []Node{node("a", "a:1"), node("a", "b:1")}}}, "two nodes named"},
		"bad address": {[]Backend{{Name: "b1", Nodes: []Node{node("a", "nowhere")}}}, "nowhere"},
	} {
		if _, err := New(c.backends, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, c.want)
		}
	}
}

// TestSecretInClearIsWarnedOf: and never printed.
func TestSecretInClearIsWarnedOf(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	n := node("a", "a:1")
	n.Services[POP3] = Endpoint{Address: "a:2", TLS: tlsconf.StartTLS}
	if _, err := New([]Backend{{Name: "b1", Nodes: []Node{n}}}, Options{ProxyName: "proxy", ProxySecret: "hush", Logger: zap.New(core)}); err != nil {
		t.Fatal(err)
	}
	all := logs.All()
	if len(all) != 1 || all[0].Level != zap.WarnLevel || all[0].ContextMap()["service"] != "imap" {
		t.Errorf("got %v, want one warning, of imap", all)
	}
	for _, l := range all {
		if strings.Contains(l.Message, "hush") {
			t.Error("the secret is printed")
		}
	}
}
