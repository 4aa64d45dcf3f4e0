package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/internal/harness"

	"golang.org/x/sync/errgroup"
)

const (
	killSenders = 6
	retryDelay  = 20 * time.Millisecond
	killTime    = 5 * time.Minute
)

// TestKill kills backends and proxies (SIGKILL) with deliveries in flight, again and again.
// Senders come back with the same bytes after anything but a clear yes. In the
// end every message that was answered 250 is there, exactly once.
func TestKill(t *testing.T) {
	rounds := 24
	if testing.Short() {
		rounds = 3
	}
	c := start(t, harness.Spec{})
	f := &flood{
		c:        c,
		accounts: []harness.Account{c.account(t, "anna", "b1"), c.account(t, "bert", "b2"), c.account(t, "cora", "b1")},
		try:      func(p *harness.Proxy, m message, to []string) error { return trySend(p.Addr["smtp"], m, to...) },
		kill: func(ctx context.Context, round int) error {
			if round%3 == 2 {
				p := c.Proxies[rand.IntN(len(c.Proxies))]
				p.Kill()
				return c.StartProxy(ctx, p)
			}
			b := c.Backends[round%len(c.Backends)]
			b.Kill()
			return c.StartBackend(ctx, b)
		},
	}
	f.run(t, rounds)
	f.check(t)
	t.Logf("%d rounds, %d messages answered 250, %d attempts failed, %d deliveries came again and were recognised",
		rounds, f.accepted.Load(), f.failed.Load(), f.recognised(t))
}

// TestKillSubmission kills the backend that users submit their mail to: what
// was answered 250 reaches users here and on the other backend, exactly once.
// A submission whose answer was lost may or may not have been queued; to send
// it again is to submit another message, so these senders do not.
func TestKillSubmission(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	anna := c.account(t, "anna", "b1")
	f := &flood{
		c:        c,
		accounts: []harness.Account{anna, c.account(t, "bert", "b2"), c.account(t, "cora", "b1")},
		fresh:    true,
		try:      func(p *harness.Proxy, m message, to []string) error { return c.trySubmit(p, anna, m, to...) },
		kill: func(ctx context.Context, _ int) error {
			b := c.Backend("b1")
			b.Kill()
			return c.StartBackend(ctx, b)
		},
	}
	f.run(t, 8)
	f.check(t)
	t.Logf("%d messages answered 250, %d attempts failed", f.accepted.Load(), f.failed.Load())
}

// flood is many senders at work.
type flood struct {
	c        *cluster
	accounts []harness.Account
	try      func(p *harness.Proxy, m message, to []string) error // to send a message
	fresh    bool                                                 // no message is sent again
	kill     func(ctx context.Context, round int) error           // a daemon, and start it again

	began    chan struct{} // told about bodies on their way
	accepted atomic.Int64
	failed   atomic.Int64

	mu   sync.Mutex
	sent []parcel // answered 250; with fresh, also those whose answer was lost
}

// run lets the senders work until enough rounds are over and each has got rid
// of its last message.
func (f *flood) run(t *testing.T, rounds int) {
	t.Helper()
	f.began = make(chan struct{}, 1)
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var senders errgroup.Group
	for i := range killSenders {
		senders.Go(func() error { return f.send(ctx, sending, i) })
	}
	for round := range rounds {
		if err := f.round(ctx, round); err != nil {
			t.Errorf("round %d: %v", round, err)
			break
		}
	}
	stop()
	if err := senders.Wait(); err != nil {
		t.Fatal(err)
	}
}

// parcel is a message and who must have it.
type parcel struct {
	m    message
	to   []string
	lost bool // the answer was: they may have it
}

// send sends messages one after the other until sending ends. It does not
// leave one before that is answered 250.
func (f *flood) send(ctx, sending context.Context, worker int) error {
	for n := 0; sending.Err() == nil; n++ {
		first := rand.IntN(len(f.accounts))
		var to []string
		for i := range 1 + rand.IntN(len(f.accounts)) {
			to = append(to, f.accounts[(first+i)%len(f.accounts)].Name)
		}
		if err := f.insist(ctx, to, worker+n); err != nil {
			return err
		}
		f.accepted.Add(1)
	}
	return nil
}

// insist sends a message through one proxy after the other until one says 250.
func (f *flood) insist(ctx context.Context, to []string, attempt int) error {
	wait := time.NewTicker(retryDelay)
	defer wait.Stop()
	p := parcel{m: newMessage("Flood", 500+rand.IntN(8000)), to: to}
	for {
		proxy := f.c.Proxies[attempt%len(f.c.Proxies)]
		attempt++
		select {
		case f.began <- struct{}{}:
		default:
		}
		err := f.try(proxy, p.m, to)
		if said := code(err); said >= 500 {
			return fmt.Errorf("refused for good: %w", err)
		}
		if p.lost = err != nil; !p.lost || f.fresh {
			f.mu.Lock()
			f.sent = append(f.sent, p)
			f.mu.Unlock()
		}
		if !p.lost {
			return nil
		}
		f.failed.Add(1)
		if f.fresh {
			p.m = newMessage("Flood", 500+rand.IntN(8000))
		}
		select {
		case <-wait.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// round lets some mail through, and kills a daemon while more is on its way.
func (f *flood) round(ctx context.Context, round int) error {
	enough := f.accepted.Load() + int64(5+rand.IntN(20))
	for f.accepted.Load() < enough {
		if err := f.next(ctx); err != nil {
			return err
		}
	}
	// The kill may fall anywhere in a delivery.
	phase := time.NewTimer(rand.N(10 * time.Millisecond))
	defer phase.Stop()
	select {
	case <-phase.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return f.kill(ctx, round)
}

// next waits for one more attempt of a sender.
func (f *flood) next(ctx context.Context) error {
	select {
	case <-f.began:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recognised counts the deliveries that a backend had stored already: it was
// killed, or its proxy, between the disk and the answer.
func (f *flood) recognised(t *testing.T) (n int) {
	t.Helper()
	for _, b := range f.c.Backends {
		for _, l := range lines(t, b.Log, func(l line) bool { return l.Msg == "message" }) {
			for _, r := range l.Replies {
				if strings.Contains(r, "delivered before") {
					n++
				}
			}
		}
	}
	return n
}

// check reads everything back by IMAP. Mail may still be on its way from a
// queue.
func (f *flood) check(t *testing.T) {
	t.Helper()
	var there map[[2]string]int // account and Message-ID
	eventually(t, "all mail that was answered 250", func() error {
		there = make(map[[2]string]int)
		for _, a := range f.accounts {
			for _, m := range f.c.inbox(t, f.c.Proxies[0], a) {
				there[[2]string{a.Name, messageID(string(m))}]++
			}
		}
		missing := 0
		for _, p := range f.sent {
			for _, to := range p.to {
				if there[[2]string{to, p.m.id}] == 0 && !p.lost {
					missing++
				}
			}
		}
		return counts(missing, 0)
	})
	for _, p := range f.sent {
		for _, to := range p.to {
			if n := there[[2]string{to, p.m.id}]; n > 1 {
				t.Errorf("message %s is there %d times for %s", p.m.id, n, to)
			}
			delete(there, [2]string{to, p.m.id})
		}
	}
	if len(there) > 0 {
		t.Errorf("%d messages are there that nobody sent", len(there))
	}
	if f.accepted.Load() == 0 {
		t.Error("nothing was accepted")
	}
}
