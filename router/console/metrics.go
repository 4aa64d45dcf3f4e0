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
	sessions, users, waiting, logins, ended, kicked, lookups, bytes, draining *prometheus.Desc

	nodes nodeDescriptions
}

func newDescriptions() descriptions {
	return descriptions{
		sessions: describe("sessions", "Live sessions. State login is before the login, inbound takes mail from the world, joined is spliced to a backend.", "protocol", "state"),
		users:    describe("users", "Users with a live session, and names that one before its login tried last."),
		waiting:  describe("waiting_sessions", "Places taken among the sessions before login, which are bounded."),
		logins:   describe("logins_total", "Logins, by how they ended.", "protocol", "result"),
		ended:    describe("sessions_ended_total", "Sessions that have ended, by the result in their log line.", "protocol", "result"),
		kicked:   describe("sessions_kicked_total", "Sessions that were ended by an administrator, a drain or a change of their account."),
		lookups:  describe("lookups_total", "Questions to the directory and its cache, by answer.", "question", "answer"),
		bytes:    describe("bytes_total", "Bytes from clients (in) and to them (out), in sessions that have ended.", "protocol", "direction"),
		draining: describe("draining", "1 when the proxy is out of service."),
		nodes:    newNodeDescriptions(),
	}
}

// Describe implements prometheus.Collector.
func (m metrics) Describe(out chan<- *prometheus.Desc) {
	d := newDescriptions()
	for _, one := range []*prometheus.Desc{d.sessions, d.users, d.waiting, d.logins, d.ended, d.kicked, d.lookups, d.bytes, d.draining} {
		out <- one
	}
	d.nodes.describe(out)
}

// Collect implements prometheus.Collector.
func (m metrics) Collect(out chan<- prometheus.Metric) {
	d := newDescriptions()
	gauge, count := writers(out)
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
	m.collectNodes(&d.nodes, out)
}

// writers write a value each.
func writers(out chan<- prometheus.Metric) (gauge func(*prometheus.Desc, float64, ...string), count func(*prometheus.Desc, uint64, ...string)) {
	gauge = func(desc *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	count = func(desc *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), labels...)
	}
	return gauge, count
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
