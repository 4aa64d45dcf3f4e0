package router

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"switchyard/internal/wire"
	"switchyard/router/admit"
)

// State is how far a session has come.
type State uint8

// The states.
const (
	StateLogin   State = iota // before its login
	StateInbound              // goes on without one: mail from the world
	StateJoined               // spliced to its backend
	states
)

func (s State) String() string {
	switch s {
	case StateLogin:
		return "login"
	case StateInbound:
		return "inbound"
	default:
		return "joined"
	}
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *State) UnmarshalText(text []byte) error {
	for one := range states {
		if one.String() == string(text) {
			*s = one
			return nil
		}
	}
	return fmt.Errorf("unknown state %q", text)
}

// Live is a session that has not ended, as it was at one moment.
type Live struct {
	ID       string         `json:"session"`
	Protocol string         `json:"protocol"`
	Listener string         `json:"listener"`
	State    State          `json:"state"`
	User     string         `json:"user,omitempty"` // who logged in; before login, who was tried last
	Client   netip.AddrPort `json:"client"`
	Home     string         `json:"home,omitempty"`
	Node     string         `json:"node,omitempty"`
	Legs     []Leg          `json:"legs,omitempty"` // the nodes that inbound mail went to
	TLS      bool           `json:"tls"`
	Since    time.Time      `json:"since"`
	Bytes    *Bytes         `json:"bytes,omitempty"` // nil where only the end will tell
	Ending   bool           `json:"ending"`          // it was kicked, and is saying goodbye
}

// Leg is a node that a session has dialled beside its home.
type Leg struct {
	Backend string `json:"home"`
	Node    string `json:"node"`
}

// Bytes is what passed the client's socket so far.
type Bytes struct {
	In  int64 `json:"in"`
	Out int64 `json:"out"`
}

// live is a session's entry in the registry: 192 bytes, since there are many.
// All but its first block is the registry's mutex's.
type live struct {
	end      context.CancelCauseFunc
	tally    *tally
	listener *Listener
	since    int64 // Unix nanoseconds

	id, user, home, node string
	client               netip.AddrPort
	legs                 *[]Leg     // nil: none
	conn                 *wire.Conn // whose counters are right; nil when none are
	state                State
	tls, ending, gone    bool
	in                   bool // logged in: one of the user's sessions
	counted              bool // one of its address's

	older, newer     *live // by age
	earlier, further *live // those of the same user
}

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
	l.tally.live[l.state].Add(1)
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
	l.tally.live[l.state].Add(-1)
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
func (g *registry) enter(l *live, s State, conn *wire.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.tally.live[l.state].Add(-1)
	l.state, l.conn = s, conn
	l.tally.live[s].Add(1)
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

// show copies what may be seen. The caller holds the registry's mutex.
func (l *live) show() Live {
	out := Live{
		ID: l.id, Protocol: l.tally.protocol, Listener: l.listener.Name, State: l.state, User: l.user, Client: l.client,
		Home: l.home, Node: l.node, TLS: l.tls, Since: time.Unix(0, l.since), Ending: l.ending,
	}
	if l.legs != nil {
		out.Legs = slices.Clone(*l.legs)
	}
	if l.conn != nil {
		out.Bytes = &Bytes{l.conn.BytesRead(), l.conn.BytesWritten()}
	}
	return out
}

// dialled notes a node beside the home.
func (l *live) dialled(leg Leg) {
	if l.legs == nil {
		l.legs = new([]Leg)
	}
	if !slices.Contains(*l.legs, leg) {
		*l.legs = append(*l.legs, leg)
	}
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
	late := l.gone || l.ending
	l.ending = true
	g.mu.Unlock()
	if late {
		return false
	}
	l.end(cause)
	return true
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
