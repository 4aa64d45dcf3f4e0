package router

import (
	"context"
	"net/netip"
	"time"

	"switchyard/internal/wire"
	"switchyard/router/admit"
)

// wait holds a login back for as long as the wrong ones before it demand, from
// its address or for its user. Errors: ErrThrottled, the cause of ctx.
func (s *Session) wait(ctx context.Context, name string) error {
	delay, ok := s.router.guard.Before(s.Client.Addr(), name)
	if !ok {
		return ErrThrottled
	}
	return sleep(ctx, delay)
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Early waits for at most d, and reports whether the client has said something
// meanwhile: before the banner of a protocol in which the server speaks first,
// only a program that does not listen does that. What the client said is not
// read. Errors: the connection's own, io.EOF when the client has left.
func (s *Session) Early(d time.Duration) (bool, error) {
	s.Conn.SetIdle(d)
	defer s.Conn.SetIdle(wire.DefaultIdle)
	limit := time.Now().Add(d)
	switch _, err := s.Conn.Peek(1); {
	case err == nil:
		return true, nil
	case wire.IsTimeout(err) && !time.Now().Before(limit):
		return false, nil
	default:
		return false, err
	}
}

// seat counts a session for its address, and reports false when the address has
// as many as it may have. It does nothing when no limit is set, and for addresses
// that are exempt or not known.
func (g *registry) seat(l *live) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seatAt(l, false)
}

// seatAt is seat, which counts a session beyond the limit too when it must. The
// caller holds mu.
func (g *registry) seatAt(l *live, must bool) bool {
	network := admit.Network(l.client.Addr())
	if g.limits == nil || g.limits.AddressSessions <= 0 || !network.IsValid() || admit.Contains(g.limits.Exempt, l.client.Addr()) {
		return true
	}
	if !must && g.addresses[network] >= g.limits.AddressSessions {
		return false
	}
	if g.addresses == nil {
		g.addresses = make(map[netip.Prefix]int)
	}
	g.addresses[network]++
	l.counted = true
	return true
}

// unseat takes a session out of its address's count. The caller holds mu.
func (g *registry) unseat(l *live) {
	if !l.counted {
		return
	}
	l.counted = false
	network := admit.Network(l.client.Addr())
	if g.addresses[network]--; g.addresses[network] == 0 {
		delete(g.addresses, network)
	}
}

// moveTo says from which address a session is, as another proxy of ours has it. It
// was counted there before, so it is counted here whatever the limit.
func (g *registry) moveTo(l *live, client netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unseat(l)
	l.client = client
	g.seatAt(l, true)
}

// enlist makes a session one of its user's, whose name it bears, and reports
// false when the user has as many as one may have. Those that only tried the name
// do not count, or a stranger could use them up.
func (g *registry) enlist(l *live) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.limits != nil && g.limits.UserSessions > 0 {
		n := 0
		for other := g.users[l.user]; other != nil; other = other.further {
			if other == l || !other.in {
				continue
			}
			if n++; n >= g.limits.UserSessions {
				return false
			}
		}
	}
	l.in = true
	return true
}
