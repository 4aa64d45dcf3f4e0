package tcpauth

import (
	"sync/atomic"

	"switchyard/lookup/internal/authent"
)

// Answers counts answers by their kind: Dead is what a client has to ask again.
type Answers struct {
	OK, Err, Dead uint64
}

// ServerStats is what a server has done since it was made.
type ServerStats struct {
	// Answers by verb, for those that are about users; all others are under
	// "".
	Answers map[authent.Verb]Answers

	// Connections that are open, and tagged requests that wait for the
	// database.
	Connections, Waiting int
}

// Stats returns what the server has done so far. It is cheap.
func (s *Server) Stats() ServerStats {
	out := ServerStats{
		Answers:     make(map[authent.Verb]Answers, len(counted)),
		Connections: int(s.connections.Load()),
		Waiting:     int(s.inFlight.Load()),
	}
	for i, verb := range counted {
		c := &s.counts[i]
		out.Answers[verb] = Answers{OK: c.ok.Load(), Err: c.err.Load(), Dead: c.dead.Load()}
	}
	return out
}

// counted are the verbs that are counted by themselves, behind the rest.
var counted = [...]authent.Verb{"", authent.Lookup, authent.Check, authent.Set, authent.Delete, authent.Search, authent.XKeys}

// counts are the answers to one verb.
type counts struct{ ok, err, dead atomic.Uint64 }

// count counts a reply that ends an answer.
func (s *Server) count(verb authent.Verb, kind authent.Kind) {
	i := 0
	for j, v := range counted {
		if v == verb {
			i = j
		}
	}
	switch kind {
	case authent.OK:
		s.counts[i].ok.Add(1)
	case authent.Err:
		s.counts[i].err.Add(1)
	case authent.Dead:
		s.counts[i].dead.Add(1)
	}
}
