package upstream

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/internal/tlsconf"
)

// TestUpdate: backends and nodes come, change and go; connections stay, what is
// drained stays drained, and what is known of a node stays known as long as it
// is the same node.
func TestUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := pairOf(t, w, tlsconf.Off, Options{})
		before, err := s.Dial(t.Context(), want("anna", 1))
		if err != nil {
			t.Fatal(err)
		}
		defer before.Close()
		b := s.top.Load().backends["b1"].nodes[1].services[IMAP]
		s.fail(b, failure{at: checking, err: errors.New("dead")})
		if err := s.Drain("b1", "a", true); err != nil {
			t.Fatal(err)
		}

		more := append(pairBackend(tlsconf.Off), Backend{Name: "b2", Nodes: []Node{node("c", "c:1")}})
		more[0].Nodes = append(more[0].Nodes, node("d", "d:1"))
		if err := s.Update(more); err != nil {
			t.Fatal(err)
		}
		state := func(backend int, want ...State) {
			t.Helper()
			for i, n := range s.Status()[backend].Nodes {
				if n.Services[0].State != want[i] {
					t.Errorf("node %s is %v, want %v", n.Name, n.Services[0].State, want[i])
				}
			}
		}
		state(0, Drained, Suspect, Up)
		state(1, Up)
		if !s.Has("b2") || !s.Drained("b1", "a") {
			t.Error("the update was not taken over")
		}

		moved := pairBackend(tlsconf.Off)
		moved[0].Nodes[1] = node("b", "b:2")
		if err := s.Update(moved); err != nil {
			t.Fatal(err)
		}
		state(0, Drained, Up) // what answers at another address is another one
		if s.Has("b2") {
			t.Error("b2 is still there")
		}
		after, err := s.Dial(t.Context(), want("anna", 1))
		if err != nil || after.Node != "b" || w.called("b:2") != 1 {
			t.Errorf("got %+v, %v", after, err)
		}
		after.Close()

		for name, bad := range map[string][]Backend{
			"no name": {{}}, "bad address": {{Name: "b1", Nodes: []Node{node("a", "nowhere")}}},
			"twice": append(pairBackend(0), pairBackend(0)...),
		} {
			if s.Update(bad) == nil {
				t.Errorf("%s: not refused", name)
			}
		}
		state(0, Drained, Up)

		if err := s.Update(nil); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Dial(t.Context(), want("anna", 1)); !errors.Is(err, ErrUnknown) {
			t.Errorf("got %v, want ErrUnknown", err)
		}
		if err := before.Conn.Line("hello"); err != nil {
			t.Errorf("a connection was cut: %v", err)
		}
		before.Served()
	})
}

// TestUpdateUnderLogins: nothing is lost while the topology changes under
// sessions, and those that wait for a node that goes find another.
func TestUpdateUnderLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := pairOf(t, w, tlsconf.Off, Options{Logins: 4})
		var all sync.WaitGroup
		for i := range byte(30) {
			all.Go(func() {
				b, err := s.Dial(t.Context(), want("anna", i))
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Second)
				b.Served()
				b.Close()
			})
		}
		for i := range 10 {
			time.Sleep(time.Second / 2)
			next := pairBackend(tlsconf.Off)
			next[0].Nodes = next[0].Nodes[i%2 : i%2+1]
			if err := s.Update(next); err != nil {
				t.Fatal(err)
			}
		}
		all.Wait()
	})
}
