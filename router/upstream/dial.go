package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/internal/wire"
)

// pick is a node that a session may go to now.
type pick struct {
	*member
	e    *endpoint
	rank rank
}

// errDrained: a node is out of service by an administrator's word.
var errDrained = errors.New("drained")

// order returns the nodes that offer the service, the most wanted first, and
// those that no session goes to at the end. With a prefer, that one is before
// the others if it is up.
func (s *Set) order(g *group, service Service, prefer string) []pick {
	now, watched := time.Now(), s.watching.Load()
	out := make([]pick, 0, len(g.nodes))
	up := false
	for _, n := range g.nodes {
		e := n.services[service]
		if e == nil {
			continue
		}
		r := unusable
		if n.drained.Load() == nil {
			r = e.health.rank(now)
		}
		up = up || r == preferred
		out = append(out, pick{n, e, r})
	}
	for i := range out {
		if p := &out[i]; p.rank == onTrial && up && watched {
			// Health checks try it. No session has to.
			if p.rank = unusable; p.e.health.current() == Suspect {
				p.rank = lastResort
			}
		}
	}
	place := func(p pick) int {
		switch {
		case p.rank == unusable && p.drained.Load() != nil:
			return 4
		case p.rank >= lastResort:
			return int(p.rank)
		case p.name == prefer && p.rank == preferred:
			return 0
		}
		return 1
	}
	slices.SortStableFunc(out, func(a, b pick) int { return place(a) - place(b) })
	return out
}

// dialling is one call of Dial.
type dialling struct {
	s        *Set
	w        *Want
	until    time.Time // when it has waited for long enough
	tried    []string
	failures []error
}

// Dial connects to a node of the backend, with TLS done when it is implicit. It
// waits for its turn first, for QueueTimeout at most, and then blocks for the
// connect time-out of each node at most. The connection ends with ctx, and at
// the latest when the time for the dialogue is over, until it is settled or
// detached. Errors: ErrUnknown, ErrUnreachable, ErrBusy, the cause of ctx.
//
// Say how the login ended, by Back.Served or Back.Failed: others are spared what
// this one met, and the turn is the next one's.
func (s *Set) Dial(ctx context.Context, w Want) (*Back, error) {
	d := dialling{s: s, w: &w, until: time.Now().Add(s.o.QueueTimeout)}
	if w.Not != "" {
		d.tried = []string{w.Not}
	}
	for {
		picks, err := d.choose()
		if err != nil {
			return nil, err
		}
		b, err := d.try(ctx, picks)
		switch {
		case err == nil:
			return b, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, ErrBusy):
			return nil, fmt.Errorf("%w: %q, node %s", ErrBusy, w.Backend, picks[0].name)
		}
	}
}

// choose returns the nodes that may still be tried, the most wanted first.
func (d *dialling) choose() ([]pick, error) {
	g := d.s.top.Load().backends[d.w.Backend]
	if g == nil {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, d.w.Backend)
	}
	prefer := d.w.Prefer
	if prefer == "" && d.w.Account != "" {
		prefer = d.s.hints.get(g.name, d.w.Account)
	}
	picks := d.s.order(g, d.w.Service, prefer)
	if len(picks) == 0 {
		return nil, fmt.Errorf("%w: no node of %q offers %s", ErrUnknown, d.w.Backend, d.w.Service)
	}
	var refusals []error
	usable := picks[:0:0]
	for _, p := range picks {
		switch {
		case slices.Contains(d.tried, p.name):
		case p.rank != unusable:
			usable = append(usable, p)
		case p.drained.Load() != nil:
			refusals = append(refusals, fmt.Errorf("node %s: %w", p.name, errDrained))
		default:
			refusals = append(refusals, fmt.Errorf("node %s: %w", p.name, p.e.health.isDown()))
		}
	}
	if len(usable) == 0 {
		return nil, fmt.Errorf("%w: %q: %w", ErrUnreachable, d.w.Backend, errors.Join(append(d.failures, refusals...)...))
	}
	return usable, nil
}

// failed notes that a node could not be reached.
func (d *dialling) failed(p *pick, err error) {
	p.memberState.failed.Add(1)
	d.tried = append(d.tried, p.name)
	d.failures = append(d.failures, fmt.Errorf("node %s: %w", p.name, err))
	d.s.fail(p.e, failure{connecting, err, d.w.Account, d.w.Client})
}

// try goes to the first of the nodes, or to the second when that is connected
// before. Its error is one to choose again after, ErrBusy, or anything once ctx
// has ended.
func (d *dialling) try(ctx context.Context, picks []pick) (*Back, error) {
	p := &picks[0]
	if p.rank == onTrial && !p.e.health.try() {
		return nil, errTurned
	}
	if err := p.e.lane.enter(ctx, d.until); err != nil {
		p.leaveTrial()
		return nil, err
	}
	started := time.Now()
	until := started.Add(d.s.o.ConnectTimeout)
	var second *pick
	if len(picks) > 1 {
		until = started.Add(d.s.o.Patience)
		if second = &picks[1]; second.rank == onTrial {
			second = nil
		}
	}
	conn, winner, err := d.connect(ctx, until, p, second)
	if err != nil {
		return nil, err
	}
	left := slices.ContainsFunc(picks, func(p pick) bool { return p.name != winner.name && !slices.Contains(d.tried, p.name) })
	if !left || winner != p {
		until = time.Now().Add(d.s.o.ConnectTimeout)
	}
	b, err := d.s.secure(ctx, until, conn, winner.e)
	switch {
	case ctx.Err() != nil:
		if err == nil {
			b.Close()
		}
		d.lost(ctx, winner, err)
		return nil, context.Cause(ctx)
	case err != nil:
		d.lost(ctx, winner, err)
		return nil, err
	}
	winner.memberState.ok.Add(1)
	if d.w.Not != "" {
		winner.takenOver.Add(1)
	}
	d.s.succeed(winner.e, connecting)
	limit := time.Now().Add(d.s.o.DialogueTimeout)
	if d.w.Retry && d.w.Not == "" && left {
		limit = started.Add(d.s.o.LoginPatience)
		b.Peer = true
	}
	b.Conn.SetDeadline(limit)
	b.pick, b.want, b.set, b.started = winner, *d.w, d.s, started
	return b, nil
}

// leave gives the turn on a node back.
func (p *pick) leave() {
	p.leaveTrial()
	p.e.lane.leave()
}

func (p *pick) leaveTrial() {
	if p.rank == onTrial {
		p.e.health.tried()
	}
}

// landed is how a TCP connect ended.
type landed struct {
	p    *pick
	conn net.Conn
	err  error
}

// connect opens a TCP connection to a node on which the caller has the turn, or
// to another, if there is one, when the first takes long. The first one's time
// ends at a moment; the other has the whole time-out. On the node of the
// connection that it returns the caller has the turn; all others are given back.
func (d *dialling) connect(ctx context.Context, until time.Time, one, other *pick) (net.Conn, *pick, error) {
	dial := func(ctx context.Context, p *pick, until time.Time) (net.Conn, error) {
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		return d.s.o.Dial(ctx, "tcp", p.e.at.Load().Address)
	}
	if other == nil {
		conn, err := dial(ctx, one, until)
		if err != nil {
			d.lost(ctx, one, err)
		}
		return conn, one, err
	}
	race, cancel := context.WithCancel(ctx)
	defer cancel()
	ends := make(chan landed, 2)
	begin := func(p *pick, until time.Time) {
		go func() {
			conn, err := dial(race, p, until)
			ends <- landed{p, conn, err}
		}()
	}
	begin(one, until)
	hedge := time.NewTimer(d.s.o.Hedge)
	defer hedge.Stop()
	var failure error
	for pending := 1; pending > 0; {
		select {
		case <-hedge.C:
			if other.e.lane.tryEnter() {
				other.hedged.Add(1)
				begin(other, time.Now().Add(d.s.o.ConnectTimeout))
				pending++
			}
		case end := <-ends:
			pending--
			if end.err == nil {
				cancel()
				d.overtaken(ends, pending, one)
				return end.conn, end.p, nil
			}
			failure = end.err
			d.lost(ctx, end.p, failure)
		}
	}
	return nil, nil, failure
}

// lost gives up a node that could not be connected to.
func (d *dialling) lost(session context.Context, p *pick, err error) {
	if session.Err() != nil {
		p.interrupted.Add(1)
	} else {
		d.failed(p, err)
	}
	p.leave()
}

// overtaken waits for the connect that was not the first, which has been
// cancelled, and gives it up. If it is that to the node that was wanted, it is
// evidence against that.
func (d *dialling) overtaken(ends <-chan landed, pending int, one *pick) {
	for range pending {
		end := <-ends
		if end.err == nil {
			end.conn.Close()
		} else if end.p == one {
			d.s.moved(one.e, one.e.health.late(time.Now(), failure{connecting, errSlow, d.w.Account, d.w.Client}))
			one.e.rouse()
		}
		end.p.leave()
	}
}

// secure makes a Back of a TCP connection, with TLS done when it is implicit. On
// an error the connection is closed.
func (s *Set) secure(ctx context.Context, until time.Time, nc net.Conn, e *endpoint) (*Back, error) {
	b := &Back{
		Conn: wire.NewConn(nc), Backend: e.backend, Node: e.node, Service: e.service,
		endpoint: *e.at.Load(), name: s.o.ProxyName, secret: s.o.ProxySecret, login: *e.login.Load(),
	}
	b.release = b.Conn.Bind(ctx)
	if b.endpoint.TLS == tlsconf.Implicit {
		b.Conn.SetDeadline(until)
		if err := b.Conn.ClientTLS(ctx, b.config()); err != nil {
			b.Close()
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
	}
	return b, nil
}
