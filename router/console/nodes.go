package console

import (
	"switchyard/router"
	"switchyard/router/upstream"

	"github.com/prometheus/client_golang/prometheus"
)

// nodeDescriptions are those of the metrics of nodes. A proxy of hundreds of
// nodes has some ten thousands of series: each service of each node has some
// twenty.
type nodeDescriptions struct {
	joined, dials, drained, marked, hedged, takenOver       *prometheus.Desc // of nodes
	state, moves, checks, unmended, logins, waiting, turned *prometheus.Desc // of services of nodes
	took                                                    *prometheus.Desc
}

func newNodeDescriptions() nodeDescriptions {
	return nodeDescriptions{
		joined:    describe("joined_sessions", "Sessions joined to a node.", "home", "node"),
		dials:     describe("dials_total", "Connections to nodes, by result; interrupted are those that the client did not wait for.", "home", "node", "result"),
		drained:   describe("node_drained", "1 when the node is out of service for this proxy, by an administrator's word.", "home", "node"),
		hedged:    describe("hedged_connects_total", "Connects to a node that began beside one to its peer that took long.", "home", "node"),
		takenOver: describe("taken_over_logins_total", "Logins that failed on the peer for the peer's sake and went on here.", "home", "node"),
		marked:    describe("node_unreachable", "1 when something failed lately there, and the service is suspect or down.", "home", "node", "service"),
		state:     describe("node_state", "1 for the state that the service of the node is in: up, suspect, down or drained.", "home", "node", "service", "state"),
		moves:     describe("node_moves_total", "How often the service of the node came into a state.", "home", "node", "service", "state"),
		checks:    describe("node_checks_total", "Health checks, by result: good or bad.", "home", "node", "service", "result"),
		unmended:  describe("node_login_refused", "1 when the node lives and refuses the login of health checks: an operator has to mend it.", "home", "node", "service"),
		logins:    describe("node_logins", "Connects and logins under way.", "home", "node", "service"),
		waiting:   describe("node_waiting_logins", "Logins that wait for their turn.", "home", "node", "service"),
		turned:    describe("node_turned_away_total", "Logins that there was no place for, or that waited for too long.", "home", "node", "service"),
		took:      describe("node_login_seconds", "Connect and login, behind the wait for their turn, where the node has answered.", "home", "node", "service"),
	}
}

func (d *nodeDescriptions) describe(out chan<- *prometheus.Desc) {
	for _, one := range []*prometheus.Desc{
		d.joined, d.dials, d.drained, d.marked, d.hedged, d.takenOver,
		d.state, d.moves, d.checks, d.unmended, d.logins, d.waiting, d.turned, d.took,
	} {
		out <- one
	}
}

func (m metrics) collectNodes(d *nodeDescriptions, out chan<- prometheus.Metric) {
	gauge, count := writers(out)
	joined := m.router.Joined()
	for _, b := range m.router.Backends() {
		for _, n := range b.Nodes {
			gauge(d.joined, float64(joined[router.Leg{Backend: b.Name, Node: n.Name}]), b.Name, n.Name)
			gauge(d.drained, truth(n.Drained), b.Name, n.Name)
			count(d.dials, n.Connected, b.Name, n.Name, "connected")
			count(d.dials, n.Failed, b.Name, n.Name, "failed")
			count(d.dials, n.Interrupted, b.Name, n.Name, "interrupted")
			count(d.hedged, n.Hedged, b.Name, n.Name)
			count(d.takenOver, n.TakenOver, b.Name, n.Name)
			for _, service := range n.Services {
				d.collectService(out, &service, b.Name, n.Name, string(service.Service))
			}
		}
	}
}

// collectService writes what there is of a service of a node; where is its home,
// node and service.
func (d *nodeDescriptions) collectService(out chan<- prometheus.Metric, s *upstream.ServiceStatus, where ...string) {
	gauge, count := writers(out)
	with := func(label string) []string { return append(where[:len(where):len(where)], label) }
	gauge(d.marked, truth(s.Marked), where...)
	gauge(d.unmended, truth(s.Note != ""), where...)
	for state := range upstream.States {
		gauge(d.state, truth(s.State == state), with(state.String())...)
		if state != upstream.Drained {
			count(d.moves, s.Moves[state], with(state.String())...)
		}
	}
	count(d.checks, s.Good, with("good")...)
	count(d.checks, s.Bad, with("bad")...)
	gauge(d.logins, float64(s.Logins), where...)
	gauge(d.waiting, float64(s.Waiting), where...)
	count(d.turned, s.TurnedAway, where...)
	out <- histogram(d.took, &s.Took, where)
}

func histogram(desc *prometheus.Desc, t *upstream.Took, labels []string) prometheus.Metric {
	classes := make(map[float64]uint64, len(upstream.TookBounds))
	var n uint64
	for i, bound := range upstream.TookBounds {
		n += t.Classes[i]
		classes[bound.Seconds()] = n
	}
	n += t.Classes[len(upstream.TookBounds)]
	return prometheus.MustNewConstHistogram(desc, n, t.Sum.Seconds(), classes, labels...)
}
