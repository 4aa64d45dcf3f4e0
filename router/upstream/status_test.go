package upstream

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func pair(t *testing.T, n *network) *Set {
	t.Helper()
	s, err := New([]Backend{{Name: "b1", Nodes: []Node{node("a", "a:1"), node("b", "b:1")}}, {Name: "b0", Nodes: []Node{node("c", "c:1")}}}, Options{Dial: n.dial})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDrainedNodesAreNotTried: the peer takes over, also when it could not be
// reached lately; without one the backend is unreachable, which passes.
func TestDrainedNodesAreNotTried(t *testing.T) {
	n := &network{up: map[string]bool{"a:1": true, "b:1": true}}
	s := pair(t, n)
	dial := func(want string) {
		t.Helper()
		b, err := s.Dial(t.Context(), Want{Backend: "b1", Service: IMAP})
		if want == "" {
			if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUnknown) || !errors.Is(err, errDrained) {
				t.Errorf("got %v, want unreachable because drained", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if b.Node != want {
			t.Errorf("got node %s, want %s", b.Node, want)
		}
	}
	drain := func(node string, on bool) {
		t.Helper()
		if err := s.Drain("b1", node, on); err != nil {
			t.Fatal(err)
		}
	}
	dial("a")
	drain("a", true)
	dial("b")
	if !s.Drained("b1", "a") || s.Drained("b1", "b") || s.Drained("b1", "") || s.Drained("b1", "x") || s.Drained("b9", "") {
		t.Error("Drained is wrong")
	}
	drain("b", true)
	n.took()
	dial("")
	if tried := n.took(); tried != nil {
		t.Errorf("tried %v, though drained", tried)
	}
	if !s.Drained("b1", "") {
		t.Error("both are drained, and the backend is not")
	}
	drain("", false)
	dial("a")
	for _, c := range [][2]string{{"b9", ""}, {"b9", "a"}, {"b1", "c"}} {
		if err := s.Drain(c[0], c[1], true); !errors.Is(err, ErrUnknown) {
			t.Errorf("%v: got %v, want ErrUnknown", c, err)
		}
	}
}

// TestStatus: what is shown of nodes, and in which order they would be tried.
func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{up: map[string]bool{"b:1": true}, hangs: map[string]bool{"c:1": true}}
		s := pair(t, n)
		b, err := s.Dial(t.Context(), Want{Backend: "b1", Service: IMAP}) // a fails, b answers
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		s.Dial(ctx, Want{Backend: "b0", Service: IMAP})

		all := s.Status()
		if len(all) != 2 || all[0].Name != "b0" || all[1].Name != "b1" {
			t.Fatalf("got %v", all)
		}
		if c := all[0].Nodes[0]; c.Interrupted != 1 || c.Connected+c.Failed != 0 || c.Services[0].Marked {
			t.Errorf("c: %+v", c)
		}
		first, second := all[1].Nodes[0], all[1].Nodes[1]
		if first.Name != "a" || first.Failed != 1 || first.Connected != 0 || second.Connected != 1 || second.Failed != 0 {
			t.Errorf("got %+v and %+v", first, second)
		}
		if a := first.Services[0]; !a.Marked || a.Reason != "connection refused" || a.Failed.IsZero() || a.Address != "a:1" || a.Service != IMAP {
			t.Errorf("got %+v", a)
		}
		route := func(want ...string) {
			t.Helper()
			var got []string
			for _, n := range s.Route("b1", IMAP, "") {
				got = append(got, n.Name)
			}
			if !slices.Equal(got, want) {
				t.Errorf("route %v, want %v", got, want)
			}
		}
		route("b", "a")
		s.Drain("b1", "b", true)
		route("a", "b")
		time.Sleep(6 * time.Second)
		s.Drain("b1", "b", false)
		route("a", "b")
		if len(s.Route("b1", POP3, "")) != 0 || len(s.Route("b9", IMAP, "")) != 0 {
			t.Error("a route that is not there")
		}
	})
}
