package splice

import (
	"container/heap"
	"time"
)

// clock is a heap of the sessions that have a time limit. Bytes that move do
// not touch it: a session that is found alive when it rings is wound again.
type clock []*parked

func (c clock) Len() int           { return len(c) }
func (c clock) Less(i, j int) bool { return c[i].wake < c[j].wake }
func (c clock) Swap(i, j int) {
	c[i], c[j] = c[j], c[i]
	c[i].ring, c[j].ring = int32(i), int32(j)
}

func (c *clock) Push(x any) {
	s := x.(*parked)
	s.ring = int32(len(*c))
	*c = append(*c, s)
}

func (c *clock) Pop() any {
	old := *c
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*c = old[:len(old)-1]
	s.ring = -1
	return s
}

func (c *clock) set(s *parked, wake int64) {
	s.wake = wake
	if s.ring < 0 {
		heap.Push(c, s)
	} else {
		heap.Fix(c, int(s.ring))
	}
}

func (c *clock) remove(s *parked) {
	if s.ring >= 0 {
		heap.Remove(c, int(s.ring))
	}
}

// nextRing is when the worker has something to do without an event; zero: never.
func (w *worker) nextRing() int64 {
	next := w.sweep
	if len(w.clock) > 0 && (next == 0 || w.clock[0].wake < next) {
		next = w.clock[0].wake
	}
	return next
}

// tick does what is due.
func (w *worker) tick() {
	for len(w.clock) > 0 && w.clock[0].wake <= w.now {
		w.rings(w.clock[0])
	}
	if w.sweep != 0 && w.sweep <= w.now {
		w.sweepUp()
	}
}

// rings ends a session that has been silent for too long or is to be cut off.
func (w *worker) rings(s *parked) {
	silent := s.limit > 0 && w.now-s.moved >= s.limit
	if s.cut > 0 && s.cut <= w.now || silent {
		if silent {
			w.ends(s, Idled, ErrIdle)
		}
		w.finish(s)
		return
	}
	w.wind(s)
}

// wind sets the clock for a session.
func (w *worker) wind(s *parked) {
	var wake int64
	if s.limit > 0 {
		wake = s.moved + s.limit
	}
	if s.cut > 0 && (wake == 0 || s.cut < wake) {
		wake = s.cut
	}
	if wake > 0 {
		w.clock.set(s, wake)
	}
}

// limitSilence lets no silence last longer than d from now on.
func (w *worker) limitSilence(s *parked, d time.Duration) {
	if d <= 0 || s.over || s.limit > 0 && s.limit <= int64(d) {
		return
	}
	s.limit, s.moved = int64(d), w.now
	w.wind(s)
}

// ends notes why the session ends, if it is the first reason.
func (w *worker) ends(s *parked, end End, err error) {
	if s.end == 0 {
		s.end, s.err = end, err
	}
}

// drain asks the backend to say goodbye. What the client says from now on is
// thrown away, and read all the same: else closing would take the backend's
// last words from it.
func (w *worker) drain(s *parked, cause error) {
	if s.over || s.cut > 0 {
		return
	}
	w.ends(s, Drained, cause)
	s.cut = w.now + int64(s.grace)
	w.wind(s)
	s.ways[0].fin, s.ways[0].discards = true, true
	w.enqueue(s)
}

// warmed notes that there is something to do for a session once it falls idle.
func (w *worker) warmed(s *parked) {
	if s.warm || !s.legs[0].warms() && !s.legs[1].warms() {
		return
	}
	s.warm = true
	w.warm = append(w.warm, s)
	w.sweepSoon()
}

func (l *leg) warms() bool { return l.tls != nil || !l.kept }

func (w *worker) sweepSoon() {
	if w.sweep == 0 {
		w.sweep = w.now + int64(sweepEvery)
	}
}

// sweepUp gives back what was not used since the last time.
func (w *worker) sweepUp() {
	w.sweep = 0
	kept := w.warm[:0]
	for _, s := range w.warm {
		switch {
		case s.over:
		case w.now-s.moved < int64(sweepEvery):
			kept = append(kept, s)
		default:
			s.warm = false
			w.cool(s)
		}
	}
	clear(w.warm[len(kept):])
	w.warm = kept
	if len(kept) == 0 {
		w.warm = nil
	}
	w.pipes.sweep()
	if len(w.warm) > 0 || len(w.pipes.free) > 0 {
		w.sweepSoon()
	}
}

// cool gives back the buffers of a session's TLS layers, and turns keepalive on,
// without which a dead peer of an idle session is never found.
func (w *worker) cool(s *parked) {
	for i := range s.legs {
		l := &s.legs[i]
		if l.tls != nil {
			w.layout.release(l.tls)
		}
		if !l.kept {
			l.kept = true
			keepAlive(l.fd)
		}
	}
}
