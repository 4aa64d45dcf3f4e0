// Package core decides for one node of a mirrored pair: who may write, when a
// change may be acknowledged, what the other node lacks and how it gets it.
//
// It is a machine: Step takes one event and returns what is to be done. It has
// no goroutines, no clock, no network and no disk, so that both nodes and the
// arbiter run in one process under one seeded scheduler, and what was proved
// there is what the daemon runs.
//
// The rules in short. A shard has one writer in an epoch. In an epoch of both
// nodes a record is committed once both have it durably; in an epoch of one,
// once that one has. An epoch is what the arbiter says, or, without one, what
// the nodes make of the silence. Records of a writer that was replaced go away
// unless they were committed; committed ones (only without an arbiter, or after
// an operator's word) are merged. Only what is committed is applied, so that
// nothing is ever undone.
package core

import (
	"slices"
	"time"
)

// Config is what a Machine needs to know. Zero values get defaults, but for
// Self, Boot and Shards.
type Config struct {
	Self   Node
	Boot   uint64 // greater than in any earlier run of this node
	Shards int
	Fenced bool // there is an arbiter
	First  bool // begins when the pair has no epoch yet: its data counts

	Heartbeat    time.Duration // 0: 200 ms
	RefuseAfter  time.Duration // silence after which reads are refused; 0: 1 s
	ClaimAfter   time.Duration // silence after which an epoch alone is claimed; at least twice RefuseAfter; 0: 2 s
	Resend       time.Duration // 0: 500 ms
	ArbiterRetry time.Duration // 0: 500 ms
	ReadWait     time.Duration // 0: 1 s
	WriteWait    time.Duration // 0: 5 s
	Batch        int           // records of a message; 0: 64
	Window       uint64        // records of a shard on their way; 0: 1,024
}

func (c *Config) defaults() {
	set(&c.Heartbeat, 200*time.Millisecond)
	set(&c.RefuseAfter, time.Second)
	set(&c.ClaimAfter, 2*time.Second)
	set(&c.Resend, 500*time.Millisecond)
	set(&c.ArbiterRetry, 500*time.Millisecond)
	set(&c.ReadWait, time.Second)
	set(&c.WriteWait, 5*time.Second)
	set(&c.Batch, 64)
	set(&c.Window, 1024)
}

func set[T int | uint64 | time.Duration](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

// Saved is what a node remembers across crashes beside its logs.
type Saved struct {
	Epoch    Epoch // newest in which it took part: it has all that was acknowledged before
	Prepared Epoch // would take part in this one, too
	Forced   Epoch // made by an operator's word, and no epoch of both since

	// In an epoch of this node alone all records of it are committed, and the
	// ones before it that are named here by shard. Held says that only those
	// named are: the rest waits for the other node.
	Floors []Pos
	Held   bool
}

func (s Saved) equal(o Saved) bool {
	return s.Epoch == o.Epoch && s.Prepared == o.Prepared && s.Forced == o.Forced && s.Held == o.Held && slices.Equal(s.Floors, o.Floors)
}

// committed returns how far a log was committed when the node went down, at
// least.
func (s *Saved) committed(self Node, shard int, l *Log) uint64 {
	commit := l.Applied
	if s.Epoch.Alone() != self {
		return commit
	}
	log := spans(l.Spans)
	if shard < len(s.Floors) {
		if floor := s.Floors[shard]; log.pos(floor.Seq) == floor {
			commit = max(commit, floor.Seq)
		}
	}
	for _, span := range log {
		if span.Epoch == s.Epoch && !s.Held {
			commit = max(commit, span.Last)
		}
	}
	return commit
}

// Log is what a node finds of a shard at start. All of it is durable.
type Log struct {
	Spans   []Span
	Trimmed uint64 // the records up to this one are gone
	Applied uint64
}

// State is what the node is to those who look at it.
type State uint8

// The states.
const (
	Starting   State = iota // nothing is known yet: neither reads nor writes
	Sync                    // both nodes have all that is acknowledged
	Isolated                // has all that is acknowledged, but the other node is silent and the arbiter has not spoken
	Solo                    // acknowledges alone
	Joining                 // alone, and the other node is about to have all
	Unfenced                // acknowledges alone, with nobody who would know
	Stale                   // the other node went on alone, or may have
	CatchingUp              // stale, and the other node is there
)

func (s State) String() string {
	return [...]string{"STARTING", "SYNC", "ISOLATED", "SOLO", "JOINING", "UNFENCED", "STALE", "CATCHUP"}[s]
}

// Machine is one node. It is not safe for concurrent use.
type Machine struct {
	cfg    Config
	now    time.Duration
	booted time.Duration
	saved  Saved
	epoch  Epoch
	was    Epoch // in which this node went down: it does not take part in it again
	sure   bool  // the arbiter says that was is the epoch still
	member bool  // takes part in epoch
	seen   uint64
	shards []shard

	peer     peer
	beatAt   time.Duration
	echoedAt time.Duration // when the newest beat came that was echoed: the other node's leave counts from before
	askedAt  time.Duration
	claim    Epoch // asked of the arbiter at an operator's word
	granted  Epoch // got, but the other node may still hold a promise
	join     join

	wishes  []*wish
	execs   []*exec
	nextID  uint64
	misfits []UserAsk // accounts that do not fit and wait for the other node's state
	userAt  time.Duration
	handled []forwarded // forwards taken of the other node's boot, newest last
	out     []Action
}

type peer struct {
	boot   uint64
	heard  time.Duration
	sent   time.Duration // Sent of its newest beat
	came   time.Duration // when that came
	lease  time.Duration // until when it claims nothing
	epoch  Epoch
	member bool
	known  bool
}

// join is the way from an epoch alone to one of both.
type join struct {
	holding  bool // nothing more is acknowledged alone
	prepared bool
	to       Epoch
	began    time.Duration
	askedAt  time.Duration
	asked    bool // the arbiter, who may do it at any time
}

type shard struct {
	spans   spans
	trimmed uint64
	last    uint64
	synced  uint64
	commit  uint64
	floor   uint64 // reads and writes wait until this is committed
	open    bool

	// As the writer.
	next, match uint64
	acked       bool // match is the other node's word
	more        bool // it has committed records behind match that may be others
	toldCommit  uint64
	sentAt      time.Duration
	snapshot    bool // the other node needs the state
	exportAt    time.Duration
	absorbing   bool
	absorbed    Pos
	absorbedSeq uint64

	// As the follower.
	matched   uint64 // the same as the writer's up to here
	committed uint64 // the writer's word
	toldAck   uint64
}

// New returns the machine of a node that starts at a moment of its monotonic
// clock. The first Step says what to do.
func New(cfg Config, now time.Duration, saved Saved, logs []Log) *Machine {
	cfg.defaults()
	m := &Machine{cfg: cfg, now: now, booted: now, saved: saved, epoch: saved.Epoch, was: saved.Epoch, echoedAt: now, askedAt: now - cfg.ArbiterRetry,
		beatAt: now - cfg.Heartbeat, shards: make([]shard, cfg.Shards)}
	m.peer.heard, m.peer.lease = now, now
	m.seen = max(saved.Epoch.Number(), saved.Prepared.Number())
	for i := range m.shards {
		sh := &m.shards[i]
		sh.spans, sh.trimmed, sh.commit = slices.Clone(logs[i].Spans), logs[i].Trimmed, saved.committed(cfg.Self, i, &logs[i])
		if sh.commit > logs[i].Applied {
			m.do(Apply{Shard: uint8(i), Seq: sh.commit})
		}
		sh.last = sh.spans.last()
		sh.exportAt = now - cfg.Resend
		sh.synced, sh.floor = sh.last, sh.last
		for _, s := range sh.spans {
			m.seen = max(m.seen, s.Epoch.Number())
		}
	}
	return m
}

// Step tells of one event at a moment, which never goes back, and returns what
// is to be done.
func (m *Machine) Step(now time.Duration, ev Event) []Action {
	m.now = max(m.now, now)
	switch ev := ev.(type) {
	case Tick:
		m.tick()
	case Received:
		m.received(ev.Message)
	case ArbiterSays:
		m.arbiterSays(ev.Epoch)
	case Appended:
		m.appended(ev)
	case NotAppended:
		m.notAppended(ev)
	case Synced:
		m.synced(ev)
	case Trimmed:
		m.shards[ev.Shard].trimmed = max(m.shards[ev.Shard].trimmed, ev.Seq)
	case Write:
		m.write(ev)
	case Read:
		m.read(ev)
	case Absorbed:
		sh := &m.shards[ev.Shard]
		sh.absorbing, sh.absorbed, sh.absorbedSeq, sh.snapshot = false, ev.From, ev.Seq, true
	case Misfit:
		ask := UserAsk(ev)
		if !slices.Contains(m.misfits, ask) {
			m.misfits = append(m.misfits, ask) // a tick asks, at a pace: an answer may not fit either
		}
	case Promote:
		m.promote()
	}
	out := m.out
	m.out = nil
	return out
}

func (m *Machine) do(a Action) { m.out = append(m.out, a) }

func (m *Machine) send(body any) {
	m.do(Send{Message{From: m.cfg.Self, Boot: m.cfg.Boot, Epoch: m.epoch, Member: m.member, Body: body}})
}

func (m *Machine) save(s Saved) {
	if !s.equal(m.saved) {
		m.saved = s
		m.do(Save{s})
	}
}

// Preferred returns the node that writes a shard while both do.
func Preferred(shard uint8) Node { return NodeA + Node(shard&1) }

// writer returns who writes a shard in the epoch.
func (m *Machine) writer(shard uint8) Node {
	if alone := m.epoch.Alone(); alone != Nobody || m.epoch == 0 {
		return alone
	}
	return Preferred(shard)
}

func (m *Machine) writes(shard uint8) bool { return m.member && m.writer(shard) == m.cfg.Self }

// Epoch returns the newest epoch that the node knows, and whether it takes part.
func (m *Machine) Epoch() (e Epoch, member bool) { return m.epoch, m.member }

// Committed returns a shard's commit index and its newest record.
func (m *Machine) Committed(shard uint8) (commit, last uint64) {
	return m.shards[shard].commit, m.shards[shard].last
}

// silence is how long the other node has not been heard.
func (m *Machine) silence() time.Duration { return m.now - max(m.peer.heard, m.booted) }

// State returns what the node is now.
func (m *Machine) State() State {
	near := m.peer.known && m.silence() < m.cfg.RefuseAfter
	switch alone := m.epoch.Alone(); {
	case !m.member && !m.peer.known && m.epoch == m.saved.Epoch:
		return Starting
	case !m.member && m.heir(m.epoch):
		return Isolated
	case !m.member && near:
		return CatchingUp
	case !m.member:
		return Stale
	case alone == Nobody && near:
		return Sync
	case alone == Nobody:
		return Isolated
	case m.join.holding:
		return Joining
	case !m.cfg.Fenced:
		return Unfenced
	}
	return Solo
}

// Lag returns how many records the other node does not have durably, as far as
// this node knows. Only a writer knows.
func (m *Machine) Lag() (records uint64) {
	for i := range m.shards {
		if sh := &m.shards[i]; m.writes(uint8(i)) {
			records += sh.last - min(sh.match, sh.last)
		}
	}
	return records
}

// Unreplicated returns what was acknowledged here and is not known to be with
// the other node.
func (m *Machine) Unreplicated() (records uint64) {
	for i := range m.shards {
		if sh := &m.shards[i]; m.writes(uint8(i)) {
			records += sh.commit - min(sh.match, sh.commit)
		}
	}
	return records
}

// drop returns the list without those that a function names.
func drop[T any](list []T, which func(T) bool) []T { return slices.DeleteFunc(list, which) }
