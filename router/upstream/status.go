package upstream

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// BackendStatus is a backend as it is now.
type BackendStatus struct {
	Name  string       `json:"home"`
	Nodes []NodeStatus `json:"nodes"`
}

// NodeStatus is a node as it is now.
type NodeStatus struct {
	Name     string          `json:"node"`
	Drained  bool            `json:"drained"`        // by an administrator's word
	Since    time.Time       `json:"since,omitzero"` // when it was drained
	Services []ServiceStatus `json:"services"`       // by name

	// The dials so far: connections, failures, and those that the session did
	// not wait for.
	Connected   uint64 `json:"connected"`
	Failed      uint64 `json:"failed"`
	Interrupted uint64 `json:"interrupted"`

	// Hedged are connects that began beside one to the peer that took long,
	// TakenOver the logins that had failed on the peer.
	Hedged    uint64 `json:"hedged"`
	TakenOver uint64 `json:"taken_over"`
}

// ServiceStatus is where a node offers a service, and how it is.
type ServiceStatus struct {
	Service Service `json:"service"`
	Address string  `json:"address"`
	TLS     string  `json:"tls"`

	// State is since when, and why it is not up.
	State  State     `json:"state"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`

	// Note is what health checks found that an operator has to mend.
	Note string `json:"note,omitempty"`

	// Marked says that something failed lately: it is suspect or down. Failed
	// is when, or no time.
	Marked bool      `json:"marked"`
	Failed time.Time `json:"failed,omitzero"`

	// Checked is when the latest health check ended, Good and Bad how many
	// there were, and Moves how often each state was entered.
	Checked time.Time      `json:"checked,omitzero"`
	Good    uint64         `json:"checks_good"`
	Bad     uint64         `json:"checks_bad"`
	Moves   [States]uint64 `json:"-"`

	// Logins are connects and logins under way, Waiting those that wait for
	// their turn, and TurnedAway those that there was no place for.
	Logins     int    `json:"logins"`
	Waiting    int    `json:"waiting"`
	TurnedAway uint64 `json:"turned_away"`

	// Took is how long connect and login took, behind the wait for their turn,
	// where the node has answered.
	Took Took `json:"-"`
}

// Drain takes a node out of service (on) or back into it: Dial does not choose a
// drained node. An empty name means all nodes of the backend. Connections that
// are there stay. Errors: ErrUnknown.
func (s *Set) Drain(backend, node string, on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.top.Load().backends[backend]
	if g == nil {
		return fmt.Errorf("%w: %q", ErrUnknown, backend)
	}
	found := false
	for _, n := range g.nodes {
		if node != "" && node != n.name {
			continue
		}
		found = true
		if (n.drained.Load() != nil) == on {
			continue
		}
		message := "node is back in service"
		if on {
			message = "node is drained"
			now := time.Now()
			n.drained.Store(&now)
		} else {
			n.drained.Store(nil)
		}
		for _, e := range n.services {
			e.lane.turn()
		}
		s.o.Logger.Info(message, zap.String("home", backend), zap.String("node", n.name))
	}
	if !found {
		return fmt.Errorf("%w: %q has no node %q", ErrUnknown, backend, node)
	}
	return nil
}

// Drained reports whether a node is out of service; with an empty name, whether
// all nodes of the backend are.
func (s *Set) Drained(backend, node string) bool {
	g := s.top.Load().backends[backend]
	if g == nil {
		return false
	}
	found := false
	for _, n := range g.nodes {
		if node != "" && node != n.name {
			continue
		}
		if found = true; n.drained.Load() == nil {
			return false
		}
	}
	return found
}

// Status describes all backends, by name, and their nodes in the order of the
// configuration.
func (s *Set) Status() []BackendStatus {
	top := s.top.Load()
	out := make([]BackendStatus, 0, len(top.backends))
	for name, g := range top.backends {
		b := BackendStatus{Name: name, Nodes: make([]NodeStatus, 0, len(g.nodes))}
		for _, n := range g.nodes {
			b.Nodes = append(b.Nodes, n.status())
		}
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b BackendStatus) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Route returns the nodes of a backend that offer a service, in the order in
// which Dial would try them now for an account ("" for none of its own); those
// that it would not try are at the end.
func (s *Set) Route(backend string, service Service, account string) []NodeStatus {
	g := s.top.Load().backends[backend]
	if g == nil {
		return nil
	}
	prefer := ""
	if account != "" {
		prefer = s.hints.get(backend, account)
	}
	var out []NodeStatus
	for _, p := range s.order(g, service, prefer) {
		out = append(out, p.status())
	}
	return out
}

// Owner returns the node that is remembered as an account's, "" when none is.
func (s *Set) Owner(backend, account string) string { return s.hints.get(backend, account) }

func (n *member) status() NodeStatus {
	out := NodeStatus{
		Name: n.name, Connected: n.ok.Load(), Failed: n.failed.Load(), Interrupted: n.interrupted.Load(),
		Hedged: n.hedged.Load(), TakenOver: n.takenOver.Load(),
	}
	if since := n.drained.Load(); since != nil {
		out.Drained, out.Since = true, *since
	}
	for _, e := range n.services {
		one := e.status()
		if out.Drained {
			one.State, one.Since, one.Reason = Drained, out.Since, "by an administrator"
		}
		out.Services = append(out.Services, one)
	}
	slices.SortFunc(out.Services, func(a, b ServiceStatus) int { return strings.Compare(string(a.Service), string(b.Service)) })
	return out
}

func (e *endpoint) status() ServiceStatus {
	at := e.at.Load()
	out := ServiceStatus{Service: e.service, Address: at.Address, TLS: at.TLS.String()}
	out.Logins, out.Waiting, out.TurnedAway = e.lane.counts()
	out.Took = e.took.read()
	h := &e.health
	h.mu.Lock()
	defer h.mu.Unlock()
	out.State, out.Since, out.Reason, out.Note = h.state, h.since, h.reason, h.note
	out.Marked = h.state != Up
	out.Checked, out.Good, out.Bad, out.Moves = h.checked, h.good, h.bad, h.moves
	if h.run > 0 || out.Marked {
		out.Failed = h.failed
	}
	if h.wish != "" {
		out.State, out.Since, out.Reason = Drained, h.wished, "by the node's own wish: "+h.wish
	}
	return out
}
