package effect

// Span is a run of a shard's records of one epoch.
type Span struct {
	Epoch uint64
	Last  uint64 // number of its newest record
}

// Log is what a node has of a shard's log. All of it is durable.
type Log struct {
	Spans   []Span // of the whole past, ascending
	Trimmed uint64 // the records up to this one are gone
	Last    uint64 // the newest record
	Applied uint64 // the newest one in the state
}

// EpochOf returns the epoch of a record, 0 when there is none.
func (l *Log) EpochOf(seq uint64) uint64 {
	for _, span := range l.Spans {
		if seq > 0 && seq <= span.Last {
			return span.Epoch
		}
	}
	return 0
}
