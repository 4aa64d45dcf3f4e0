// Package admit decides who may become a session: how many connections may wait
// before login, in all and from one address, how fast they may come, how often a
// wrong password may be tried, and what a load balancer in front says about the
// client's address (PROXY protocol).
//
// What it knows is soft: it is held in bounded memory, belongs to one process and
// is lost with it. Proxies do not share it; each slows down what reaches it.
package admit

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Options for NewGate. The zero value works.
type Options struct {
	// Total bounds the sessions before login. Zero means 2,000.
	//
	// This is what bounds memory against strangers: before login a session
	// holds two buffers of 4 KiB, at most one line or SASL message (router/imap
	// and router/pop allow 16 KiB, in a buffer of up to twice that) with the
	// decoded form of it, a goroutine's stack and, with TLS, the record buffers
	// of crypto/tls (up to 32 KiB): 128 KiB in the worst case, and so 256 MiB for
	// 2,000 of the most hostile clients; an ordinary one takes about 30 KiB.
	Total int

	// PerAddress bounds those from one IPv4 address or one IPv6 /64. Zero
	// means 50.
	PerAddress int

	// Rate is how many connections a second one address may open over time, and
	// Burst how many at once before that. Zero Rate means any number; zero
	// Burst ten seconds' worth.
	Rate  float64
	Burst int

	// UserSessions and AddressSessions bound the sessions of one user, and of
	// one address whoever logs in from there. A router counts them, since it
	// knows when they end. Zero means any number.
	UserSessions    int
	AddressSessions int

	// Exempt are networks for whose clients neither PerAddress nor Rate nor
	// AddressSessions nor Guard counts: a webmail's, a balancer's that adds no
	// PROXY header.
	Exempt []netip.Prefix

	// Guard slows down the guessing of passwords.
	Guard GuardOptions
}

// maxRates bounds the addresses whose rate is remembered, to about 10 MB. An
// address that is forgotten begins anew, with a full burst.
const maxRates = 1 << 16

// Gate counts the sessions before login. It is safe for concurrent use.
type Gate struct {
	o Options

	mu    sync.Mutex
	total int
	from  map[netip.Prefix]int
	rates *bounded[netip.Prefix, bucket]
}

// bucket holds what an address may still open at once.
type bucket struct {
	left float64
	at   time.Time // zero: the bucket is new, and full
}

// NewGate makes a gate.
func NewGate(o Options) *Gate {
	if o.Total == 0 {
		o.Total = 2000
	}
	if o.PerAddress == 0 {
		o.PerAddress = 50
	}
	if o.Burst == 0 {
		o.Burst = max(1, int(10*o.Rate))
	}
	return &Gate{o: o, from: make(map[netip.Prefix]int), rates: newBounded[netip.Prefix, bucket](maxRates)}
}

// Enter takes a place among the sessions before login; nil when there is none.
// The place must be left.
func (g *Gate) Enter() *Place {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= g.o.Total {
		return nil
	}
	g.total++
	return &Place{gate: g}
}

// Waiting returns how many sessions are before login.
func (g *Gate) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

// Place is one session's place before login.
type Place struct {
	gate *Gate
	from netip.Prefix
	left bool
}

// From counts the place for a client's address, once that is known. It reports
// whether the address may have one more, and has not come too fast; the place must
// be left either way. A connection that is refused counts for the rate too: who
// hammers goes on being refused until it pauses.
func (p *Place) From(client netip.Addr) bool {
	network := Network(client)
	if !network.IsValid() || Contains(p.gate.o.Exempt, client) {
		return true
	}
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.left || p.from.IsValid() {
		return true
	}
	if !p.gate.draw(network) || p.gate.from[network] >= p.gate.o.PerAddress {
		return false
	}
	p.gate.from[network]++
	p.from = network
	return true
}

// draw takes one connection out of an address's bucket. The caller holds mu.
func (g *Gate) draw(network netip.Prefix) bool {
	if g.o.Rate <= 0 {
		return true
	}
	now := time.Now()
	b := g.rates.at(network)
	full := float64(g.o.Burst)
	if b.at.IsZero() {
		b.left = full
	} else {
		b.left = min(full, b.left+now.Sub(b.at).Seconds()*g.o.Rate)
	}
	b.at = now
	b.left = max(b.left-1, -full) // a pause of twice the burst's time makes good for anything
	return b.left >= 0
}

// Leave gives the place back: the client logged in, or left. It may be called
// more than once.
func (p *Place) Leave() {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.left {
		return
	}
	p.left = true
	p.gate.total--
	if p.from.IsValid() {
		if p.gate.from[p.from]--; p.gate.from[p.from] == 0 {
			delete(p.gate.from, p.from)
		}
	}
}

// Network returns what counts as one client: the address itself, or its /64,
// which is what an IPv6 customer has at the least.
func Network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return netip.Prefix{}
	}
	bits := 32
	if a.Is6() {
		bits = 64
	}
	prefix, _ := a.Prefix(bits)
	return prefix
}

// Contains reports whether an address is in one of the networks.
func Contains(networks []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(a) })
}
