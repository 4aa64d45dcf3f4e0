package core

import "slices"

// received takes a message.
func (m *Machine) received(msg Message) {
	if !m.observe(&msg) {
		return
	}
	same := msg.Epoch == m.epoch
	switch b := msg.Body.(type) {
	case Beat:
		if b.Sent > m.peer.sent {
			m.peer.sent, m.peer.came = b.Sent, m.now
		}
		if b.EchoBoot == m.cfg.Boot {
			m.peer.lease = max(m.peer.lease, b.Echo+m.cfg.RefuseAfter)
		}
	case Records:
		if same && msg.Member && (m.member || m.epoch.Alone() == msg.From) {
			m.records(b)
		}
	case Ack:
		if same && m.writes(b.Shard) {
			m.ack(b)
		}
	case Reject:
		if same && m.writes(b.Shard) {
			m.reject(b)
		}
	case ExportAsk:
		if same && !m.member {
			sh := &m.shards[b.Shard]
			m.send(Export{Shard: b.Shard, Common: b.Common, Commit: sh.spans.pos(sh.commit)})
		}
	case Export:
		m.export(same, b)
	case Snapshot:
		if same && !m.member {
			m.install(b)
		}
	case Prepare:
		m.prepare(&msg, b)
	case Prepared:
		if same && m.join.holding && m.join.to == b.To {
			m.join.prepared = true
			m.joinOn()
		}
	case ReadAsk:
		if sh := &m.shards[b.Shard]; m.writes(b.Shard) && sh.commit >= sh.floor {
			m.send(ReadAt{ID: b.ID, Shard: b.Shard, Seq: sh.commit})
		}
	case ReadAt:
		m.readAt(b)
	case Forward:
		m.forward(b)
	case Done:
		m.done(b)
	case UserAsk:
		sh := &m.shards[b.Shard]
		m.send(UserState{Shard: b.Shard, User: b.User, At: sh.spans.pos(sh.commit)})
	case UserState:
		// From a log that is the same up to there; what is missing comes later.
		ask := UserAsk{b.Shard, b.User}
		sh := &m.shards[b.Shard]
		if e, ok := sh.spans.at(b.At.Seq); ok && e == b.At.Epoch && b.At.Seq >= sh.trimmed && slices.Contains(m.misfits, ask) {
			m.misfits = drop(m.misfits, func(a UserAsk) bool { return a == ask })
			m.do(Adopt{Shard: b.Shard, User: b.User, Seq: b.At.Seq, Content: b.Content})
		}
	}
}

// appended counts a record of this node's own.
func (m *Machine) appended(ev Appended) {
	sh := &m.shards[ev.Shard]
	sh.spans = sh.spans.add(ev.Pos.Epoch, ev.Pos.Seq)
	sh.last = ev.Pos.Seq
	for _, x := range m.execs {
		if x.id == ev.ID && ev.ID != 0 {
			x.seq, x.result = ev.Pos.Seq, ev.Result
		}
	}
	m.pump(ev.Shard)
}

func (m *Machine) synced(ev Synced) {
	sh := &m.shards[ev.Shard]
	if e, ok := sh.spans.at(ev.Pos.Seq); !ok || e != ev.Pos.Epoch {
		return // it went away
	}
	sh.synced = max(sh.synced, ev.Pos.Seq)
	m.advance(ev.Shard)
	m.pump(ev.Shard)
	m.acknowledge(ev.Shard, false)
}

// advance moves the commit index, and what follows from it.
func (m *Machine) advance(shard uint8) {
	sh := &m.shards[shard]
	to := sh.commit
	switch {
	case m.writes(shard) && m.epoch.Alone() == m.cfg.Self && !m.join.holding:
		to = sh.synced
	case m.writes(shard):
		to = min(sh.synced, sh.match)
	case m.writer(shard) == m.cfg.Self.Peer():
		to = min(sh.synced, sh.matched, sh.committed)
	}
	if to <= sh.commit {
		return
	}
	sh.commit = to
	m.do(Apply{Shard: shard, Seq: to})
	m.committed(shard)
	m.pump(shard)
}

// pump sends the other node what it lacks of a shard that this node writes.
func (m *Machine) pump(shard uint8) {
	sh := &m.shards[shard]
	if !m.writes(shard) || !m.peer.known || m.peer.epoch != m.epoch {
		return
	}
	late := m.now-sh.sentAt >= m.cfg.Resend
	if sh.snapshot || sh.next <= sh.trimmed {
		// What is absorbed must be durable before the other node lets go of it.
		if late && sh.commit >= max(sh.absorbedSeq, sh.floor) {
			sh.sentAt = m.now
			m.send(Snapshot{Shard: shard, Seq: sh.commit, Spans: sh.spans.cut(sh.commit), Absorbed: sh.absorbed})
		}
		return
	}
	if late && (!sh.acked || sh.match < sh.last) {
		sh.next = min(sh.next, max(sh.match+1, sh.trimmed+1))
		if !sh.acked {
			sh.next = m.shippable(sh) + 1
		}
		m.records1(shard)
	}
	for sh.acked && sh.next <= min(m.shippable(sh), sh.match+m.cfg.Window) {
		m.records1(shard)
	}
	if sh.acked && sh.commit > sh.toldCommit {
		m.records1(shard)
	}
}

// shippable is the newest record that may go to the other node. In an epoch of
// both that is the newest there is: it must be durable on both to be
// acknowledged, and the two syncs go on side by side. In an epoch of one the
// other node's sync is waited for by nobody, and a record that it had and this
// node lost in a crash would come back beside what was written in its place.
func (m *Machine) shippable(sh *shard) uint64 {
	if m.epoch.Alone() == m.cfg.Self {
		return sh.synced
	}
	return sh.last
}

// records1 sends one message of records.
func (m *Machine) records1(shard uint8) {
	sh := &m.shards[shard]
	r := Records{Shard: shard, Prev: sh.spans.pos(sh.next - 1), First: sh.next, End: sh.last, Commit: sh.commit,
		Last: max(sh.next-1, min(m.shippable(sh), sh.next+uint64(m.cfg.Batch)-1))}
	for seq := r.First; seq <= r.Last; seq++ {
		e, _ := sh.spans.at(seq)
		r.Epochs = append(r.Epochs, e)
	}
	sh.next, sh.sentAt, sh.toldCommit = r.Last+1, m.now, sh.commit
	m.send(r)
}

// records takes the writer's records.
func (m *Machine) records(r Records) {
	sh := &m.shards[r.Shard]
	if m.writer(r.Shard) != m.cfg.Self.Peer() {
		return
	}
	if e, ok := sh.spans.at(r.Prev.Seq); !ok || e != r.Prev.Epoch {
		m.refuse(r.Shard)
		return
	}
	// The records here that the message has, too.
	have, reach := 0, r.Prev.Seq+uint64(len(r.Epochs))
	for have < len(r.Epochs) {
		if e, ok := sh.spans.at(r.First + uint64(have)); !ok || e != r.Epochs[have] {
			break
		}
		have++
	}
	after := r.First - 1 + uint64(have)
	cut := have < len(r.Epochs) && after < sh.last
	if e, ok := sh.spans.at(r.End + 1); ok && e != m.epoch && have == len(r.Epochs) && reach == r.End {
		// Behind the writer's end there can only be what the writer wrote since,
		// or the rest of another epoch.
		after, cut = r.End, true
	}
	if cut && after < sh.commit {
		m.refuse(r.Shard)
		return
	}
	if have < len(r.Epochs) || cut {
		m.do(Append{Shard: r.Shard, After: after, Cut: cut, Epochs: r.Epochs[have:], First: r.First + uint64(have), Content: r.Content, Skip: have})
		if cut {
			sh.spans = sh.spans.cut(after)
			sh.last, sh.synced = after, min(sh.synced, after)
			sh.matched, sh.floor = min(sh.matched, after), min(sh.floor, after)
		}
		for i, e := range r.Epochs[have:] {
			sh.last = r.First + uint64(have+i)
			sh.spans = sh.spans.add(e, sh.last)
		}
	}
	sh.matched = max(sh.matched, reach)
	sh.committed = max(sh.committed, r.Commit)
	m.advance(r.Shard)
	m.acknowledge(r.Shard, true)
}

func (m *Machine) refuse(shard uint8) {
	sh := &m.shards[shard]
	m.send(Reject{Shard: shard, Spans: slices.Clone(sh.spans), Commit: sh.spans.pos(sh.commit)})
}

// acknowledge tells the writer what is durable here.
func (m *Machine) acknowledge(shard uint8, again bool) {
	sh := &m.shards[shard]
	if m.writer(shard) != m.cfg.Self.Peer() {
		return
	}
	if to := min(sh.synced, sh.matched); to > sh.toldAck || again {
		sh.toldAck = to
		m.send(Ack{Shard: shard, Seq: to, More: sh.commit > sh.matched})
	}
}

func (m *Machine) ack(a Ack) {
	sh := &m.shards[a.Shard]
	if sh.absorbing || a.Seq > sh.last {
		return
	}
	if !sh.acked || a.Seq >= sh.match {
		sh.more = a.More && (!sh.acked || a.Seq > sh.match || sh.more)
	}
	sh.acked, sh.snapshot = true, false
	sh.match = max(sh.match, a.Seq)
	sh.next = max(sh.next, sh.match+1)
	m.advance(a.Shard)
	m.pump(a.Shard)
	if m.join.holding {
		m.joinOn()
	}
}

// reject finds out what the other node lacks, and what it has that is to be
// merged.
func (m *Machine) reject(r Reject) {
	sh := &m.shards[r.Shard]
	at := common(sh.spans, r.Spans)
	switch {
	case sh.acked && at < sh.match:
		return // an old message
	case sh.acked && r.Commit.Seq <= at:
		sh.next = at + 1
	case r.Commit.Seq <= at:
		sh.acked, sh.match, sh.next = true, 0, at+1
		if sh.next <= sh.trimmed {
			sh.snapshot = true
		}
	case sh.absorbed == r.Commit:
		sh.snapshot = true
	case !sh.absorbing && m.epoch.Alone() == m.cfg.Self && m.now-sh.exportAt >= m.cfg.Resend:
		sh.exportAt, sh.acked = m.now, false // until it is merged
		m.send(ExportAsk{Shard: r.Shard, Common: at})
		return
	}
	m.pump(r.Shard)
}

// export takes what the other node acknowledged when this one did not know.
func (m *Machine) export(same bool, e Export) {
	sh := &m.shards[e.Shard]
	if !same || !m.writes(e.Shard) || m.epoch.Alone() != m.cfg.Self || !sh.open || sh.absorbing || sh.absorbed == e.Commit || sh.commit < sh.floor {
		return
	}
	sh.absorbing = true
	m.do(Absorb{Shard: e.Shard, Common: e.Common, From: e.Commit, Content: e.Content})
}

// install takes the writer's state instead of a log that does not join its own.
func (m *Machine) install(s Snapshot) {
	sh := &m.shards[s.Shard]
	if m.writer(s.Shard) != m.cfg.Self.Peer() {
		return
	}
	spans := spans(slices.Clone(s.Spans))
	mine := sh.spans.pos(sh.commit)
	theirs := common(sh.spans, spans)
	if theirs == s.Seq {
		sh.matched = max(sh.matched, s.Seq)
	}
	if mine.Seq > theirs && mine != s.Absorbed {
		m.refuse(s.Shard) // it would take away what nobody else has
		return
	}
	if sh.matched >= s.Seq {
		m.acknowledge(s.Shard, true)
		return
	}
	m.misfits = drop(m.misfits, func(a UserAsk) bool { return a.Shard == s.Shard })
	m.do(Install{Shard: s.Shard, Seq: s.Seq, Snapshot: s})
	sh.spans, sh.trimmed, sh.floor = spans, s.Seq, s.Seq
	sh.last, sh.synced, sh.commit, sh.matched, sh.committed = s.Seq, s.Seq, s.Seq, s.Seq, s.Seq
	m.committed(s.Shard)
	m.acknowledge(s.Shard, true)
}
