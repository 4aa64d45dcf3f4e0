package core

import "time"

// wish is what a client of this node waits for.
type wish struct {
	id       uint64
	shard    uint8
	write    bool
	deadline time.Duration
	asked    bool   // the other node, by a ReadAsk or a Forward
	ready    bool   // the rest is to see seq applied
	seq      uint64 // to be applied here
	result   any
}

// exec is a change that this node makes as the writer.
type exec struct {
	id     uint64
	shard  uint8
	client uint64 // whose wish it is
	far    bool   // a client of the other node, of this boot
	boot   uint64
	seq    uint64 // 0: not in the log yet
	result any
}

type forwarded struct{ boot, id uint64 }

// maxHandled is how many forwards are remembered, so that one that comes twice
// is made once. They come by the network's doing, seconds apart at most.
const maxHandled = 8192

// write makes a change, here or through the shard's writer.
func (m *Machine) write(ev Write) {
	w := &wish{id: ev.ID, shard: ev.Shard, write: true, deadline: m.now + m.cfg.WriteWait}
	switch {
	case m.mayWrite(ev.Shard):
		m.wishes = append(m.wishes, w)
		m.execute(&exec{shard: ev.Shard, client: ev.ID}, ev.Op)
	case m.writer(ev.Shard) == m.cfg.Self.Peer() && m.fresh() && m.peer.epoch == m.epoch:
		w.asked = true
		m.wishes = append(m.wishes, w)
		m.send(Forward(ev))
	default:
		m.do(Answer{ID: ev.ID, Outcome: Busy})
	}
}

// mayWrite says whether this node takes changes of a shard now. While both
// write, none is begun that the other node would not hear of.
func (m *Machine) mayWrite(shard uint8) bool {
	sh := &m.shards[shard]
	return m.writes(shard) && sh.open && sh.commit >= sh.floor && (m.epoch.Alone() == m.cfg.Self || m.fresh())
}

// fresh says that the other node was heard of late.
func (m *Machine) fresh() bool { return m.peer.known && m.silence() < m.cfg.RefuseAfter }

func (m *Machine) execute(x *exec, op any) {
	m.nextID++
	x.id = m.nextID
	m.execs = append(m.execs, x)
	m.do(Execute{ID: x.id, Shard: x.shard, Op: op})
}

// forward makes a change for a client of the other node.
func (m *Machine) forward(f Forward) {
	key := forwarded{m.peer.boot, f.ID}
	for _, h := range m.handled {
		if h == key {
			return
		}
	}
	if m.handled = append(m.handled, key); len(m.handled) > maxHandled {
		m.handled = m.handled[maxHandled/2:]
	}
	if !m.mayWrite(f.Shard) {
		m.send(Done{ID: f.ID, Shard: f.Shard, Outcome: Busy})
		return
	}
	m.execute(&exec{shard: f.Shard, client: f.ID, far: true, boot: m.peer.boot}, f.Op)
}

// notAppended ends a change that left no record. What it saw is committed.
func (m *Machine) notAppended(ev NotAppended) {
	for _, x := range m.execs {
		if x.id == ev.ID {
			m.settle(x, ev.Outcome, ev.Seq, ev.Result)
		}
	}
	m.execs = drop(m.execs, func(x *exec) bool { return x.id == ev.ID })
}

// committed ends the changes that are committed, and the reads that waited.
func (m *Machine) committed(shard uint8) {
	commit := m.shards[shard].commit
	done := func(x *exec) bool { return x.shard == shard && x.seq > 0 && x.seq <= commit }
	for _, x := range m.execs {
		if done(x) {
			m.settle(x, OK, x.seq, x.result)
		}
	}
	m.execs = drop(m.execs, done)
	if !m.writes(shard) { // a number means the writer's record only as far as the logs are the same
		commit = min(commit, m.shards[shard].matched)
	}
	seen := func(w *wish) bool { return w.shard == shard && w.ready && w.seq <= commit }
	for _, w := range m.wishes {
		if seen(w) {
			m.do(Answer{ID: w.id, Outcome: OK, Seq: w.seq, Result: w.result})
		}
	}
	m.wishes = drop(m.wishes, seen)
}

// settle tells the client of a change how it ended.
func (m *Machine) settle(x *exec, o Outcome, seq uint64, result any) {
	if x.far {
		if x.boot == m.peer.boot {
			m.send(Done{ID: x.client, Shard: x.shard, Outcome: o, Seq: seq, Result: result})
		}
		return
	}
	m.end(x.client, Answer{ID: x.client, Outcome: o, Seq: seq, Result: result})
}

// end answers a wish, unless it was answered.
func (m *Machine) end(id uint64, a Answer) {
	is := func(w *wish) bool { return w.id == id }
	for _, w := range m.wishes {
		if is(w) {
			m.do(a)
		}
	}
	m.wishes = drop(m.wishes, is)
}

// forget gives up changes whose records may go away.
func (m *Machine) forget(which func(*exec) bool) {
	for _, x := range m.execs {
		if which(x) {
			m.settle(x, Unknown, 0, nil)
		}
	}
	m.execs = drop(m.execs, which)
}

// done takes the writer's answer to a Forward. The client sees its own change:
// it is answered when the change is applied here.
func (m *Machine) done(d Done) {
	for _, w := range m.wishes {
		if w.id != d.ID || !w.write || !w.asked {
			continue
		}
		if d.Outcome != OK {
			m.end(w.id, Answer{ID: w.id, Outcome: d.Outcome, Seq: d.Seq, Result: d.Result})
			return
		}
		w.ready, w.seq, w.result = true, d.Seq, d.Result
		m.committed(d.Shard)
		return
	}
}

// read gives leave to read a shard once what is here is no older than what any
// client of either node has seen.
func (m *Machine) read(ev Read) {
	sh := &m.shards[ev.Shard]
	alone := m.member && m.epoch.Alone() == m.cfg.Self && !m.join.asked
	switch {
	case !m.cfg.Fenced && sh.commit >= sh.floor && (m.member && m.epoch.Alone() != Nobody || !m.member && m.epoch != 0):
		// On one node a client sees nothing go back; across both it may.
		m.do(Answer{ID: ev.ID, Outcome: OK, Seq: sh.commit})
	case m.writes(ev.Shard) && sh.commit >= sh.floor && (alone || m.now < m.peer.lease):
		m.do(Answer{ID: ev.ID, Outcome: OK, Seq: sh.commit})
	case m.member && m.writer(ev.Shard) == m.cfg.Self.Peer() && m.fresh():
		m.wishes = append(m.wishes, &wish{id: ev.ID, shard: ev.Shard, asked: true, deadline: m.now + m.cfg.ReadWait})
		m.send(ReadAsk(ev))
	default:
		m.do(Answer{ID: ev.ID, Outcome: Busy})
	}
}

func (m *Machine) readAt(r ReadAt) {
	for _, w := range m.wishes {
		if w.id == r.ID && !w.write {
			w.ready, w.seq = true, r.Seq
			m.committed(r.Shard)
			return
		}
	}
}

// timeOut ends what has waited too long.
func (m *Machine) timeOut() {
	m.giveUp(func(w *wish) bool { return w.deadline <= m.now })
}

// giveUp ends wishes without a yes.
func (m *Machine) giveUp(late func(*wish) bool) {
	for _, w := range m.wishes {
		if late(w) {
			o := Busy
			if w.write {
				o = Unknown
			}
			m.do(Answer{ID: w.id, Outcome: o})
		}
	}
	m.wishes = drop(m.wishes, late)
}
