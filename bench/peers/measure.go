package main

import (
	"context"
	"errors"
	"time"

	"switchyard/bench/peers/load"
)

const (
	// pieces is into how many pieces a round's work is cut. The proxies take
	// turns piece by piece: what else the machine does meanwhile falls on all of
	// them.
	pieces = 6

	// afterwards is how long the proxies may tidy up behind the last session
	// before their CPU is read, and between how long one has before the next one's
	// turn.
	afterwards = 200 * time.Millisecond
	between    = 20 * time.Millisecond
)

// sample is one measurement, in the unit of the work.
type sample struct {
	round         int
	proxy, helper float64
	busy          float64 // the part of the time in which the proxy was on the CPU
}

func (s sample) sum() float64 { return s.proxy + s.helper }

// turn is what a proxy did in a round so far.
type turn struct {
	*contender
	proxy, helper time.Duration // CPU: first the reading at the start, then what was used
	sessions      int
	bytes         int64
	took          time.Duration
	err           error
}

// busyRound measures the CPU of all proxies for one work. They are all up at the
// same time, and one at a time has something to do.
func (b *bench) busyRound(w work, r *results) {
	var turns []*turn
	for _, p := range b.o.peers {
		if r.hopeless(w, p) || b.ctx.Err() != nil {
			continue
		}
		c, err := b.start(w, p)
		if err != nil {
			if b.ctx.Err() == nil { // else it is not the proxy's fault
				r.add(w, p, sample{}, err)
			}
			continue
		}
		defer c.stop()
		t := &turn{contender: c}
		t.proxy, t.helper, t.err = t.cpu()
		turns = append(turns, t)
	}
	for piece := range pieces {
		for i := range turns {
			// Each piece begins with another, so that none always comes behind
			// the same one.
			if t := turns[(i+piece)%len(turns)]; t.err == nil && b.ctx.Err() == nil {
				t.err = b.piece(w, t)
			}
		}
	}
	if b.ctx.Err() != nil {
		return
	}
	time.Sleep(afterwards)
	for _, t := range turns {
		s, err := t.sample(w)
		r.add(w, t.peer, s, explain(err, t.running.proxy))
	}
}

// piece gives a proxy one piece of the work.
func (b *bench) piece(w work, t *turn) error {
	o := t.order
	switch w.kind {
	case logins:
		o.Do, o.Duration = "run", b.o.duration/pieces
	case bulk:
		o.Do, o.Megabytes = "bulk", max(1, b.o.megabytes/pieces)
	}
	begun := time.Now()
	result, err := b.ask(o)
	t.took += time.Since(begun)
	t.sessions += result.Sessions
	t.bytes += result.Bytes
	time.Sleep(between)
	return err
}

// cpu is what the proxy and its helper have used since they started.
func (r *running) cpu() (proxy, helper time.Duration, err error) {
	if proxy, err = cpuOf(r.proxy); err == nil && r.helper != nil {
		helper, err = cpuOf(r.helper)
	}
	return proxy, helper, err
}

// sample is what a round came to.
func (t *turn) sample(w work) (sample, error) {
	if t.err != nil {
		return sample{}, t.err
	}
	proxy, helper, err := t.cpu()
	if err != nil {
		return sample{}, err
	}
	if t.sessions == 0 && t.bytes == 0 {
		return sample{}, errors.New("no session was completed")
	}
	proxy, helper = proxy-t.proxy, helper-t.helper
	each := func(d time.Duration) float64 {
		if w.kind == bulk {
			return float64(d.Milliseconds()) / float64(t.bytes) * 1e9
		}
		return float64(d.Microseconds()) / float64(t.sessions)
	}
	return sample{proxy: each(proxy), helper: each(helper), busy: proxy.Seconds() / t.took.Seconds()}, nil
}

// idleRound measures the memory of idle sessions, one proxy after the other.
func (b *bench) idleRound(w work, r *results) {
	for _, p := range b.o.peers {
		if r.hopeless(w, p) || b.ctx.Err() != nil {
			continue
		}
		c, err := b.start(w, p)
		var s sample
		if err == nil {
			s, err = b.slope(c)
			err = explain(err, c.running.proxy)
			c.stop()
		}
		if b.ctx.Err() == nil {
			r.add(w, p, s, err)
		}
	}
}

// slope of the memory between few and many sessions: what the program needs
// anyway is not in it.
func (b *bench) slope(c *contender) (s sample, err error) {
	few, many := b.o.idleSessions(c.peer)
	defer func() {
		if _, dropErr := b.ask(load.Order{Do: "drop"}); err == nil {
			err = dropErr
		}
	}()
	at := func(n int) (int64, error) {
		o := c.order
		o.Do, o.Sessions = "hold", n
		if _, err := b.ask(o); err != nil {
			return 0, err
		}
		return b.atRest(c.running.proxy)
	}
	lower, err := at(few)
	if err != nil {
		return sample{}, err
	}
	upper, err := at(many)
	if err != nil {
		return sample{}, err
	}
	return sample{proxy: float64(upper-lower) / float64(many-few)}, nil
}

// atRest waits until the memory no longer falls, at most the settling time.
func (b *bench) atRest(p *process) (int64, error) {
	const pause = time.Second
	end := time.Now().Add(b.o.settle)
	least, still := int64(-1), 0
	for {
		select {
		case <-b.ctx.Done():
			return 0, context.Cause(b.ctx)
		case <-time.After(pause):
		}
		now, err := pssOf(p)
		if err != nil {
			return 0, err
		}
		if least < 0 || now < least-least/500 {
			least, still = now, 0
		} else {
			still++
		}
		if still == 3 || time.Now().After(end) {
			return now, nil
		}
	}
}
