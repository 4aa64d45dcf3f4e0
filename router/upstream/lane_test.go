package upstream

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestLane: so many are in, so many wait in their order and not for ever, and the
// rest is turned away at once.
func TestLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lane{most: 2, queue: 3}
		until := time.Now().Add(10 * time.Second)
		for range 2 {
			if err := l.enter(t.Context(), until); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		var order []int
		var errs []error
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("gone")
		for i := range 3 {
			go func() {
				c := t.Context()
				if i == 1 {
					c = ctx
				}
				err := l.enter(c, until)
				mu.Lock()
				defer mu.Unlock()
				order, errs = append(order, i), append(errs, err)
			}()
			synctest.Wait()
		}
		if err := l.enter(t.Context(), until); err != ErrBusy {
			t.Errorf("the fourth in the queue: %v", err)
		}
		if l.tryEnter() {
			t.Error("past the queue")
		}
		cancel(cause)
		synctest.Wait()
		l.leave()
		synctest.Wait()
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if len(order) != 3 || order[0] != 1 || errs[0] != cause || order[1] != 0 || errs[1] != nil || order[2] != 2 || errs[2] != ErrBusy {
			t.Errorf("got %v %v", order, errs)
		}
		if in, waiting, turned := l.counts(); in != 2 || waiting != 0 || turned != 2 {
			t.Errorf("%d in, %d wait, %d turned away", in, waiting, turned)
		}
		l.leave()
		l.leave()
		if !l.tryEnter() {
			t.Error("an empty lane is full")
		}
	})
}

// TestLaneTurns: who waits chooses again when the node's state changes.
func TestLaneTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lane{most: 1, queue: 9}
		l.enter(t.Context(), time.Now())
		got := make(chan error, 3)
		for range 3 {
			go func() { got <- l.enter(t.Context(), time.Now().Add(time.Minute)) }()
		}
		synctest.Wait()
		l.turn()
		for range 3 {
			if err := <-got; err != errTurned {
				t.Errorf("got %v", err)
			}
		}
	})
}

// TestSlowStart: a node that comes back begins with few logins at a time.
func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lane{most: 64, queue: 9}
		l.rise()
		for _, want := range []int{4, 8, 16, 32, 64, 64} {
			n := 0
			for l.tryEnter() {
				n++
			}
			if n != want {
				t.Errorf("%d at once, want %d", n, want)
			}
			for range n {
				l.leave()
			}
			time.Sleep(time.Second)
		}
	})
}

// TestHints are bounded, and forgotten with time; what is used stays.
func TestHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hints{half: 10, ttl: time.Minute}
		h.set("b1", "anna", "b")
		for i := range 1000 {
			h.set("b1", string(rune('a'+i)), "a")
			if h.get("b1", "anna") != "b" {
				t.Fatalf("forgotten after %d", i)
			}
			if n := h.len(); n > 20 {
				t.Fatalf("%d are remembered", n)
			}
		}
		if h.get("b1", string(rune('a'))) != "" || h.get("b2", "anna") != "" {
			t.Error("remembered what is not used, or nobody's")
		}
		h.set("b1", "anna", "a")
		if h.get("b1", "anna") != "a" {
			t.Error("a newer hint does not count")
		}
		time.Sleep(time.Minute)
		if h.get("b1", "anna") != "" {
			t.Error("an old hint counts")
		}
		h.set("b1", "bert", "a")
		h.set("b1", "bert", "")
		if h.get("b1", "bert") != "" {
			t.Error("not forgotten")
		}
	})
}
