package router

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"switchyard/internal/server"
	"switchyard/lookup"
	"switchyard/router/upstream"
)

// Backend is a backend as it is now.
type Backend = upstream.BackendStatus

// Stats is what a router counted since it was made. The numbers are not of one
// instant.
type Stats struct {
	Protocols []ProtocolStats // by name
	Lookups   []LookupStats
	Users     int    // with a session, or tried by one
	Waiting   int    // sessions before login
	Kicked    uint64 // sessions that were ended from outside
	Draining  bool
}

// ProtocolStats is what was counted of one protocol.
type ProtocolStats struct {
	Protocol string
	Live     map[State]int
	Logins   map[string]uint64 // by result
	Ended    map[string]uint64 // by the result in the session's log line
	BytesIn  uint64            // from clients, in sessions that have ended
	BytesOut uint64
}

// LookupStats is how often a question to the directory (check, lookup, fresh)
// got an answer. The cache's answers count like the directory's.
type LookupStats struct {
	Question string
	Answer   lookup.Answer
	Count    uint64
}

// tally counts for one protocol.
type tally struct {
	protocol string
	live     [states]atomic.Int64
	logins   [loginResults]atomic.Uint64
	ended    [results]atomic.Uint64
	in, out  atomic.Uint64
}

// tallies are the router's, by protocol.
type tallies struct {
	mu  sync.Mutex
	all map[string]*tally
}

func (t *tallies) of(protocol string) *tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = make(map[string]*tally)
	}
	one := t.all[protocol]
	if one == nil {
		one = &tally{protocol: protocol}
		t.all[protocol] = one
	}
	return one
}

func (t *tallies) list() []*tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*tally
	for _, one := range t.all {
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b *tally) int { return strings.Compare(a.protocol, b.protocol) })
	return out
}

// question is what a directory is asked.
type question int

const (
	askCheck question = iota
	askLookup
	askFresh
	questions
)

func (q question) String() string { return [...]string{"check", "lookup", "fresh"}[q] }

const answers = lookup.AnswerUnavailable + 1

// asked counts the directory's answers.
type asked [questions][answers]atomic.Uint64

func (a *asked) count(q question, err error) { a[q][lookup.AnswerOf(err)].Add(1) }

// loginResult is how a login ended.
type loginResult int

const (
	loginOK loginResult = iota
	loginRejected
	loginRefused
	loginFull
	loginThrottled
	loginNoDirectory
	loginNoBackend
	loginMisconfigured
	loginInterrupted
	loginBroken
	loginResults
)

func (r loginResult) String() string {
	return [...]string{"ok", "rejected", "refused", "too many sessions", "throttled", "directory unavailable", "backend unavailable",
		"misconfigured", "interrupted", "broken"}[r]
}

func loginResultOf(err error) loginResult {
	switch {
	case err == nil:
		return loginOK
	case isAny(err, server.ErrShutdown, ErrDraining, context.Canceled):
		return loginInterrupted
	case errors.Is(err, ErrSessions):
		return loginFull
	case errors.Is(err, ErrThrottled):
		return loginThrottled
	case errors.Is(err, ErrOperator):
		return loginMisconfigured
	case isAny(err, ErrBackend, ErrMoved):
		return loginNoBackend
	case errors.Is(err, lookup.ErrUnavailable):
		return loginNoDirectory
	case isAny(err, lookup.ErrRejected, lookup.ErrAbsent):
		return loginRejected
	case errors.As(err, new(*StatusError)), errors.As(err, new(*RefusedError)):
		return loginRefused
	default:
		return loginBroken
	}
}

// Stats reads the counters.
func (r *Router) Stats() Stats {
	s := Stats{Kicked: r.kicked.Load(), Draining: r.draining.Load(), Waiting: r.gate.Waiting()}
	_, s.Users = r.live.size()
	for _, t := range r.tallies.list() {
		p := ProtocolStats{
			Protocol: t.protocol, Live: make(map[State]int), Logins: make(map[string]uint64), Ended: make(map[string]uint64),
			BytesIn: t.in.Load(), BytesOut: t.out.Load(),
		}
		for i := range t.live {
			p.Live[State(i)] = int(t.live[i].Load())
		}
		for i := range t.logins {
			p.Logins[loginResult(i).String()] = t.logins[i].Load()
		}
		for i := range t.ended {
			p.Ended[result(i).String()] = t.ended[i].Load()
		}
		s.Protocols = append(s.Protocols, p)
	}
	for q := range questions {
		for a := range answers {
			s.Lookups = append(s.Lookups, LookupStats{q.String(), a, r.asked[q][a].Load()})
		}
	}
	return s
}
