package admit

import (
	"net/netip"
	"testing"
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
