package router

import (
	"net/netip"
	"sync"

	"switchyard/router/admit"
	"switchyard/router/splice"
)

// registry knows the sessions that have not ended, the oldest first, and by
// user. It is asked at a session's turning points and never while bytes move.
type registry struct {
	mu             sync.Mutex
	oldest, newest *live
	users          map[string]*live
	n              int
	closed         bool
	limits         *admit.Options
	addresses      map[netip.Prefix]int // sessions that are counted; see seat
	none           chan struct{}        // closed when the last one ends; nil when nobody waits

	// The names of the latest changes, the newest at changes-1, for logins that
	// are under way.
	changes uint64
	changed [256]string
}

// add takes a session in, or reports false when none are taken any more.
func (g *registry) add(l *live) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	if l.older = g.newest; l.older != nil {
		l.older.newer = l
	} else {
		g.oldest = l
	}
	g.newest = l
	g.n++
	l.port.tally.live[l.state].Add(1)
	return true
}

// remove strikes a session off.
func (g *registry) remove(l *live) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.gone = true
	g.rename(l, "")
	g.unseat(l)
	if l.older != nil {
		l.older.newer = l.newer
	} else {
		g.oldest = l.newer
	}
	if l.newer != nil {
		l.newer.older = l.older
	} else {
		g.newest = l.older
	}
	l.older, l.newer = nil, nil
	l.port.tally.live[l.state].Add(-1)
	if g.n--; g.n == 0 && g.none != nil {
		close(g.none)
		g.none = nil
	}
}

// update changes what is shown of a session; change must leave the user and the
// state alone.
func (g *registry) update(l *live, change func(*live)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(l)
}

// name says whose session it is.
func (g *registry) name(l *live, user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rename(l, user)
}

func (g *registry) rename(l *live, user string) {
	old := l.user
	if old == user {
		return
	}
	if old != "" {
		if l.earlier != nil {
			l.earlier.further = l.further
		} else if l.further != nil {
			g.users[old] = l.further
		} else {
			delete(g.users, old)
		}
		if l.further != nil {
			l.further.earlier = l.earlier
		}
		l.earlier, l.further = nil, nil
	}
	l.user, l.in = user, false
	if user == "" {
		return
	}
	if g.users == nil {
		g.users = make(map[string]*live)
	}
	if l.further = g.users[user]; l.further != nil {
		l.further.earlier = l
	}
	g.users[user] = l
}

// enter brings a session into a state.
func (g *registry) enter(l *live, s State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.port.tally.live[l.state].Add(-1)
	l.state = s
	l.port.tally.live[s].Add(1)
}

// handOver notes that a session goes on by itself. It may have ended already.
func (g *registry) handOver(l *live, session splice.Session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.session, l.end = session, nil
	if !l.tls {
		l.conn = nil
	}
}

// list returns the sessions that m describes, the oldest first.
func (g *registry) list(m *Match) []*live {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*live
	g.each(m, func(l *live) { out = append(out, l) })
	return out
}

// snapshot is list for those who only look.
func (g *registry) snapshot(m *Match) []Live {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Live
	g.each(m, func(l *live) { out = append(out, l.show()) })
	return out
}

func (g *registry) each(m *Match, found func(*live)) {
	for l := g.oldest; l != nil; l = l.newer {
		if m.describes(l) {
			found(l)
		}
	}
}

// joined counts the joined sessions of each node.
func (g *registry) joined() map[Leg]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[Leg]int)
	for l := g.oldest; l != nil; l = l.newer {
		if l.state == StateJoined {
			out[Leg{l.home, l.node}]++
		}
	}
	return out
}

// of returns the sessions of a user.
func (g *registry) of(user string) []*live {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*live
	for l := g.users[user]; l != nil; l = l.further {
		out = append(out, l)
	}
	return out
}

// kick ends one session, and reports whether it was there to be ended.
func (g *registry) kick(l *live, cause error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.gone || l.ending {
		return false
	}
	l.ending = true
	l.tell(cause)
	return true
}

// goodbye ends the joined sessions of a port.
func (g *registry) goodbye(p *port, cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for l := g.oldest; l != nil; l = l.newer {
		if l.port == p && l.session != nil {
			l.session.Goodbye(cause)
		}
	}
}

// close takes no sessions in from now on, or does so again.
func (g *registry) close(closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = closed
}

// empty returns a channel that is closed once there is no session any more.
func (g *registry) empty() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	none := g.none
	if none == nil {
		none = make(chan struct{})
		if g.n == 0 {
			close(none)
		} else {
			g.none = none
		}
	}
	return none
}

// note remembers a change of an account for logins that are under way, and
// returns the account's sessions.
func (g *registry) note(name string) []*live {
	g.mu.Lock()
	g.changed[g.changes%uint64(len(g.changed))] = name
	g.changes++
	g.mu.Unlock()
	return g.of(name)
}

// now returns how many changes there were so far.
func (g *registry) now() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changes
}

// changedSince reports whether an account may have changed behind the first so
// many changes.
func (g *registry) changedSince(before uint64, name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changes-before > uint64(len(g.changed)) {
		return true
	}
	for i := before; i < g.changes; i++ {
		if g.changed[i%uint64(len(g.changed))] == name {
			return true
		}
	}
	return false
}

// size returns how many sessions and users there are.
func (g *registry) size() (sessions, users int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n, len(g.users)
}
