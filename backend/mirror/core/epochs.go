package core

// takesPart says whether this node has all that was acknowledged before an
// epoch, and may take part in it. It may in the one that it was in and in one
// that it promised to be ready for. It also may in one that follows on its own
// if nobody but itself can have made that: because that is its own, too, or of
// both; and in its own behind the end of one that it was in.
//
// It never takes part in the epoch in which it went down: the other node may
// have records of it that were not durable here, and their numbers would be
// given again.
func (m *Machine) takesPart(e Epoch) bool {
	s := m.saved
	switch {
	case e == 0, e == m.was:
		return false
	case e == s.Epoch, e == s.Prepared, e == s.Forced:
		return true
	case e.Alone() == m.cfg.Self && m.heir(MakeEpoch(e.Number()-1, Neither)):
		return true
	case s.Epoch == 0 || !m.cfg.Fenced:
		return false
	}
	return e.Number() == s.Epoch.Number()+1 && s.Epoch.Alone() == m.cfg.Self && (e.Alone() == m.cfg.Self || e.Alone() == Nobody)
}

// heir says whether this node may go on alone after an epoch of neither: it was
// in the epoch of both that ended, or had promised to be. Nothing was
// acknowledged in that without it, and nothing since.
func (m *Machine) heir(e Epoch) bool {
	ended := MakeEpoch(e.Number()-1, Nobody)
	return e.Alone() == Neither && e.Number() > 1 && (ended == m.saved.Epoch || ended == m.saved.Prepared)
}

// adopt goes over to an epoch.
func (m *Machine) adopt(e Epoch) {
	m.seen = max(m.seen, e.Number())
	m.epoch, m.member = e, m.takesPart(e)
	m.claim, m.granted, m.join = 0, 0, join{}
	if m.member {
		s := Saved{Epoch: e, Prepared: m.saved.Prepared, Forced: m.saved.Forced}
		if e.Alone() == Nobody {
			s.Forced = 0
		}
		if e.Alone() == m.cfg.Self {
			s.Floors = m.floors(func(sh *shard) uint64 { return sh.last })
		}
		m.save(s)
	}
	for i := range m.shards {
		sh := &m.shards[i]
		sh.next, sh.match, sh.acked, sh.more, sh.sentAt, sh.toldCommit = m.shippable(sh)+1, 0, false, false, m.now-m.cfg.Resend, 0
		sh.snapshot, sh.absorbing, sh.absorbed, sh.absorbedSeq = false, false, Pos{}, 0
		sh.matched, sh.committed, sh.toldAck = 0, 0, 0
		sh.floor = sh.last
		m.setWriter(uint8(i), m.writes(uint8(i)))
	}
	m.giveUp(func(w *wish) bool { return w.asked })
	m.forget(func(x *exec) bool { return x.seq > 0 && !m.writes(x.shard) })
	for i := range m.shards {
		m.advance(uint8(i))
	}
	if m.heir(e) {
		m.ask(e, e.next(m.cfg.Self))
	}
}

// floors names a record of each shard.
func (m *Machine) floors(which func(*shard) uint64) (list []Pos) {
	for i := range m.shards {
		sh := &m.shards[i]
		list = append(list, sh.spans.pos(which(sh)))
	}
	return list
}

// setWriter opens or closes a shard for changes made here.
func (m *Machine) setWriter(shard uint8, open bool) {
	sh := &m.shards[shard]
	if !open && !sh.open {
		return
	}
	sh.open = open
	side := Nobody
	if m.epoch.Alone() == m.cfg.Self && (!m.cfg.Fenced || m.saved.Forced != 0) {
		side = m.cfg.Self
	}
	m.do(SetWriter{Shard: shard, Open: open, Epoch: m.epoch, Side: side})
}

// tick does what time brings.
func (m *Machine) tick() {
	m.timeOut()
	if m.cfg.Fenced {
		m.fence()
	} else {
		m.unfence()
	}
	m.joinOn()
	for i := range m.shards {
		m.pump(uint8(i))
	}
	if m.now-m.userAt >= m.cfg.Resend {
		m.userAt = m.now
		for _, ask := range m.misfits {
			m.send(ask)
		}
	}
	if m.now-m.beatAt >= m.cfg.Heartbeat {
		m.beat()
	}
}

// beat tells the other node that this one lives. In an epoch of both, and when it
// is ready for the next one to be, it promises: the other node's leave to read
// ends RefuseAfter the last promise, and this node writes alone ClaimAfter it at
// the soonest.
func (m *Machine) beat() {
	m.beatAt = m.now
	b := Beat{Sent: m.now}
	ready := !m.member && m.epoch.Alone() == m.cfg.Self.Peer() && m.saved.Prepared == m.epoch.next(Nobody)
	if m.peer.known && m.granted == 0 && (m.member && m.epoch.Alone() == Nobody || ready) {
		b.Echo, b.EchoBoot = m.peer.sent, m.peer.boot
		m.echoedAt = max(m.echoedAt, m.peer.came)
	}
	m.send(b)
}

// fence asks the arbiter when the node does not know where it stands, ends the
// epoch of both when the other node is silent, and claims the next.
//
// The end may come late, when the other node is back and both go on in their
// epoch; that does no harm, and the first node that asks the arbiter again hears
// of it.
func (m *Machine) fence() {
	if m.granted != 0 && m.unpromised() {
		m.adopt(m.granted)
	}
	if m.now-m.askedAt < m.cfg.ArbiterRetry {
		return
	}
	both := m.epoch.Alone() == Nobody && (m.member || m.sure && m.epoch == m.was)
	lost := m.silence() >= m.cfg.ClaimAfter && m.now-m.echoedAt >= m.cfg.ClaimAfter
	switch {
	case m.granted != 0:
	case both && (lost || m.without()):
		m.ask(m.epoch, m.epoch.next(Neither))
	case m.heir(m.epoch), m.sure && m.epoch == m.was && m.epoch.Alone() == m.cfg.Self:
		m.ask(m.epoch, m.epoch.next(m.cfg.Self))
	case m.epoch == 0 && m.cfg.First:
		first := MakeEpoch(1, m.cfg.Self)
		s := m.saved
		s.Prepared = first
		m.save(s)
		m.ask(0, first)
	case m.claim != 0 && m.claim == m.saved.Forced:
		m.ask(m.epoch, m.claim)
	case !m.member, m.peer.epoch.Number() > m.epoch.Number():
		m.ask(m.epoch, m.epoch)
	}
}

// without says that the other node is there and does not take part: it went
// down in this epoch, or has lost its disk.
func (m *Machine) without() bool {
	return m.peer.known && m.peer.epoch == m.epoch && !m.peer.member && m.silence() < m.cfg.RefuseAfter
}

// unpromised says that the other node has no leave to read from this one.
func (m *Machine) unpromised() bool {
	return m.now-m.echoedAt >= m.cfg.ClaimAfter || m.epoch.Alone() == Neither && m.peerEnded() || m.epoch.Alone() == m.cfg.Self
}

// peerEnded says that the other node does not take part in the epoch of both that
// has ended: it knows of the end, or went down before it.
func (m *Machine) peerEnded() bool {
	return m.peer.known && !m.peer.member && m.peer.epoch.Number()+1 >= m.epoch.Number() && m.silence() < m.cfg.RefuseAfter
}

func (m *Machine) ask(from, to Epoch) {
	m.askedAt = m.now
	m.do(AskArbiter{From: from, To: to})
}

// arbiterSays takes the arbiter's word, which may be an old one.
func (m *Machine) arbiterSays(e Epoch) {
	m.seen = max(m.seen, e.Number())
	switch {
	case e.Number() < m.epoch.Number() || e == m.epoch && m.member || e == 0:
		return
	case e == m.was:
		// Before it went down this node may have asked for an epoch of both, and
		// the question may still be on its way: the next one undoes that, too.
		m.sure = true
	case e.Alone() == m.cfg.Self && m.takesPart(e):
		// The other node may have leave to read for a while yet.
		if m.granted = e; m.unpromised() {
			m.adopt(e)
		}
	default:
		m.adopt(e)
	}
}

// unfence goes on alone when the other node is silent.
func (m *Machine) unfence() {
	alone := m.member && m.epoch.Alone() == m.cfg.Self
	without := m.without() && m.epoch != 0 && (m.member || m.epoch == m.was && m.cfg.Self == NodeA)
	first := m.epoch == 0 && m.cfg.First || !alone && m.epoch.Alone() == m.cfg.Self
	if !alone && (m.silence() >= m.cfg.ClaimAfter || without || first) {
		m.alone()
	}
}

// alone makes an epoch without asking anybody.
func (m *Machine) alone() {
	e := MakeEpoch(m.seen+1, m.cfg.Self)
	s := m.saved
	s.Prepared = e
	m.save(s)
	m.adopt(e)
}

// promote serves at an operator's word. With an arbiter the word goes there
// first.
func (m *Machine) promote() {
	if m.member {
		return
	}
	if !m.cfg.Fenced {
		m.alone()
		return
	}
	e := m.saved.Forced // an earlier word may still be on its way to the arbiter
	if e.Number() <= m.epoch.Number() {
		e = MakeEpoch(m.seen+1, m.cfg.Self)
	}
	s := m.saved
	s.Forced = e
	m.save(s)
	m.claim = e
	m.ask(m.epoch, e)
}

// observe learns from the head of a message. It reports whether the message
// counts.
func (m *Machine) observe(msg *Message) bool {
	if msg.From != m.cfg.Self.Peer() || m.peer.known && msg.Boot < m.peer.boot {
		return false
	}
	if !m.peer.known || msg.Boot > m.peer.boot {
		m.peer = peer{boot: msg.Boot, known: true, lease: m.peer.lease}
		m.handled = nil
		for i := range m.shards {
			sh := &m.shards[i]
			sh.match, sh.acked, sh.next, sh.snapshot, sh.absorbing = 0, false, m.shippable(sh)+1, false, false
		}
		m.join.prepared = false
	}
	m.peer.heard = m.now
	if msg.Epoch.Number() >= m.peer.epoch.Number() {
		m.peer.epoch, m.peer.member = msg.Epoch, msg.Member
	}
	m.seen = max(m.seen, msg.Epoch.Number())
	switch e := msg.Epoch; {
	case e.Number() > m.epoch.Number() && !(e.Alone() == m.cfg.Self && m.cfg.Fenced):
		m.adopt(e)
	case e == m.epoch && msg.Member && !m.member && m.takesPart(e) && e.Alone() == Nobody:
		m.adopt(e)
	case !m.cfg.Fenced && e != m.epoch && e.Number() == m.epoch.Number() && m.cfg.Self == NodeA && e != 0:
		m.alone() // both went on alone: somebody must be first
	}
	return true
}
