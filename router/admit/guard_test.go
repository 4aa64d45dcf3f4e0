package admit

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

var (
	home   = netip.MustParseAddr("192.0.2.1")
	cafe   = netip.MustParseAddr("198.51.100.7")
	attack = netip.MustParseAddr("203.0.113.5")
)

// before waits as a login must, and says how long that was; less than zero when
// it was refused.
func before(g *Guard, client netip.Addr, user string) time.Duration {
	wait, ok := g.Before(client, user)
	if !ok {
		return -1
	}
	time.Sleep(wait)
	return wait
}

func fail(g *Guard, client netip.Addr, user string, n int, password string) {
	for i := range n {
		g.Failed(client, user, fmt.Sprintf("%s%d", password, i))
	}
}

// TestGuardDelays: failures of an address are free at first, then cost a delay
// that doubles, then "not now"; and they are forgotten with time.
func TestGuardDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGuard(GuardOptions{Free: 3})
		for i := range 3 {
			if got := before(g, attack, "anna"); got != 0 {
				t.Errorf("try %d: waits %v", i, got)
			}
			g.Failed(attack, fmt.Sprint("user", i), "wrong")
		}
		for i, want := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, -1} {
			if got := before(g, attack, "anna"); got != want {
				t.Errorf("try %d behind the free ones: waits %v, want %v", i, got, want)
			}
			if want >= 0 { // else nobody has looked at it
				g.Failed(attack, fmt.Sprint("next", i), "wrong")
			}
		}
		time.Sleep(20 * time.Second)
		if got := before(g, attack, "anna"); got < 0 {
			t.Error("refused though its time has come")
		}
		time.Sleep(3 * time.Hour)
		if got := before(g, attack, "anna"); got != 0 {
			t.Errorf("hours later: waits %v", got)
		}
	})
}

// TestGuardParallel: an address's tries stand in line, however many connections
// they come by; those at the end of it are told "not now".
func TestGuardParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGuard(GuardOptions{Free: 1})
		fail(g, attack, "anna", 3, "x") // two seconds each now
		time.Sleep(time.Minute)
		var waits []time.Duration
		refused := 0
		for range 50 {
			if wait, ok := g.Before(attack, "anna"); ok {
				waits = append(waits, wait)
			} else {
				refused++
			}
		}
		if len(waits) != 6 || refused != 44 {
			t.Errorf("%d are let through within ten seconds, %d refused, want 6 and 44: %v", len(waits), refused, waits)
		}
		for i, w := range waits {
			if w < time.Duration(2*i)*time.Second {
				t.Errorf("try %d waits %v", i, w)
			}
		}
	})
}

// TestGuardNetworks: what one client has is one address: with IPv6 a /64.
func TestGuardNetworks(t *testing.T) {
	for _, c := range []struct {
		failed, tries string
		delayed       bool
	}{
		{"192.0.2.1", "192.0.2.1", true}, {"192.0.2.1", "192.0.2.2", false}, {"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:1", true}, {"2001:db8::1", "2001:db8:0:1::1", false}, {"fe80::1%a", "fe80::1%b", true},
		{"10.0.0.1", "10.0.0.1", false}, // exempt
	} {
		g := NewGuard(GuardOptions{Free: 2, Exempt: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
		for i := range 5 {
			g.Failed(netip.MustParseAddr(c.failed), fmt.Sprint(i), "wrong")
		}
		if wait, ok := g.Before(netip.MustParseAddr(c.tries), "anna"); c.delayed != (wait > 0 || !ok) {
			t.Errorf("%s failed, %s tries: %v, %v", c.failed, c.tries, wait, ok)
		}
	}
	if wait, ok := NewGuard(GuardOptions{Free: -1}).Before(attack, "anna"); wait != 0 || !ok {
		t.Errorf("switched off: %v, %v", wait, ok)
	}
}

// TestGuardRepeats: the same wrong password again is no other guess; the same
// password for another user is.
func TestGuardRepeats(t *testing.T) {
	g := NewGuard(GuardOptions{Free: 3})
	for range 1000 {
		g.Failed(home, "anna", "last year's")
	}
	if wait, ok := g.Before(home, "anna"); wait != 0 || !ok {
		t.Errorf("one old password a thousand times: %v, %v", wait, ok)
	}
	for i := range 10 {
		g.Failed(attack, fmt.Sprint("user", i), "123456")
	}
	if wait, ok := g.Before(attack, "anna"); wait == 0 && ok {
		t.Error("one password for ten users: no delay")
	}
}

// TestGuardLockout: whatever is done to a user from elsewhere, an address that
// the user has logged in from is not delayed, and one that has done nothing is
// delayed a little and never refused.
func TestGuardLockout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGuard(GuardOptions{})
		g.Succeeded(home, "anna")
		for i := range 5000 {
			g.Failed(netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)}), "anna", fmt.Sprint(i))
		}
		if got := before(g, home, "anna"); got != 0 {
			t.Errorf("at home: waits %v", got)
		}
		for range 20 {
			if got := before(g, cafe, "anna"); got <= 0 || got > 4*time.Second {
				t.Errorf("at a place that is new: waits %v", got)
			}
		}
		if got := before(g, cafe, "bert"); got != 0 {
			t.Errorf("another user: waits %v", got)
		}
		// Somebody else behind the same address guesses.
		fail(g, home, "bert", 100, "x")
		if got := before(g, home, "bert"); got != -1 {
			t.Errorf("the guesser at home waits %v", got)
		}
		if got := before(g, home, "anna"); got != 0 {
			t.Errorf("anna beside a guesser waits %v", got)
		}
		// Who guesses at anna from her own address loses its standing.
		fail(g, home, "anna", 3, "y")
		if got := before(g, home, "anna"); got != -1 {
			t.Errorf("anna's address after wrong passwords for her: waits %v", got)
		}
		g.Succeeded(cafe, "anna")
		time.Sleep(8 * 24 * time.Hour)
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.trusts(pair{Network(cafe), g.digest("anna")}, time.Now()) {
			t.Error("trusted after eight days without a login")
		}
	})
}

// TestGuardIsBounded: at random, memory stays within its bounds, no wait is longer
// than what is promised, a try that waited is let through in the order of the
// line, and an address without failures is never refused.
func TestGuardIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const entries = 50
		o := GuardOptions{Entries: entries, Free: 2}
		g := NewGuard(o)
		o.fill()
		failed := make(map[netip.Addr]bool)
		for range 20000 {
			client := netip.AddrFrom4([4]byte{10, 0, 0, byte(rand.IntN(200))})
			user := fmt.Sprint(rand.IntN(200))
			switch rand.IntN(4) {
			case 0:
				g.Failed(client, user, fmt.Sprint(rand.IntN(10)))
				failed[client] = true
			case 1:
				g.Succeeded(client, user)
			case 2:
				wait, ok := g.Before(client, user)
				if wait < 0 || wait > max(o.MaxWait, o.MaxUserDelay) {
					t.Fatalf("waits %v", wait)
				}
				if !failed[client] && (!ok || wait > o.MaxUserDelay) {
					t.Fatalf("an address without failures: %v, %v", wait, ok)
				}
			case 3:
				time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
			}
			if a, u, p := g.Remembered(); a > entries || u > entries || p > entries {
				t.Fatalf("remembers %d addresses, %d users, %d pairs", a, u, p)
			}
		}
	})
}

// TestBounded holds the map against a slow one.
func TestBounded(t *testing.T) {
	const most = 8
	b := newBounded[int, int](most)
	var order []int // the oldest first
	values := make(map[int]int)
	use := func(k int) {
		for i, o := range order {
			if o == k {
				order = append(order[:i], order[i+1:]...)
				break
			}
		}
		order = append(order, k)
	}
	for step := range 20000 {
		k := rand.IntN(20)
		switch rand.IntN(3) {
		case 0:
			got, want := b.get(k), values[k]
			if _, there := values[k]; there != (got != nil) || there && *got != want {
				t.Fatalf("step %d: get %d: %v, want %d %v", step, k, got, want, there)
			}
			if got != nil {
				use(k)
			}
		case 1:
			v := b.at(k)
			if _, there := values[k]; !there && *v != 0 {
				t.Fatalf("step %d: a new entry holds %d", step, *v)
			} else if !there && len(values) == most {
				delete(values, order[0])
				order = order[1:]
			}
			*v = step + 1
			values[k] = step + 1
			use(k)
		case 2:
			b.forget(k)
			if _, there := values[k]; there {
				delete(values, k)
				for i, o := range order {
					if o == k {
						order = append(order[:i], order[i+1:]...)
						break
					}
				}
			}
		}
		if b.len() != len(values) || b.len() > most {
			t.Fatalf("step %d: %d entries, want %d", step, b.len(), len(values))
		}
	}
}
