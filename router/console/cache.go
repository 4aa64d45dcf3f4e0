package console

import (
	"switchyard/lookup/cache"

	"github.com/prometheus/client_golang/prometheus"
)

// cacheMetrics shows what the directory's cache counts.
type cacheMetrics struct {
	stats                   func() cache.Stats
	answers, changes        *prometheus.Desc
	entries, unknown, bytes *prometheus.Desc
}

// CacheMetrics returns a collector of what a directory's cache counts.
func CacheMetrics(stats func() cache.Stats) prometheus.Collector {
	return &cacheMetrics{
		stats:   stats,
		answers: describe("cache_answers_total", "How the cache answered: hit from memory, miss by a question, shared with another's question, ahead of an answer's end in the background, stale because the directory was unavailable, backed_off and busy without a question, unavailable.", "how"),
		changes: describe("cache_changes_total", "Changes that the directory's feed told of."),
		entries: describe("cache_accounts", "Accounts in memory."),
		unknown: describe("cache_unknown_names", "Names without an account in memory."),
		bytes:   describe("cache_bytes", "Bytes that both take, about."),
	}
}

// Describe implements prometheus.Collector.
func (m *cacheMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, one := range []*prometheus.Desc{m.answers, m.changes, m.entries, m.unknown, m.bytes} {
		out <- one
	}
}

// Collect implements prometheus.Collector.
func (m *cacheMetrics) Collect(out chan<- prometheus.Metric) {
	gauge, count := writers(out)
	s := m.stats()
	for how, n := range map[string]uint64{
		"hit": s.Hits, "miss": s.Misses, "shared": s.Shared, "ahead": s.Ahead, "stale": s.Stale, "backed_off": s.BackedOff, "busy": s.Busy,
	} {
		count(m.answers, n, how)
	}
	count(m.changes, s.Changes)
	gauge(m.entries, float64(s.Entries))
	gauge(m.unknown, float64(s.Unknown))
	gauge(m.bytes, float64(s.Bytes))
}
