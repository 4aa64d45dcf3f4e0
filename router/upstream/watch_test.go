package upstream

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/internal/probe"
	"switchyard/internal/tlsconf"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// backendd answers checks by IMAP with what answer returns.
func backendd(answer func() string) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		fmt.Fprintf(c, "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN %s] hi\r\n", probe.Capability)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			tag, rest, _ := strings.Cut(line, " ")
			switch {
			case strings.HasPrefix(rest, "AUTHENTICATE"):
				fmt.Fprintf(c, "%s %s\r\n", tag, answer())
			case strings.HasPrefix(rest, "LOGOUT"):
				fmt.Fprintf(c, "* BYE\r\n%s OK\r\n", tag)
				return
			}
		}
	}
}

func ready() string { return "NO " + probe.Answer{Word: probe.Ready}.String() }

// watched is a pair under health checks.
func watched(t *testing.T, w *world, o Options) (*Set, *observer.ObservedLogs, func()) {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	o.Logger, o.ProxyName, o.ProxySecret = zap.New(core), "proxy", "sesame"
	w.mu.Lock()
	for _, a := range []string{"a:1", "b:1"} {
		if w.serve[a] == nil {
			w.serve[a] = backendd(ready)
		}
	}
	w.mu.Unlock()
	s := pairOf(t, w, tlsconf.Off, o)
	logs.TakeAll() // that the secret would travel in clear
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, logs, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second) // the fakes end
		synctest.Wait()
	}
}

func stateOf(s *Set, node int) ServiceStatus { return s.Status()[0].Nodes[node].Services[0] }

// TestChecks: a node that dies is suspect within seconds without any session's
// failure, then down; and up again within seconds. There is one line in the log
// for each step, however long it takes, and no session is sent to try.
func TestChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s, logs, stop := watched(t, w, Options{})
		defer stop()
		state := func(node int, within time.Duration, want State) {
			t.Helper()
			time.Sleep(within)
			if got := stateOf(s, node); got.State != want {
				t.Errorf("got %+v, want %v", got, want)
			}
		}
		state(0, 30*time.Second, Up)
		if got := stateOf(s, 0); got.Good < 3 || got.Good > 8 || got.Bad != 0 || got.Checked.IsZero() {
			t.Errorf("got %+v", got)
		}
		for name, dead := range map[string]manner{"refuses": refuses, "hangs": hangs} {
			logs.TakeAll()
			w.set("a:1", dead)
			time.Sleep(13 * time.Second) // the next check 9.1 s at most, the time-out 3
			if got := stateOf(s, 0); !got.Marked {
				t.Errorf("%s: got %+v", name, got)
			}
			state(0, 12*time.Second, Down)
			calls := w.called("a:1")
			for range 20 {
				b, err := s.Dial(t.Context(), want("anna", 1))
				if err != nil || b.Node != "b" {
					t.Fatalf("%s: got %+v, %v", name, b, err)
				}
				b.Close()
				time.Sleep(time.Second)
			}
			if n := w.called("a:1") - calls; n > 20 {
				t.Errorf("%s: %d connects to a dead node in 20 s", name, n)
			}
			time.Sleep(10 * time.Minute)
			w.set("a:1", accepts)
			state(0, 10*time.Second, Up)
			var lines []string
			for _, l := range logs.All() {
				lines = append(lines, l.Message)
			}
			if got := strings.Join(lines, ", "); got != "node is suspect, node is down, node is suspect, node is up" {
				t.Errorf("%s: logged %s", name, got)
			}
		}
		if got := stateOf(s, 1); got.State != Up || got.Bad != 0 {
			t.Errorf("the peer: %+v", got)
		}
	})
}

// TestAFailureIsLookedInto: a session's failure brings the next check forward.
func TestAFailureIsLookedInto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s, _, stop := watched(t, w, Options{CheckUp: time.Hour})
		defer stop()
		time.Sleep(5 * time.Second)
		w.mu.Lock()
		w.serve["a:1"] = nil // accepts, and is silent
		w.mu.Unlock()
		b, err := s.Dial(t.Context(), want("anna", 1))
		if err != nil {
			t.Fatal(err)
		}
		b.Failed(fmt.Errorf("silence"))
		time.Sleep(4 * time.Second)
		if got := stateOf(s, 0); got.State != Suspect {
			t.Errorf("got %+v", got)
		}
	})
}

// TestWhatNodesSay: ready, not ready, drain, and a login that is refused.
func TestWhatNodesSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		answer := ready
		w.serve["a:1"] = backendd(func() string { w.mu.Lock(); defer w.mu.Unlock(); return answer() })
		s, logs, stop := watched(t, w, Options{})
		defer stop()
		say := func(text string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			answer = func() string { return text }
		}
		for _, c := range []struct {
			says   string
			state  State
			reason string
			note   string
		}{
			{says: ready(), state: Up},
			{says: "NO [X-PROBE NOT-READY] is behind its peer", state: Down, reason: "is behind its peer"},
			{says: ready(), state: Up},
			{says: "NO [X-PROBE DRAIN] moves house", state: Drained, reason: "moves house"},
			{says: ready(), state: Up},
			{says: "NO [AUTHENTICATIONFAILED] who are you", state: Up, note: "who are you"}, // it lives: an operator has to see to it
			{says: ready(), state: Up},
			{says: "NO [UNAVAILABLE] not now", state: Down, reason: "not now"},
			{says: "OK welcome, whoever you are", state: Up},
		} {
			say(c.says)
			time.Sleep(time.Minute)
			got := stateOf(s, 0)
			if got.State != c.state || !strings.Contains(got.Reason, c.reason) || !strings.Contains(got.Note, c.note) || (got.Note != "") != (c.note != "") {
				t.Errorf("%s: got %+v", c.says, got)
			}
			b, err := s.Dial(t.Context(), want("anna", 1))
			if err != nil || (b.Node == "a") != (c.state == Up) {
				t.Fatalf("%s: got %+v, %v", c.says, b, err)
			}
			b.Close()
		}
		if n := len(logs.All()); n > 12 {
			t.Errorf("%d lines", n)
		}
		for _, l := range logs.All() {
			if strings.Contains(fmt.Sprint(l.Message, l.Context), "sesame") {
				t.Error("the secret is in the log")
			}
		}
	})
}

// TestManyNodes: the checks of hundreds of nodes are spread, and bounded. Nodes
// that come are checked, those that go are not any more.
func TestManyNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes = 300
		w := newWorld()
		var all []Backend
		for i := range nodes {
			address := fmt.Sprintf("n%d:1", i)
			w.serve[address] = func(c net.Conn) {
				w.mu.Lock()
				w.now[""]++
				w.most[""] = max(w.most[""], w.now[""])
				w.mu.Unlock()
				time.Sleep(10 * time.Millisecond)
				backendd(ready)(c)
				w.mu.Lock()
				w.now[""]--
				w.mu.Unlock()
			}
			all = append(all, Backend{Name: fmt.Sprint("b", i), Nodes: []Node{node("a", address)}})
		}
		s, _, stop := watched(t, w, Options{Checks: 8})
		defer stop()
		if err := s.Update(all); err != nil {
			t.Fatal(err)
		}
		old := w.called("a:1")
		time.Sleep(30 * time.Second)
		if w.called("a:1") != old {
			t.Error("a node that has gone is checked")
		}
		for i := range nodes {
			if n := w.called(fmt.Sprintf("n%d:1", i)); n < 3 || n > 8 {
				t.Errorf("node %d was checked %d times", i, n)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.most[""] > 9 { // one may be ending
			t.Errorf("%d checks at the same time", w.most[""])
		}
	})
}
