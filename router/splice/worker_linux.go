package splice

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many events one call fetches.
	batch = 128

	// sweepEvery is how often buffers and pipes of what has fallen idle are
	// given back.
	sweepEvery = time.Second
)

// worker is an epoll descriptor, edge-triggered, and the goroutine that serves
// it. Between two events a session is nothing but its struct.
type worker struct {
	loop   *Loop
	epoll  *os.File // in Go's own poller, so that no thread is held while waiting
	raw    syscall.RawConn
	poll   func(uintptr) bool // fetch
	fd     int
	start  time.Time
	layout layout
	live   atomic.Int64
	ended  chan struct{}

	mu      sync.Mutex
	inbox   []order
	asleep  bool
	left    bool            // nobody reads events any more
	seats   []*parked       // whose sockets the events are for
	talking map[int32]*Conn // likewise, by seat: those that goroutines talk on
	vacant  []int32
	ages    int32 // tells those apart that had a seat one after the other

	// The goroutine's own.
	now     int64
	events  [batch]unix.EpollEvent
	found   int
	armed   int64 // the moment that epoll's read deadline stands for; zero: none
	closing error // not nil: sessions are to end
	leaving bool
	queue   []*parked // to be served in this round
	spare   []*parked
	orders  []order
	clock   clock
	warm    []*parked // with TLS buffers to give back
	sweep   int64     // when; zero: nothing to sweep
	buf     [bulkSize]byte
	cork    *leg   // whose TLS records are gathered in sealed
	sealed  []byte // records on their way out
	small   sync.Pool
	large   sync.Pool
	pipes   pipes
}

// order is a word to a worker.
type order struct {
	s     *parked
	kind  kind
	cause error
	rests [2][]byte // enter: received before, from the client and the backend
	conns [2]*Conn  // enter: where the sockets come from; nil: from elsewhere
}

type kind int

const (
	enter kind = iota + 1
	goodbye
	cutOne
	goodbyeAll
	leave
)

func newWorker(l *Loop, y layout) (*worker, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // tells os.NewFile to use the poller
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	w := &worker{loop: l, epoll: os.NewFile(uintptr(fd), "epoll"), fd: fd, start: time.Now(), layout: y, ended: make(chan struct{}), talking: make(map[int32]*Conn)}
	if err := w.epoll.SetReadDeadline(time.Time{}); err != nil { // it is not in the poller
		w.epoll.Close()
		return nil, err
	}
	if w.raw, err = w.epoll.SyscallConn(); err != nil {
		w.epoll.Close()
		return nil, err
	}
	w.poll = w.fetch
	if l.o.Pipes > 0 {
		w.pipes.limit = max(1, l.o.Pipes/l.o.Workers)
	}
	go w.run()
	return w, nil
}

// free gives back what the goroutine has left.
func (w *worker) free() {
	w.pipes.trim(0)
	w.epoll.Close()
}

// tell hands an order to the goroutine.
func (w *worker) tell(o order) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inbox = append(w.inbox, o)
	if w.asleep {
		w.asleep = false
		w.epoll.SetReadDeadline(time.Unix(1, 0))
	}
}

// run serves sessions until it is told to leave. A round serves each session
// that can move something once, by a bounded amount: a busy one waits for its
// next turn behind all others.
func (w *worker) run() {
	defer close(w.ended)
	defer w.abandon()
	for !w.leaving {
		w.wait()
		w.now = w.clockNow()
		w.notes()
		for i := range w.orders {
			w.obey(&w.orders[i])
		}
		clear(w.orders)
		w.round()
		w.tick()
	}
}

// wait fetches events and orders; it sleeps when there is nothing else to do. The
// goroutines that the latest events have woken go first: what they do brings the
// next events, and a sleep costs two system calls.
func (w *worker) wait() {
	if w.found > 0 {
		runtime.Gosched()
	}
	w.found = 0
	w.mu.Lock()
	w.orders, w.inbox = w.inbox, w.orders[:0]
	if len(w.orders) > 0 || len(w.queue) > 0 {
		w.mu.Unlock()
		w.fetch(uintptr(w.fd))
		return
	}
	if next := w.nextRing(); next != w.armed {
		w.armed = next
		var t time.Time
		if next > 0 {
			t = w.start.Add(time.Duration(next))
		}
		w.epoll.SetReadDeadline(t)
	}
	w.asleep = true
	w.mu.Unlock()

	err := w.raw.Read(w.poll)

	w.mu.Lock()
	w.asleep = false
	w.orders, w.inbox = w.inbox, w.orders[:0]
	w.mu.Unlock()
	if err != nil {
		w.armed = -1 // the deadline has passed: a ring, or an order
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			panic(fmt.Sprintf("epoll: %v", err))
		}
	}
}

// fetch reports whether there were events.
func (w *worker) fetch(fd uintptr) bool {
	w.found, _ = pollNow(int(fd), w.events[:])
	return w.found > 0
}

// notes keeps what the events say.
func (w *worker) notes() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.found {
		e := &w.events[i]
		if s := w.seats[e.Fd]; s != nil {
			for side := range s.legs {
				if l := &s.legs[side]; l.seat == e.Fd && l.age == e.Pad {
					w.note(s, side, e.Events)
				}
			}
		} else if c := w.talking[e.Fd]; c != nil && c.age == e.Pad {
			c.note(e.Events)
		}
		// Else it ended in this very batch, or so did the one before.
	}
}

// meaning takes an event apart.
func meaning(events uint32) (readable, writable, hup bool) {
	hup = events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	return hup || events&unix.EPOLLIN != 0, events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0, hup
}

// note keeps what an event says of a session's socket.
func (w *worker) note(s *parked, side int, events uint32) {
	l := &s.legs[side]
	r, wr, hup := meaning(events)
	l.readable, l.writable, l.hup = l.readable || r, l.writable || wr, l.hup || hup
	if events&unix.EPOLLERR != 0 {
		w.fails(s, side)
	}
	w.enqueue(s)
}

// seat gives out the number of a seat, and an age. The caller holds mu.
func (w *worker) seat() (seat, age int32) {
	w.ages++
	if n := len(w.vacant); n > 0 {
		seat, w.vacant = w.vacant[n-1], w.vacant[:n-1]
		return seat, w.ages
	}
	w.seats = append(w.seats, nil)
	return int32(len(w.seats) - 1), w.ages
}

// meet gives a socket that a goroutine talks on a seat. Errors: errClosed.
func (w *worker) meet(c *Conn) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left {
		return errClosed
	}
	c.seat, c.age = w.seat()
	w.talking[c.seat] = c
	return nil
}

// part takes the seat back.
func (w *worker) part(c *Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.talking, c.seat)
	w.vacant = append(w.vacant, c.seat)
}

// clockNow is the worker's clock as others read it.
func (w *worker) clockNow() int64 { return int64(time.Since(w.start)) + 1 }

// fails limits the time of a session of which one side has broken, and the other
// does not read what came from it before: reading on, which would find out, has
// to wait for it.
func (w *worker) fails(s *parked, i int) {
	if !s.legs[1-i].owes() {
		return
	}
	end, limit := FrontFailed, farewell
	if i == 1 {
		end, limit = BackFailed, s.linger
	}
	w.ends(s, end, failure("read", s.legs[i].fd))
	w.limitSilence(s, limit)
}

func (w *worker) enqueue(s *parked) {
	if !s.queued {
		s.queued = true
		w.queue = append(w.queue, s)
	}
}

// round serves each session in the queue once.
func (w *worker) round() {
	q := w.queue
	w.queue, w.spare = w.spare[:0], q
	for _, s := range q {
		s.queued = false
		if !s.over {
			w.serve(s)
		}
	}
	clear(q)
}

// obey carries out an order.
func (w *worker) obey(o *order) {
	switch o.kind {
	case enter:
		w.enter(o.s, o)
	case goodbye:
		w.drain(o.s, o.cause)
	case cutOne:
		if !o.s.over {
			w.ends(o.s, Drained, o.cause)
			w.finish(o.s)
		}
	case goodbyeAll:
		w.closing = o.cause
		for _, s := range w.sessions() {
			w.drain(s, o.cause)
		}
	case leave:
		w.leaving = true
	}
}

// enter takes a session in: its sockets into epoll, what was received before to
// the other side.
func (w *worker) enter(s *parked, o *order) {
	defer w.rescue(s)
	s.ring, s.moved = -1, w.now
	w.limitSilence(s, s.idle)
	for i := range s.legs {
		if err := w.sit(s, i, o.conns[i]); err != nil {
			w.ends(s, Drained, os.NewSyscallError("epoll_ctl", err))
		}
	}
	if s.end != 0 {
		w.finish(s)
		return
	}
	for i, rest := range o.rests {
		if len(rest) > 0 && !s.over {
			w.deliver(s, i, rest)
		}
	}
	if !s.over {
		w.serve(s)
	}
	if !s.over {
		w.warmed(s) // a handshake leaves large buffers
	}
	if w.closing != nil { // said goodbye before the session came in
		w.drain(s, w.closing)
	}
}

// sit gives one side of a session its seat: the one that its socket had while a
// goroutine talked on it in this worker, else a new one.
func (w *worker) sit(s *parked, i int, c *Conn) error {
	l := &s.legs[i]
	if l.fd < 0 {
		return unix.EBADF // closed on the threshold, and has given its seat back
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c == nil || c.worker != w {
		l.seat, l.age = w.seat()
		w.seats[l.seat] = s
		l.readable, l.writable = true, true // until it is tried
		return watchNow(w.fd, l.fd, l.seat, l.age)
	}
	l.seat, l.age = c.seat, c.age
	l.readable, l.writable, l.hup = c.readable, c.writable, c.hup
	delete(w.talking, c.seat)
	w.seats[c.seat] = s
	return nil
}

// sessions are those that have a seat.
func (w *worker) sessions() (all []*parked) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range w.seats {
		if s != nil && s.legs[0].seat == int32(i) {
			all = append(all, s)
		}
	}
	return all
}

// abandon lets nobody wait for a worker that has left.
func (w *worker) abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = true
	for _, c := range w.talking {
		c.abandon()
	}
}

// rescue ends a session whose turn panicked, and no other.
func (w *worker) rescue(s *parked) {
	if s.over {
		return // then it was done, which is not ours
	}
	if p := recover(); p != nil {
		w.cork, w.sealed = nil, w.sealed[:0]
		s.end, s.err = FrontFailed, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		w.finish(s)
	}
}

// finish closes both sides and reports.
func (w *worker) finish(s *parked) {
	s.over = true
	w.clock.remove(s)
	for i := range s.legs {
		l := &s.legs[i]
		if lost := l.owed(); lost > 0 && l.tls == nil {
			s.ways[1-i].n.Add(-lost)
		}
		w.drop(l)
	}
	w.stand(s)
	w.live.Add(-1)
	defer w.loop.left()
	s.done(Result{In: s.ways[0].n.Load(), Out: s.ways[1].n.Load(), End: s.end}, s.err)
}

// stand gives a session's seats back and closes its sockets.
func (w *worker) stand(s *parked) {
	w.mu.Lock()
	for i := range s.legs {
		if l := &s.legs[i]; l.age != 0 {
			w.seats[l.seat] = nil
			w.vacant = append(w.vacant, l.seat)
			l.age = 0
		}
	}
	w.mu.Unlock()
	for i := range s.legs {
		closeNow(s.legs[i].fd)
		s.legs[i].fd = -1
	}
}

// failure is the error that a socket has in store.
func failure(op string, fd int32) error {
	n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = os.NewSyscallError(op, syscall.Errno(n))
	}
	return err
}
