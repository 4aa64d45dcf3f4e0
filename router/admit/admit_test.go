package admit

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestTotal(t *testing.T) {
	g := NewGate(Options{Total: 2})
	a, b := g.Enter(), g.Enter()
	if a == nil || b == nil || g.Enter() != nil {
		t.Fatal("want two places, and no third")
	}
	a.Leave()
	a.Leave() // and again, which counts once
	if g.Waiting() != 1 {
		t.Errorf("got %d waiting, want 1", g.Waiting())
	}
	if g.Enter() == nil || g.Enter() != nil {
		t.Error("want one place, and no second")
	}
}

func TestPerAddress(t *testing.T) {
	for name, c := range map[string]struct {
		first, second string
		want          bool
	}{
		"same":                 {"192.0.2.1", "192.0.2.1", false},
		"another":              {"192.0.2.1", "192.0.2.2", true},
		"same /64":             {"2001:db8::1", "2001:db8::ffff:2", false},
		"another /64":          {"2001:db8::1", "2001:db8:0:1::1", true},
		"IPv4 in IPv6":         {"192.0.2.1", "::ffff:192.0.2.1", false},
		"IPv4 in IPv6, others": {"::ffff:192.0.2.1", "::ffff:192.0.2.2", true},
		"zone":                 {"fe80::1%eth0", "fe80::1%eth1", false},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewGate(Options{PerAddress: 1})
			a, b := g.Enter(), g.Enter()
			if !a.From(netip.MustParseAddr(c.first)) {
				t.Fatal("the first is refused")
			}
			if got := b.From(netip.MustParseAddr(c.second)); got != c.want {
				t.Errorf("the second: got %v, want %v", got, c.want)
			}
			a.Leave()
			b.Leave()
			if len(g.from) != 0 || g.Waiting() != 0 {
				t.Errorf("left behind: %v, %d", g.from, g.Waiting())
			}
			if !g.Enter().From(netip.MustParseAddr(c.first)) {
				t.Error("refused, though all have left")
			}
		})
	}
}

func TestUnknownAddressIsOnlyCountedInAll(t *testing.T) {
	g := NewGate(Options{PerAddress: 1})
	for range 3 {
		if !g.Enter().From(netip.Addr{}) {
			t.Error("refused")
		}
	}
}

// TestRate: an address may open a burst, and then what its rate allows; who goes
// on hammering is refused until it pauses. Others and exempt networks are not
// touched.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(Options{Rate: 2, Burst: 5, PerAddress: 1000, Exempt: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
		open := func(from string, n int) (good int) {
			for range n {
				p := g.Enter()
				if p.From(netip.MustParseAddr(from)) {
					good++
				}
				p.Leave()
			}
			return good
		}
		for _, step := range []struct {
			about string
			from  string
			n     int
			after time.Duration
			want  int
		}{
			{"the burst", "192.0.2.1", 5, 0, 5},
			{"one more", "192.0.2.1", 1, 0, 0},
			{"another address", "192.0.2.2", 5, 0, 5},
			{"exempt", "10.1.2.3", 100, 0, 100},
			{"two seconds later: four came back, and the one refused counts", "192.0.2.1", 5, 2 * time.Second, 3},
			{"hammering", "192.0.2.1", 1000, time.Second, 0},
			{"goes on hammering", "192.0.2.1", 10, time.Second, 0},
			{"a pause", "192.0.2.1", 6, time.Minute, 5},
		} {
			time.Sleep(step.after)
			if got := open(step.from, step.n); got != step.want {
				t.Errorf("%s: %d of %d, want %d", step.about, got, step.n, step.want)
			}
		}
		for i := range maxRates + 1000 {
			p := g.Enter()
			p.From(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}))
			p.Leave()
		}
		if g.rates.len() != maxRates || len(g.from) != 0 {
			t.Errorf("%d rates and %d places are remembered", g.rates.len(), len(g.from))
		}
	})
}
