package core

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/mirror/merge"
)

const simShards = 4

// mode is what kind of pair is simulated.
type mode struct {
	fenced bool
	forced bool // the operator promotes now and then
}

// world is both nodes, the arbiter and the network under one seeded scheduler.
type world struct {
	rng     *rand.Rand
	mode    mode
	now     time.Duration
	later   []event // what happens at a time, in no order
	order   int
	nodes   [3]*simNode
	arbiter Epoch
	cut     [3]bool // messages from this node do not arrive
	away    [3]bool // this node does not reach the arbiter
	lossy   float64
	calm    bool // no more faults
	boots   uint64
	ids     uint64
	trace   []string
	failure string
	*checker
}

type event struct {
	at    time.Duration
	order int
	run   func()
}

type simNode struct {
	w       *world
	id      Node
	m       *Machine
	boot    uint64
	disk    *disk
	states  []simShard
	paused  time.Duration
	offset  time.Duration // of its monotonic clock
	wall    time.Duration // of its wall clock
	clock   effect.Clock
	backlog []Event
	busy    bool
}

// simShard is a shard's state in memory.
type simShard struct {
	accounts map[string]*merge.Account
	applied  uint64
	writer   SetWriter
	locked   map[string]uint64 // users with a record that is not applied
	absorb   *Absorb
	shut     map[string]uint64 // quarantined at a record
	heal     map[string]Adopt
}

func newWorld(seed uint64, mode mode) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), mode: mode, checker: newChecker()}
	for _, id := range []Node{NodeA, NodeB} {
		n := &simNode{w: w, id: id, disk: newDisk(simShards), offset: w.upTo(time.Hour)}
		n.wall = time.Duration(w.rng.IntN(3)-1) * time.Hour
		w.nodes[id] = n
		n.start()
	}
	return w
}

func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d))) }
func (w *world) chance(p float64) bool              { return w.rng.Float64() < p }

func (w *world) after(d time.Duration, run func()) {
	if len(w.later) > 5000 {
		w.fail("a storm: %d messages are on their way", len(w.later))
		return
	}
	w.order++
	w.later = append(w.later, event{w.now + d, w.order, run})
}

func (w *world) fail(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf("at %v: ", w.now) + fmt.Sprintf(format, args...)
	}
}

func (w *world) log(format string, args ...any) {
	if len(w.trace) > 400 {
		w.trace = w.trace[200:]
	}
	w.trace = append(w.trace, fmt.Sprintf("%v ", w.now)+fmt.Sprintf(format, args...))
}

// start boots a node from its disk.
func (n *simNode) start() {
	w := n.w
	w.boots++
	n.boot = w.boots
	var logs []Log
	n.states = make([]simShard, simShards)
	for i := range n.disk.logs {
		l := &n.disk.logs[i]
		logs = append(logs, Log{Spans: l.spans(), Trimmed: l.trimmed, Applied: l.checkSeq})
		st := &n.states[i]
		st.accounts, st.applied = cloneAll(l.check), l.checkSeq
		st.locked, st.shut, st.heal = make(map[string]uint64), make(map[string]uint64), make(map[string]Adopt)
		for _, a := range st.accounts {
			for _, b := range a.Boxes {
				b.Exposed = true // nobody knows any more
			}
		}
	}
	n.clock = 0
	n.backlog, n.busy = nil, false
	n.m = New(Config{Self: n.id, Boot: n.boot, Shards: simShards, Fenced: w.mode.fenced, First: n.id == NodeA, Batch: 4, Window: 12}, w.now+n.offset, n.disk.saved, logs)
	w.log("%v boots as %d: saved %v prepared %v", n.id, n.boot, n.disk.saved.Epoch, n.disk.saved.Prepared)
	n.tell(Tick{})
}

// tell gives an event to a node, or keeps it while the node is paused.
func (n *simNode) tell(ev Event) {
	if n.m == nil || n.w.failure != "" {
		return
	}
	if n.paused > n.w.now || n.busy {
		n.backlog = append(n.backlog, ev)
		return
	}
	n.busy = true
	queue := append(n.backlog, ev)
	n.backlog = nil
	for len(queue) > 0 && n.m != nil {
		was, member := n.m.Epoch()
		acts := n.m.Step(n.w.now+n.offset, queue[0])
		queue = queue[1:]
		if e, now := n.m.Epoch(); e != was || member != now {
			n.w.log("%v goes from %v to %v, takes part %v", n.id, was, e, now)
		}
		if n.m.State() == Sync {
			n.conceal()
		}
		crashAt := -1
		if !n.w.calm && n.w.chance(0.0004) {
			crashAt = n.w.rng.IntN(len(acts) + 1) // between two actions
		}
		for i, a := range acts {
			if i == crashAt {
				n.w.crash(n, false)
				return
			}
			n.carryOut(a)
		}
		queue = append(queue, n.backlog...)
		n.backlog = nil
	}
	n.busy = false
}

func (n *simNode) conceal() {
	for i := range n.states {
		for _, a := range n.states[i].accounts {
			for _, b := range a.Boxes {
				b.Exposed = false
			}
		}
	}
}

func (n *simNode) carryOut(a Action) {
	w := n.w
	switch a := a.(type) {
	case Save:
		n.disk.saved = a.Saved
	case Send:
		n.post(a.Message)
	case AskArbiter:
		n.ask(a)
	case SetWriter:
		n.states[a.Shard].writer = a
		n.states[a.Shard].absorb = nil
	case Execute:
		n.execute(a)
	case Append:
		n.append(a)
	case Apply:
		n.apply(a)
	case Answer:
		w.answer(n, a)
	case Absorb:
		n.states[a.Shard].absorb = &a
		n.absorb(a.Shard)
	case Install:
		n.install(a)
	case Adopt:
		n.states[a.Shard].heal[a.User] = a
		n.heal(a.Shard)
	}
}

// post sends a message, with what the adapter adds to it.
func (n *simNode) post(msg Message) {
	w := n.w
	switch b := msg.Body.(type) {
	case Records:
		l := &n.disk.logs[b.Shard]
		if b.First <= l.trimmed && b.Last >= b.First {
			return // trimmed since: the machine will hear of it
		}
		var recs []rec
		for seq := b.First; seq <= b.Last; seq++ {
			recs = append(recs, *l.at(seq))
		}
		b.Content = recs
		msg.Body = b
	case Export:
		b.Content = cloneAll(n.states[b.Shard].accounts)
		msg.Body = b
	case Snapshot:
		if n.states[b.Shard].applied != b.Seq {
			return
		}
		b.Content = content{cloneAll(n.states[b.Shard].accounts), maps.Clone(n.states[b.Shard].shut)}
		msg.Body = b
	case UserState:
		if _, shut := n.states[b.Shard].shut[b.User]; shut || n.states[b.Shard].applied != b.At.Seq || n.states[b.Shard].accounts[b.User] == nil {
			return
		}
		b.Content = cloneAll(map[string]*merge.Account{b.User: n.states[b.Shard].accounts[b.User]})
		msg.Body = b
	case Forward:
		w.happened["forward"]++
	}
	copies := 1
	if !w.calm && w.chance(0.01) {
		copies = 2
	}
	for range copies {
		if w.cut[n.id] || w.chance(w.lossy) {
			continue
		}
		delay := time.Millisecond + w.upTo(15*time.Millisecond)
		if !w.calm && w.chance(0.02) {
			delay += w.upTo(3 * time.Second)
		}
		w.after(delay, func() { w.nodes[n.id.Peer()].tell(Received{msg}) })
	}
}

// ask takes a question to the arbiter, there and back.
func (n *simNode) ask(a AskArbiter) {
	w, boot := n.w, n.boot
	if n.m.State() == Isolated && a.To.Alone() == n.id {
		w.happened["silence"]++
	}
	way := func() time.Duration {
		d := time.Millisecond + w.upTo(20*time.Millisecond)
		if !w.calm && w.chance(0.1) {
			d += w.upTo(4 * time.Second)
		}
		return d
	}
	if w.away[n.id] || w.chance(w.lossy) {
		return
	}
	w.after(way(), func() {
		if a.From != a.To {
			if w.arbiter == a.From {
				w.arbiter = a.To
				w.log("arbiter: %v", a.To)
				w.happened["arbiter "+[...]string{"both", "alone", "alone", "neither"}[a.To.Alone()]]++
			} else if w.arbiter != a.To {
				w.happened["claim lost"]++
			}
		}
		now := w.arbiter
		if w.away[n.id] || w.chance(w.lossy) {
			return
		}
		w.after(way(), func() {
			if n.boot == boot {
				n.tell(ArbiterSays{now})
			}
		})
	})
}

func (n *simNode) tick() effect.Clock {
	n.clock = n.clock.Next(time.UnixMilli(1e12).Add(n.w.now + n.wall))
	return n.clock
}

func (n *simNode) execute(x Execute) {
	w, st, o := n.w, &n.states[x.Shard], x.Op.(op)
	_, locked := st.locked[o.user]
	_, shut := st.shut[o.user]
	if !st.writer.Open || locked || shut || st.absorb != nil || n.disk.logs[x.Shard].last()-st.applied > 20 {
		n.tell(NotAppended{Shard: x.Shard, ID: x.ID, Outcome: Busy, Seq: st.applied})
		return
	}
	r, ok := o.plan(st.accounts[o.user], st.writer.Side, st.writer.Epoch, n.tick(), w.guid())
	if !ok {
		outcome := OK
		if o.kind == "add" {
			outcome = Busy
			if a := st.accounts[o.user]; a != nil {
				if _, twice := a.Deliveries[o.did]; twice {
					outcome = OK
					w.happened["duplicate"]++
				}
			}
		}
		n.tell(NotAppended{Shard: x.Shard, ID: x.ID, Outcome: outcome, Seq: st.applied})
		return
	}
	w.planned(&r, st.accounts[o.user])
	if r.kind == "add" && st.writer.Side != Nobody {
		w.happened["side block"]++
	}
	n.write(x.Shard, r, x.ID)
}

// write puts a record of this node's own into a log.
func (n *simNode) write(shard uint8, r rec, id uint64) {
	st, l := &n.states[shard], &n.disk.logs[shard]
	r.pos = Pos{st.writer.Epoch, l.last() + 1}
	st.locked[r.user] = r.pos.Seq
	n.w.wrote(n.id, shard, r.pos)
	state := map[string]*merge.Account{}
	if a := st.accounts[r.user]; a != nil {
		state[r.user] = a.Clone()
	}
	r.applyTo(state)
	r.after = digestOf(state[r.user], r.box)
	l.write(write{recs: []rec{r}})
	n.tell(Appended{Shard: shard, Pos: r.pos, ID: id, Result: result{r.kind, r.box, r.uid}})
	n.syncLater(shard)
}

func (n *simNode) syncLater(shard uint8) {
	w, boot := n.w, n.boot
	w.after(time.Millisecond+w.upTo(12*time.Millisecond), func() {
		if n.boot != boot || n.m == nil {
			return
		}
		l := &n.disk.logs[shard]
		l.sync(len(l.journal))
		if k := len(l.durable); k > 0 {
			n.tell(Synced{Shard: shard, Pos: l.durable[k-1].pos})
		}
	})
}

func (n *simNode) append(a Append) {
	l := &n.disk.logs[a.Shard]
	var recs []rec
	if len(a.Epochs) > 0 {
		recs = a.Content.([]rec)[a.Skip:]
	}
	if a.Cut {
		n.w.happened["cut"]++
	} else if a.After != l.last() && len(recs) > 0 {
		n.w.fail("%v appends behind %d, has %d", n.id, a.After, l.last())
		return
	}
	l.write(write{cut: a.Cut, after: a.After, recs: recs})
	st := &n.states[a.Shard]
	maps.DeleteFunc(st.locked, func(_ string, seq uint64) bool { return seq > a.After })
	n.syncLater(a.Shard)
}

func (n *simNode) apply(a Apply) {
	w, st, l := n.w, &n.states[a.Shard], &n.disk.logs[a.Shard]
	for st.applied < a.Seq {
		r := l.at(st.applied + 1)
		st.applied++
		w.applied(n, a.Shard, r)
		if st.locked[r.user] == st.applied {
			delete(st.locked, r.user)
		}
		if _, shut := st.shut[r.user]; shut {
			continue
		}
		n.applyOne(a.Shard, r)
	}
	n.heal(a.Shard)
	n.absorb(a.Shard)
	if w.chance(0.1) && len(st.shut) == 0 && st.applied > l.checkSeq && st.applied > l.trimmed {
		l.check, l.checkSeq = cloneAll(st.accounts), st.applied
		if w.chance(0.5) && uint64(len(l.durable))+l.durTrim >= st.applied {
			keep := uint64(w.rng.IntN(10))
			if l.checkSeq > l.trimmed+keep {
				l.trim(l.checkSeq - keep)
				n.tell(Trimmed{Shard: a.Shard, Seq: l.trimmed})
				if len(l.durable) > 0 {
					n.tell(Synced{Shard: a.Shard, Pos: l.durable[len(l.durable)-1].pos})
				}
			}
		}
	}
}

// applyOne applies one record, or shuts its user off.
func (n *simNode) applyOne(shard uint8, r *rec) {
	st := &n.states[shard]
	trial := map[string]*merge.Account{}
	if a := st.accounts[r.user]; a != nil {
		trial[r.user] = a.Clone()
	}
	if !r.applyTo(trial) || r.kind != "whole" && digestOf(trial[r.user], r.box) != r.after {
		st.shut[r.user] = r.pos.Seq
		n.w.happened["quarantine"]++
		n.w.log("%v shuts off %s at %v", n.id, r.user, r.pos)
		n.tell(Misfit{Shard: shard, User: r.user})
		return
	}
	st.accounts[r.user] = trial[r.user]
}

// heal takes the other node's word for a user that is shut off.
func (n *simNode) heal(shard uint8) {
	st, l := &n.states[shard], &n.disk.logs[shard]
	for _, user := range slices.Sorted(maps.Keys(st.heal)) {
		h := st.heal[user]
		if _, shut := st.shut[user]; !shut || h.Seq < l.trimmed {
			delete(st.heal, user)
			if shut {
				n.tell(Misfit{Shard: shard, User: user})
			}
			continue
		}
		if st.applied < h.Seq {
			continue
		}
		delete(st.heal, user)
		delete(st.shut, user)
		st.accounts[user] = h.Content.(map[string]*merge.Account)[user].Clone()
		n.w.happened["healed"]++
		for seq := h.Seq + 1; seq <= st.applied; seq++ {
			if r := l.at(seq); r.user == user {
				n.applyOne(shard, r)
			}
		}
	}
}

// absorb merges the other node's accounts, once nothing of this node's own is
// under way.
func (n *simNode) absorb(shard uint8) {
	st, l := &n.states[shard], &n.disk.logs[shard]
	a := st.absorb
	if a == nil || st.applied != l.last() || !st.writer.Open || len(st.shut) > 0 {
		return
	}
	st.absorb = nil
	theirs := a.Content.(map[string]*merge.Account)
	for _, user := range slices.Sorted(maps.Keys(theirs)) {
		mine := st.accounts[user]
		if mine == nil {
			mine = merge.New()
		}
		out, stats := merge.Accounts(mine, theirs[user], merge.Blocks{Side: int(st.writer.Side), InFlight: inFlight})
		n.w.happened["merge"]++
		n.w.happened["renumbered"] += stats.Renumbered
		n.w.happened["joined"] += stats.Joined
		n.w.happened["both delivered"] += stats.Duplicates
		n.write(shard, rec{user: user, kind: "whole", whole: out}, 0)
	}
	n.tell(Absorbed{Shard: shard, From: a.From, Seq: l.last()})
}

func (n *simNode) install(a Install) {
	st := &n.states[a.Shard]
	c := a.Snapshot.Content.(content)
	st.accounts = cloneAll(c.accounts)
	st.applied = a.Seq
	st.locked, st.shut, st.heal, st.absorb = make(map[string]uint64), maps.Clone(c.shut), make(map[string]Adopt), nil
	n.disk.logs[a.Shard].replace(a.Seq, a.Snapshot.Spans, st.accounts)
	for _, user := range slices.Sorted(maps.Keys(c.shut)) {
		n.tell(Misfit{Shard: a.Shard, User: user})
	}
	n.w.happened["snapshot"]++
	n.w.log("%v installs shard %d at %d", n.id, a.Shard, a.Seq)
}

// content is a snapshot's. An account that nobody has whole stays shut off.
type content struct {
	accounts map[string]*merge.Account
	shut     map[string]uint64
}

// crash takes a node down; its disk may go with it.
func (w *world) crash(n *simNode, diskToo bool) {
	w.happened["crash"]++
	w.log("%v crashes, disk lost: %v", n.id, diskToo)
	n.m, n.backlog, n.busy, n.boot = nil, nil, false, 0
	w.gone(n)
	for i := range n.disk.logs {
		n.disk.logs[i].crash(w.rng)
	}
	if diskToo {
		w.happened["disk lost"]++
		n.disk = newDisk(simShards)
	}
	down := 100*time.Millisecond + w.upTo(2*time.Second)
	if w.chance(0.5) {
		down += w.upTo(5 * time.Second)
	}
	w.after(down, func() {
		if n.m == nil {
			n.start()
		}
	})
}

func (w *world) guid() (g backend.GUID) {
	for i := range g {
		g[i] = byte(w.rng.Uint32())
	}
	return g
}

// step lets some time pass, and things happen.
func (w *world) step() {
	w.now += time.Millisecond + w.upTo(40*time.Millisecond)
	for {
		next := -1
		for i, e := range w.later {
			if e.at <= w.now && (next < 0 || e.at < w.later[next].at || e.at == w.later[next].at && e.order < w.later[next].order) {
				next = i
			}
		}
		if next < 0 || w.failure != "" {
			break
		}
		run := w.later[next].run
		w.later[next] = w.later[len(w.later)-1]
		w.later = w.later[:len(w.later)-1]
		run()
	}
	for _, n := range w.nodes[1:] {
		if w.calm || w.chance(0.7) {
			n.tell(Tick{})
		}
	}
	if !w.calm {
		w.clients()
		w.faults()
	}
}

func (w *world) faults() {
	n := w.nodes[1+w.rng.IntN(2)]
	peer := w.nodes[n.id.Peer()]
	roll := w.rng.Float64()
	p := func(chance float64) bool { roll -= chance; return roll < 0 && roll >= -chance }
	switch {
	case p(0.003): // one way
		w.cut[n.id] = true
		w.happened["one-way"]++
		w.after(w.upTo(6*time.Second), func() { w.cut[n.id] = false })
	case p(0.004):
		w.cut = [3]bool{true, true, true}
		w.happened["partition"]++
		w.after(w.upTo(6*time.Second), func() { w.cut = [3]bool{} })
	case p(0.004):
		w.away[n.id] = true
		w.after(w.upTo(6*time.Second), func() { w.away[n.id] = false })
	case p(0.001):
		w.away = [3]bool{true, true, true}
		w.happened["arbiter down"]++
		w.after(w.upTo(5*time.Second), func() { w.away = [3]bool{} })
	case p(0.005):
		w.lossy = w.upTo(time.Second).Seconds() * 0.4
	case p(0.01):
		w.lossy = 0
	case p(0.003):
		if n.m != nil {
			n.paused = w.now + w.upTo(5*time.Second)
			w.happened["pause"]++
		}
	case p(0.004):
		if n.m != nil {
			w.crash(n, false)
		}
	case p(0.001):
		for _, n := range w.nodes[1:] {
			if n.m != nil {
				w.crash(n, false)
			}
		}
		w.happened["both crash"]++
	case p(0.002):
		// A disk is lost only while the other node has all.
		if n.m != nil && peer.m != nil && w.mode.fenced && !w.mode.forced && peer.complete() {
			w.crash(n, true)
		}
	case p(0.004):
		n.damage()
	case p(0.003):
		if w.mode.forced && n.m != nil && n.m.State() == Stale {
			w.happened["promote"]++
			n.tell(Promote{})
		}
	}
	w.clocks()
}

func (w *world) clocks() {
	if w.chance(0.002) {
		w.nodes[1+w.rng.IntN(2)].wall = time.Duration(w.rng.IntN(3)-1) * time.Hour
	}
}

// complete says that a node has all that was ever acknowledged, without the
// other: the arbiter names it, and it knows.
func (n *simNode) complete() bool {
	e, member := n.m.Epoch()
	return member && e == n.w.arbiter && n.paused <= n.w.now
}

// damage changes a follower's state behind its back.
func (n *simNode) damage() {
	if n.m == nil || !n.w.mode.fenced || n.w.mode.forced || n.m.State() != Sync {
		return
	}
	for i := range n.states {
		if Preferred(uint8(i)) == n.id {
			continue
		}
		for _, u := range slices.Sorted(maps.Keys(n.states[i].accounts)) {
			for _, id := range slices.SortedFunc(maps.Keys(n.states[i].accounts[u].Boxes), func(x, y backend.GUID) int { return slices.Compare(x[:], y[:]) }) {
				if b := n.states[i].accounts[u].Boxes[id]; len(b.Messages) > 0 {
					n.w.log("%v is damaged: %s", n.id, u)
					n.w.damaged[u] = true
					delete(b.Messages, b.UIDs()[0])
					return
				}
			}
		}
	}
}
