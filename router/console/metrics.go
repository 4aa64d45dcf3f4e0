package console

import (
	"switchyard/router"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics shows a router's counters to Prometheus. The router counts with
// atomics; what is here runs when it is asked, and walks over the live sessions
// once.
type metrics struct{ router *router.Router }

// Metrics returns a collector of the router's counters.
func Metrics(r *router.Router) prometheus.Collector { return metrics{r} }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("switchyard_proxy_"+name, help, labels, nil)
}

// descriptions of all metrics.
type descriptions struct {
	sessions, joined, users, waiting, logins, ended, kicked, lookups, dials, bytes, drained, draining, marked *prometheus.Desc
}

func newDescriptions() descriptions {
	return descriptions{
		sessions: describe("sessions", "Live sessions. State login is before the login, inbound takes mail from the world, joined is spliced to a backend.", "protocol", "state"),
		joined:   describe("joined_sessions", "Sessions joined to a node.", "home", "node"),
		users:    describe("users", "Users with a live session, and names that one before its login tried last."),
		waiting:  describe("waiting_sessions", "Places taken among the sessions before login, which are bounded."),
		logins:   describe("logins_total", "Logins, by how they ended.", "protocol", "result"),
		ended:    describe("sessions_ended_total", "Sessions that have ended, by the result in their log line.", "protocol", "result"),
		kicked:   describe("sessions_kicked_total", "Sessions that were ended by an administrator, a drain or a change of their account."),
		lookups:  describe("lookups_total", "Questions to the directory and its cache, by answer.", "question", "answer"),
		dials:    describe("dials_total", "Connections to nodes, by result; interrupted are those that the client did not wait for.", "home", "node", "result"),
		bytes:    describe("bytes_total", "Bytes from clients (in) and to them (out), in sessions that have ended.", "protocol", "direction"),
		drained:  describe("node_drained", "1 when the node is out of service for this proxy.", "home", "node"),
		draining: describe("draining", "1 when the proxy is out of service."),
		marked:   describe("node_unreachable", "1 when the node could lately not be reached for the service and is tried last.", "home", "node", "service"),
	}
}

// Describe implements prometheus.Collector.
func (m metrics) Describe(out chan<- *prometheus.Desc) {
	d := newDescriptions()
	for _, one := range []*prometheus.Desc{
		d.sessions, d.joined, d.users, d.waiting, d.logins, d.ended, d.kicked, d.lookups, d.dials, d.bytes, d.drained, d.draining, d.marked,
	} {
		out <- one
	}
}

// Collect implements prometheus.Collector.
func (m metrics) Collect(out chan<- prometheus.Metric) {
	d := newDescriptions()
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	count := func(desc *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), labels...)
	}
	s := m.router.Stats()
	gauge(d.users, float64(s.Users))
	gauge(d.waiting, float64(s.Waiting))
	gauge(d.draining, truth(s.Draining))
	count(d.kicked, s.Kicked)
	for _, p := range s.Protocols {
		for state, n := range p.Live {
			gauge(d.sessions, float64(n), p.Protocol, state.String())
		}
		for result, n := range p.Logins {
			count(d.logins, n, p.Protocol, result)
		}
		for result, n := range p.Ended {
			count(d.ended, n, p.Protocol, result)
		}
		count(d.bytes, p.BytesIn, p.Protocol, "in")
		count(d.bytes, p.BytesOut, p.Protocol, "out")
	}
	for _, l := range s.Lookups {
		count(d.lookups, l.Count, l.Question, l.Answer.String())
	}
	m.collectNodes(&d, gauge, count)
}

func (m metrics) collectNodes(d *descriptions, gauge func(*prometheus.Desc, float64, ...string), count func(*prometheus.Desc, uint64, ...string)) {
	joined := m.router.Joined()
	for _, b := range m.router.Backends() {
		for _, n := range b.Nodes {
			gauge(d.joined, float64(joined[router.Leg{Backend: b.Name, Node: n.Name}]), b.Name, n.Name)
			gauge(d.drained, truth(n.Drained), b.Name, n.Name)
			count(d.dials, n.Connected, b.Name, n.Name, "connected")
			count(d.dials, n.Failed, b.Name, n.Name, "failed")
			count(d.dials, n.Interrupted, b.Name, n.Name, "interrupted")
			for _, service := range n.Services {
				gauge(d.marked, truth(service.Marked), b.Name, n.Name, string(service.Service))
			}
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
