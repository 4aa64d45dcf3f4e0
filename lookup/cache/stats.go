package cache

import "sync/atomic"

// Stats counts what the cache did since it was made.
type Stats struct {
	Hits      uint64 // answers from memory within their TTL
	Misses    uint64 // questions to the directory
	Stale     uint64 // old answers given because the directory was unavailable
	Shared    uint64 // callers that shared another's question
	BackedOff uint64 // unavailable without a question, right after another
	Ahead     uint64 // questions in the background, for what was used shortly before its end
	Busy      uint64 // unavailable without a question, since too many wait
	Changes   uint64 // that the directory's feed told of
	Entries   int    // accounts in memory now
	Unknown   int    // names without an account in memory now
	Bytes     int64  // that both take, about
}

type counters struct{ hits, misses, stale, shared, backedOff, ahead, busy, changes atomic.Uint64 }

// Stats reads the counters; they are not of one instant.
func (c *Cache) Stats() Stats {
	return Stats{
		Hits: c.stats.hits.Load(), Misses: c.stats.misses.Load(), Stale: c.stats.stale.Load(),
		Shared: c.stats.shared.Load(), BackedOff: c.stats.backedOff.Load(), Ahead: c.stats.ahead.Load(),
		Busy: c.stats.busy.Load(), Changes: c.stats.changes.Load(),
		Entries: c.known.len(), Unknown: c.unknown.len(), Bytes: c.known.bytes.Load() + c.unknown.bytes.Load(),
	}
}
