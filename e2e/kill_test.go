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

// TestKill kills daemons (SIGKILL) with deliveries in flight, again and again.
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
		began:    make(chan struct{}, 1),
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	sending, stop := context.WithCancel(ctx)
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
	f.check(t)
	t.Logf("%d rounds, %d messages answered 250, %d attempts failed, %d deliveries came again and were recognised",
		rounds, f.accepted.Load(), f.failed.Load(), f.recognised(t))
}

// flood is many senders at work.
type flood struct {
	c        *cluster
	accounts []harness.Account
	began    chan struct{} // told about bodies on their way
	accepted atomic.Int64
	failed   atomic.Int64

	mu   sync.Mutex
	sent []parcel // answered 250
}

// parcel is a message and who must have it.
type parcel struct {
	m  message
	to []string
}

// send sends messages one after the other until sending ends. It does not
// leave one before that is answered 250.
func (f *flood) send(ctx, sending context.Context, worker int) error {
	for n := 0; sending.Err() == nil; n++ {
		p := parcel{m: newMessage(fmt.Sprintf("%d of %d", n, worker), 500+rand.IntN(8000))}
		first := rand.IntN(len(f.accounts))
		for i := range 1 + rand.IntN(len(f.accounts)) {
			p.to = append(p.to, f.accounts[(first+i)%len(f.accounts)].Name)
		}
		if err := f.insist(ctx, p, worker+n); err != nil {
			return err
		}
		f.mu.Lock()
		f.sent = append(f.sent, p)
		f.mu.Unlock()
		f.accepted.Add(1)
	}
	return nil
}

// insist sends a message through one proxy after the other until one says 250.
func (f *flood) insist(ctx context.Context, p parcel, attempt int) error {
	wait := time.NewTicker(retryDelay)
	defer wait.Stop()
	for {
		proxy := f.c.Proxies[attempt%len(f.c.Proxies)]
		attempt++
		select {
		case f.began <- struct{}{}:
		default:
		}
		err := trySend(proxy.Addr["smtp"], p.m, p.to...)
		if err == nil {
			return nil
		}
		if said := code(err); said >= 500 {
			return fmt.Errorf("refused for good: %w", err)
		}
		f.failed.Add(1)
		select {
		case <-wait.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// round lets some mail through, kills one daemon while more is on its way, and
// starts it again: both backends in turn, and a proxy every third time.
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
	if round%3 == 2 {
		p := f.c.Proxies[rand.IntN(len(f.c.Proxies))]
		p.Kill()
		return f.c.StartProxy(ctx, p)
	}
	b := f.c.Backends[round%len(f.c.Backends)]
	b.Kill()
	return f.c.StartBackend(ctx, b)
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

// check reads everything back by IMAP.
func (f *flood) check(t *testing.T) {
	t.Helper()
	there := make(map[[2]string]int) // account and Message-ID
	for _, a := range f.accounts {
		for _, m := range f.c.inbox(t, f.c.Proxies[0], a) {
			there[[2]string{a.Name, messageID(string(m))}]++
		}
	}
	want := 0
	for _, p := range f.sent {
		for _, to := range p.to {
			want++
			if n := there[[2]string{to, p.m.id}]; n != 1 {
				t.Errorf("message %s is there %d times for %s", p.m.id, n, to)
			}
		}
	}
	if len(there) != want || want == 0 {
		t.Errorf("%d different messages are there, %d were accepted", len(there), want)
	}
}
