package module

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/tcpauth"
)

var _ tcpauth.Database = (*Module)(nil)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// TestContract runs the directory's contract over children that are killed and
// cannot be started, and over ones that are frozen.
func TestContract(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	open := func(t *testing.T) lookup.Directory {
		opts := Options{MaxBackoff: 200 * time.Millisecond}
		if strings.HasSuffix(t.Name(), "/hanging") {
			opts.Timeout = 2 * time.Second
		}
		return w.open(t, opts)
	}
	lookuptest.Run(t, lookuptest.Fixture{
		Open: open,
		Break: func(t *testing.T) {
			w.fault(t, "start")
			for _, pid := range w.pids() {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		},
		Hang:    func(t *testing.T) { w.fault(t, "stop") },
		Mend:    func(t *testing.T) { w.fault(t, "") },
		Timeout: 2 * time.Second,
	})
	lookuptest.RunHostile(t, open)
	for _, line := range w.seen() {
		if _, err := authent.ParseRequest(line); err != nil {
			t.Errorf("a module was sent %.100q: %v", line, err)
		}
	}
}

// TestFaults: whatever a child does wrong, the request is unavailable, and the
// next child answers.
func TestFaults(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	for fault, dies := range map[string]bool{
		"hang": true, "stop": true, "die": true, "half": true, "half and hang": true, "garbage": true, "control": true,
		"long": true, "endless": true, "flood": true, "another": true, "no name": true, "no path": true,
		"open quote": true, "twice": true, "generation": true, "data": true, "dead": false, "two lines": true, "blank": true,
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			m := w.open(t, Options{Processes: 1, Timeout: timeout})
			anna := lookuptest.Account("anna@example.test")
			ask := map[string]func() error{
				"lookup": func() error { _, err := m.Lookup(t.Context(), anna.Name); return err },
				"check": func() error {
					_, err := m.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: anna.Password})
					return err
				},
			}
			for verb, ask := range ask {
				eventually(t, "a healthy answer", func() bool { return ask() == nil })
				w.fault(t, fault)
				before := len(w.pids())
				start := time.Now()
				if err := ask(); !errors.Is(err, lookup.ErrUnavailable) {
					t.Errorf("%s: got %v, want unavailable", verb, err)
				}
				if took := time.Since(start); took > timeout+5*time.Second {
					t.Errorf("%s: answered after %v", verb, took)
				}
				w.fault(t, "")
				eventually(t, "recovery", func() bool {
					err := ask()
					if a := lookup.AnswerOf(err); a != lookup.AnswerFound && a != lookup.AnswerUnavailable {
						t.Fatalf("%s after the fault: got %v", verb, err)
					}
					return err == nil
				})
				if again := len(w.pids()) > before; again != dies {
					t.Errorf("%s: another child was started: %v, want %v", verb, again, dies)
				}
			}
			if n := w.alive(); n != 1 {
				t.Errorf("%d modules are alive, want 1", n)
			}
		})
	}
}

// TestSlow: a slow module is no broken one, and a caller in a hurry does not
// cost a child.
func TestSlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.open(t, Options{Processes: 2})
	anna := lookuptest.Account("anna@example.test")
	if _, err := m.Lookup(t.Context(), anna.Name); err != nil {
		t.Fatal(err)
	}
	w.fault(t, "slow")
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if i%2 == 0 {
				if _, err := m.Lookup(t.Context(), anna.Name); err != nil {
					t.Errorf("slow lookup: %v", err)
				}
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			start := time.Now()
			if _, err := m.Lookup(ctx, anna.Name); !errors.Is(err, lookup.ErrUnavailable) {
				t.Errorf("lookup in a hurry: got %v, want unavailable", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("lookup in a hurry took %v", took)
			}
		})
	}
	wg.Wait()
	w.fault(t, "")
	if _, err := m.Lookup(t.Context(), anna.Name); err != nil {
		t.Error(err)
	}
	eventually(t, "both children have started", func() bool { return len(w.pids()) >= 2 })
	if n := len(w.pids()); n != 2 {
		t.Errorf("%d children were started, want 2", n)
	}
}

// TestLateLine: a line that comes when nothing was asked ends the child; it is
// never the answer to the next question.
func TestLateLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.open(t, Options{Processes: 1})
	anna := lookuptest.Account("anna@example.test")
	w.fault(t, "late")
	if _, err := m.Lookup(t.Context(), anna.Name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another child", func() bool { return len(w.pids()) == 2 && w.alive() == 1 })
	w.fault(t, "")
	if _, err := m.Lookup(t.Context(), anna.Name); err != nil {
		t.Error(err)
	}
}

// TestIdleDeath: a child that dies while nothing is asked is replaced before
// it is needed.
func TestIdleDeath(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.open(t, Options{Processes: 1})
	anna := lookuptest.Account("anna@example.test")
	if _, err := m.Lookup(t.Context(), anna.Name); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(w.pids()[0], syscall.SIGKILL)
	eventually(t, "another child", func() bool { return len(w.pids()) == 2 })
	eventually(t, "ready", func() bool { return m.Ready(t.Context()) == nil })
	if _, err := m.Lookup(t.Context(), anna.Name); err != nil {
		t.Error(err)
	}
}

// TestUnusable: a command that cannot be, and one that never works.
func TestUnusable(t *testing.T) {
	t.Parallel()
	for _, command := range [][]string{nil, {""}, {"/nonexistent/module"}, {"no-such-authent-module"}} {
		if m, err := New(command, Options{}); err == nil {
			m.Close()
			t.Errorf("command %q: accepted", command)
		}
	}
	m, err := New([]string{"/bin/false"}, Options{Processes: 2, MaxBackoff: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for range 20 {
		if _, err := m.Lookup(t.Context(), "anna@example.test"); !errors.Is(err, lookup.ErrUnavailable) {
			t.Fatalf("lookup: got %v, want unavailable", err)
		}
	}
	eventually(t, "not ready", func() bool { return m.Ready(t.Context()) != nil })
}

// TestBusy: more requests than may wait are answered at once.
func TestBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.open(t, Options{Processes: 1, MaxWaiting: 3, Timeout: time.Second})
	w.fault(t, "hang")
	var mu sync.Mutex
	quick := 0
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			_, err := m.Lookup(t.Context(), "anna@example.test")
			if !errors.Is(err, lookup.ErrUnavailable) {
				t.Errorf("got %v, want unavailable", err)
			}
			if errors.Is(err, errWaiting) {
				mu.Lock()
				quick++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if quick < 8 {
		t.Errorf("%d were answered at once, want 8 at least", quick)
	}
}

// TestClose: children end in order, those that hang by force, and nothing is
// left.
func TestClose(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"", "hang"} {
		w := newWorld(t)
		m := w.open(t, Options{Processes: 3, Timeout: 200 * time.Millisecond, Farewell: 300 * time.Millisecond})
		eventually(t, "all started", func() bool { return w.alive() == 3 })
		w.fault(t, fault)
		start := time.Now()
		m.Lookup(t.Context(), "anna@example.test")
		m.Close()
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("fault %q: closed after %v", fault, took)
		}
		if n := w.alive(); n != 0 {
			t.Errorf("fault %q: %d modules are alive", fault, n)
		}
		if _, err := m.Lookup(t.Context(), "anna@example.test"); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("after Close: got %v, want unavailable", err)
		}
		if m.Ready(t.Context()) == nil {
			t.Error("ready after Close")
		}
		if fault == "" && strings.Count(strings.Join(w.seen(), "\n"), "exit") != 3 {
			t.Errorf("modules saw %q, want three exits", w.seen())
		}
	}
}

// TestGroup: what a wrapper script starts is killed with it.
func TestGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m, err := New([]string{"/bin/sh", "-c", `"$0"; true`, testBinary()}, Options{
		Processes: 1, Timeout: time.Second, Env: append(os.Environ(), asModule+"="+w.dir),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	eventually(t, "a child", func() bool { return len(w.pids()) > 0 })
	child := w.pids()[0]
	w.fault(t, "hang")
	if _, err := m.Lookup(t.Context(), "anna@example.test"); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	eventually(t, "it is gone", func() bool { return syscall.Kill(child, 0) != nil })
}

// TestLog: what a child writes to its standard error is in the log, cut, and
// without passwords, even those that it was told.
func TestLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	core, logs := observer.New(zap.DebugLevel)
	m := w.open(t, Options{Processes: 1, Logger: zap.New(core)})
	w.fault(t, "chatty")
	const password = "open-sesame"
	for range 2 * maxLogLines {
		if _, err := m.Check(t.Context(), lookup.Credentials{Name: "anna@example.test", Password: password}); !errors.Is(err, lookup.ErrRejected) {
			t.Fatalf("check: got %v, want rejected", err)
		}
	}
	says := func() []observer.LoggedEntry { return logs.FilterMessage("authent module says").All() }
	eventually(t, "the log is full", func() bool { return len(says()) == maxLogLines })
	got := fmt.Sprint(says()[0].ContextMap()["line"])
	if !strings.Contains(got, "got check anna@example.test ***") {
		t.Errorf("the first line is %q", got)
	}
	for _, e := range logs.All() {
		text := fmt.Sprint(e.Message, e.ContextMap())
		if strings.Contains(text, password) || len(text) > maxLogLine+200 {
			t.Errorf("logged: %.300q", text)
		}
	}
	if len(w.pids()) != 1 {
		t.Errorf("%d children were started, want 1", len(w.pids()))
	}
	// What a module says goes into errors without the password, too.
	w.fault(t, "")
	if _, err := m.Lookup(t.Context(), "anna@example.test"); err != nil {
		t.Fatal(err)
	}
}

// TestRefusalShowsNoPassword: a module that repeats the command in its reason.
func TestRefusalShowsNoPassword(t *testing.T) {
	c := &child{}
	c.hide("open-sesame")
	j := &job{read: func(r authent.Reply) (bool, error) { return true, answered{errors.New(r.Text)} }}
	for _, kind := range []authent.Kind{authent.Err, authent.Dead} {
		_, err := c.take(j, authent.Reply{Kind: kind, Text: "cannot set a@x.test open-sesame"})
		if err == nil || strings.Contains(err.Error(), "sesame") || !strings.Contains(err.Error(), "cannot set") {
			t.Errorf("%s: got %v", kind, err)
		}
	}
}

// TestConcurrent: answers do not get mixed up between callers and children.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 40 {
		write(w.dir, fmt.Sprintf("user%d@x.test", i), "p"+strconv.Itoa(i), map[string]string{"tohost": "b" + strconv.Itoa(i)})
	}
	m := w.open(t, Options{Processes: 3})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			name := fmt.Sprintf("user%d@x.test", i)
			for range 10 {
				a, err := m.Check(t.Context(), lookup.Credentials{Name: name, Password: "p" + strconv.Itoa(i)})
				if err != nil || a.Home != "b"+strconv.Itoa(i) {
					t.Errorf("%s: got %s, %v", name, a.Home, err)
				}
			}
		})
	}
	wg.Wait()
}

// eventually repeats f until it returns true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		<-tick.C
	}
}
