// Package admit decides who may become a session: how many connections may wait
// before login, in all and from one address, and what a load balancer in front
// says about the client's address (PROXY protocol).
package admit

import (
	"net/netip"
	"sync"
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
}

// Gate counts the sessions before login. It is safe for concurrent use.
type Gate struct {
	o Options

	mu    sync.Mutex
	total int
	from  map[netip.Prefix]int
}

// NewGate makes a gate.
func NewGate(o Options) *Gate {
	if o.Total == 0 {
		o.Total = 2000
	}
	if o.PerAddress == 0 {
		o.PerAddress = 50
	}
	return &Gate{o: o, from: make(map[netip.Prefix]int)}
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
// whether the address may have one more; the place must be left either way.
func (p *Place) From(client netip.Addr) bool {
	network := Network(client)
	if !network.IsValid() {
		return true
	}
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.left || p.from.IsValid() {
		return true
	}
	if p.gate.from[network] >= p.gate.o.PerAddress {
		return false
	}
	p.gate.from[network]++
	p.from = network
	return true
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
