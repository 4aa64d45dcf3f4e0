package core

// joinOn goes on from an epoch alone to one of both, once the other node has
// nearly all. From then on nothing is acknowledged that it does not have, and
// the shards that will be its own take no changes. When it has all, and has
// promised to remember that it does, the arbiter is asked. An answer that does
// not come is not a no: the arbiter may do it at any time later, so the node
// stays as it is until it has replaced its question by another. Until then it
// reads on the other node's promise, as in an epoch of both.
func (m *Machine) joinOn() {
	if !m.member || m.epoch.Alone() != m.cfg.Self || m.granted != 0 {
		return
	}
	near := m.peer.known && m.silence() < m.cfg.RefuseAfter && m.peer.epoch == m.epoch
	j := &m.join
	switch {
	case j.asked:
		if m.now-j.askedAt >= m.cfg.ArbiterRetry {
			to := j.to
			if !near {
				to = m.epoch.next(m.cfg.Self) // which undoes the question
			}
			j.askedAt = m.now
			m.do(AskArbiter{From: m.epoch, To: to})
		}
	case j.holding && (!near || m.now-j.began > m.cfg.ClaimAfter):
		m.leaveJoin()
	case !j.holding && near && m.close():
		s := m.saved
		s.Floors, s.Held = m.floors(func(sh *shard) uint64 { return sh.commit }), true
		m.save(s)
		m.join = join{holding: true, began: m.now, to: m.epoch.next(Nobody)}
		for i := range m.shards {
			if Preferred(uint8(i)) != m.cfg.Self {
				m.setWriter(uint8(i), false)
			}
		}
		m.joinOn()
	case j.holding && !m.complete():
	case j.holding && !j.prepared:
		if m.now-j.askedAt >= m.cfg.Heartbeat {
			j.askedAt = m.now
			m.send(Prepare{To: j.to})
		}
	case j.holding && m.cfg.Fenced && m.now >= m.peer.lease: // reads would stop
	case j.holding && m.cfg.Fenced:
		j.asked, j.askedAt = true, m.now
		m.do(AskArbiter{From: m.epoch, To: j.to})
	case j.holding:
		s := m.saved
		s.Prepared = j.to
		m.save(s)
		m.adopt(j.to)
	}
}

// close reports whether the other node has nearly all.
func (m *Machine) close() bool {
	for i := range m.shards {
		sh := &m.shards[i]
		if !sh.acked || sh.more || sh.snapshot || sh.absorbing || sh.last-min(sh.match, sh.last) > uint64(m.cfg.Batch) || sh.commit < sh.floor {
			return false
		}
	}
	return true
}

// complete reports whether the other node has all that was acknowledged, and
// of its future shards everything.
func (m *Machine) complete() bool {
	for i := range m.shards {
		sh := &m.shards[i]
		if !sh.acked || sh.more || sh.match < sh.commit {
			return false
		}
		if Preferred(uint8(i)) != m.cfg.Self && (sh.match != sh.last || sh.synced != sh.last) {
			return false
		}
	}
	return true
}

// leaveJoin goes back to acknowledging alone. The arbiter has not been asked.
func (m *Machine) leaveJoin() {
	m.join = join{}
	s := m.saved
	s.Held = false
	m.save(s)
	for i := range m.shards {
		m.setWriter(uint8(i), true)
		m.advance(uint8(i))
	}
}

// prepare promises to be ready for an epoch of both.
func (m *Machine) prepare(msg *Message, p Prepare) {
	if msg.Epoch != m.epoch || m.member || p.To.Number() != m.epoch.Number()+1 {
		return
	}
	s := m.saved
	s.Prepared = p.To
	m.save(s)
	m.beat()
	m.send(Prepared(p))
}
