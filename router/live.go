package router

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"switchyard/internal/wire"
	"switchyard/router/splice"

	"go.uber.org/zap"
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
	Bytes    Bytes          `json:"bytes"`
	Ending   bool           `json:"ending"` // it was kicked, and is saying goodbye
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

// live is a session's entry in the registry, and with its place in the loop all
// that is left of a session that is joined: some 230 bytes and its names. All but
// the first two blocks is the registry's mutex's.
type live struct {
	port  *port
	since int64 // Unix nanoseconds

	// Written before the session is handed over, and not any more.
	before Bytes // what had passed the client's socket by then
	notes  []zap.Field
	leave  func() // gives the place among the listener's sessions back

	id, user, home, node string
	proof                proof
	client               netip.AddrPort
	legs                 *[]Leg // nil: none
	state                State
	tls, ending, gone    bool
	in                   bool // logged in: one of the user's sessions
	counted              bool // one of its address's

	// What ends the session, and what counts its bytes: end and conn up to where
	// it is handed over, session from there on; with TLS, conn goes on counting.
	end     context.CancelCauseFunc
	session splice.Session
	conn    *wire.Conn

	older, newer     *live // by age
	earlier, further *live // those of the same user
}

// show copies what may be seen. The caller holds the registry's mutex.
func (l *live) show() Live {
	out := Live{
		ID: l.id, Protocol: l.port.tally.protocol, Listener: l.port.Name, State: l.state, User: l.user, Client: l.client,
		Home: l.home, Node: l.node, TLS: l.tls, Since: time.Unix(0, l.since), Ending: l.ending,
	}
	if l.legs != nil {
		out.Legs = slices.Clone(*l.legs)
	}
	if l.session != nil {
		out.Bytes = l.moved(l.session.Moved())
	} else if l.conn != nil {
		out.Bytes = l.moved(0, 0)
	}
	return out
}

// moved is what passed the client's socket, when so many bytes were moved since
// the session was joined.
func (l *live) moved(in, out int64) Bytes {
	if l.conn != nil {
		return Bytes{l.conn.BytesRead(), l.conn.BytesWritten()}
	}
	return Bytes{l.before.In + in, l.before.Out + out}
}

// tell asks the session to end. The caller holds the registry's mutex.
func (l *live) tell(cause error) {
	if l.session != nil {
		l.session.Goodbye(cause)
	} else {
		l.end(cause)
	}
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
