package main

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"switchyard/lookup/tcpauth"
)

// What is shown of every store.
var (
	answersDesc = prometheus.NewDesc("switchyard_directory_answers_total",
		"Requests by verb and by answer: ok, err (a certain no), dead (ask again). Verb other is what is about no user.", []string{"verb", "answer"}, nil)
	connectionsDesc = prometheus.NewDesc("switchyard_directory_connections", "Open connections.", nil, nil)
	waitingDesc     = prometheus.NewDesc("switchyard_directory_waiting_requests", "Tagged requests that wait for the store; they are bounded.", nil, nil)
	usersDesc       = prometheus.NewDesc("switchyard_directory_users", "Users in the store, where it says; of PostgreSQL up to five minutes old.", nil, nil)
	hashingDesc     = prometheus.NewDesc("switchyard_directory_hashing", "Passwords that are being hashed, and callers that wait for their turn.", []string{"state"}, nil)
	refusedDesc     = prometheus.NewDesc("switchyard_directory_hashing_refused_total", "Callers that waited for their turn in vain.", nil, nil)
)

// How many users PostgreSQL has is asked this often at most, and may take so
// long: it reads them all.
const (
	recount      = 5 * time.Minute
	countTimeout = 5 * time.Second
)

// metrics shows what the server did and how the store is. It is a
// prometheus.Collector.
type metrics struct {
	server *tcpauth.Server
	users  users

	mu      sync.Mutex
	counted time.Time
	count   int
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{answersDesc, connectionsDesc, waitingDesc, usersDesc, hashingDesc, refusedDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	stats := m.server.Stats()
	for verb, a := range stats.Answers {
		name := string(verb)
		if name == "" {
			name = "other"
		}
		count(answersDesc, a.OK, name, "ok")
		count(answersDesc, a.Err, name, "err")
		count(answersDesc, a.Dead, name, "dead")
	}
	gauge(connectionsDesc, stats.Connections)
	gauge(waitingDesc, stats.Waiting)
	if n, known := m.userCount(); known {
		gauge(usersDesc, n)
	}
	if h, ok := m.users.(interface {
		Hashing() (running, waiting int, refused uint64)
	}); ok {
		running, waiting, refused := h.Hashing()
		gauge(hashingDesc, running, "running")
		gauge(hashingDesc, waiting, "waiting")
		count(refusedDesc, refused)
	}
}

// userCount is how many users there are; a module does not say.
func (m *metrics) userCount() (n int, known bool) {
	switch u := m.users.(type) {
	case interface{ Len() int }:
		return u.Len(), true
	case interface {
		Count(context.Context) (int, error)
	}:
		m.mu.Lock()
		defer m.mu.Unlock()
		if time.Since(m.counted) > recount {
			ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
			defer cancel()
			n, err := u.Count(ctx)
			if err != nil {
				return 0, false
			}
			m.counted, m.count = time.Now(), n
		}
		return m.count, true
	}
	return 0, false
}
