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
	Drained  bool            `json:"drained"`
	Services []ServiceStatus `json:"services"` // by name

	// The dials so far: connections, failures, and those that the session did
	// not wait for.
	Connected   uint64 `json:"connected"`
	Failed      uint64 `json:"failed"`
	Interrupted uint64 `json:"interrupted"`
}

// ServiceStatus is where a node offers a service.
type ServiceStatus struct {
	Service Service `json:"service"`
	Address string  `json:"address"`
	TLS     string  `json:"tls"`

	// Failed is when the address last could not be reached, and Reason why; no
	// time when it could, at last. Marked says that this is why the node is
	// tried last now.
	Marked bool      `json:"marked"`
	Failed time.Time `json:"failed,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

// Drain takes a node out of service (on) or back into it: Dial does not choose a
// drained node. An empty name means all nodes of the backend. Connections that
// are there stay. Errors: ErrUnknown.
func (s *Set) Drain(backend, node string, on bool) error {
	found := false
	for _, n := range s.backends[backend] {
		if node != "" && node != n.Name {
			continue
		}
		found = true
		if n.drained.Swap(on) == on {
			continue
		}
		message := "node is back in service"
		if on {
			message = "node is drained"
		}
		s.o.Logger.Info(message, zap.String("home", backend), zap.String("node", n.Name))
	}
	switch {
	case found:
		return nil
	case !s.Has(backend):
		return fmt.Errorf("%w: %q", ErrUnknown, backend)
	default:
		return fmt.Errorf("%w: %q has no node %q", ErrUnknown, backend, node)
	}
}

// Drained reports whether a node is out of service; with an empty name, whether
// all nodes of the backend are.
func (s *Set) Drained(backend, node string) bool {
	found := false
	for _, n := range s.backends[backend] {
		if node != "" && node != n.Name {
			continue
		}
		if found = true; !n.drained.Load() {
			return false
		}
	}
	return found
}

// Status describes all backends, by name, and their nodes in the order of the
// configuration.
func (s *Set) Status() []BackendStatus {
	out := make([]BackendStatus, 0, len(s.backends))
	for name, nodes := range s.backends {
		out = append(out, BackendStatus{name, s.describe(nodes)})
	}
	slices.SortFunc(out, func(a, b BackendStatus) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Route returns the nodes of a backend that offer a service, in the order in
// which Dial would try them now; it leaves the drained ones, at the end, out.
func (s *Set) Route(backend string, service Service) []NodeStatus {
	return s.describe(s.order(s.backends[backend], service))
}

func (s *Set) describe(nodes []*member) []NodeStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]NodeStatus, 0, len(nodes))
	for _, n := range nodes {
		status := NodeStatus{
			Name: n.Name, Drained: n.drained.Load(),
			Connected: n.ok.Load(), Failed: n.failed.Load(), Interrupted: n.interrupted.Load(),
		}
		for service, e := range n.Services {
			one := ServiceStatus{Service: service, Address: e.Address, TLS: e.TLS.String(), Marked: s.marked(e.Address)}
			if f, failed := s.failed[e.Address]; failed {
				one.Failed, one.Reason = f.at, f.err.Error()
			}
			status.Services = append(status.Services, one)
		}
		slices.SortFunc(status.Services, func(a, b ServiceStatus) int { return strings.Compare(string(a.Service), string(b.Service)) })
		out = append(out, status)
	}
	return out
}
