package cache

import "sync/atomic"

// Stats counts what the cache did since it was made.
type Stats struct {
	Hits      uint64 // answers from memory within their TTL
	Misses    uint64 // questions to the directory
	Stale     uint64 // old answers given because the directory was unavailable
	Shared    uint64 // callers that shared another's question
	BackedOff uint64 // unavailable without a question, right after another
	Entries   int    // accounts in memory now
	Unknown   int    // names without an account in memory now
}

type counters struct{ hits, misses, stale, shared, backedOff atomic.Uint64 }

// Stats reads the counters; they are not of one instant.
func (c *Cache) Stats() Stats {
	return Stats{
		Hits: c.stats.hits.Load(), Misses: c.stats.misses.Load(), Stale: c.stats.stale.Load(),
		Shared: c.stats.shared.Load(), BackedOff: c.stats.backedOff.Load(),
		Entries: c.known.Len(), Unknown: c.unknown.Len(),
	}
}
