package splice

import (
	"errors"
	"fmt"
	"os"
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

	mu     sync.Mutex
	inbox  []order
	asleep bool

	// The goroutine's own.
	now     int64
	events  [batch]unix.EpollEvent
	found   int
	armed   int64 // the moment that epoll's read deadline stands for; zero: none
	closing error // not nil: sessions are to end
	leaving bool
	slots   []*parked
	vacant  []int32
	ages    int32
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
	w := &worker{loop: l, epoll: os.NewFile(uintptr(fd), "epoll"), fd: fd, start: time.Now(), layout: y, ended: make(chan struct{})}
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
	for !w.leaving {
		w.wait()
		w.now = int64(time.Since(w.start)) + 1
		for i := range w.found {
			w.note(&w.events[i])
		}
		for i := range w.orders {
			w.obey(&w.orders[i])
		}
		clear(w.orders)
		w.round()
		w.tick()
	}
}

// wait fetches events and orders; it sleeps when there is nothing else to do.
func (w *worker) wait() {
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

// note keeps what an event says of a socket.
func (w *worker) note(e *unix.EpollEvent) {
	s := w.slots[e.Fd>>1]
	if s == nil || s.age != e.Pad {
		return // it ended in this very batch
	}
	l := &s.legs[e.Fd&1]
	if e.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		l.readable = true
	}
	if e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		l.hup = true
	}
	if e.Events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		l.writable = true
	}
	if e.Events&unix.EPOLLERR != 0 {
		w.fails(s, int(e.Fd&1))
	}
	w.enqueue(s)
}

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
	w.ends(s, end, failure(s.legs[i].fd))
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
		w.enter(o.s, o.rests)
	case goodbye:
		w.drain(o.s, o.cause)
	case cutOne:
		if !o.s.over {
			w.ends(o.s, Drained, o.cause)
			w.finish(o.s)
		}
	case goodbyeAll:
		w.closing = o.cause
		for _, s := range w.slots {
			if s != nil {
				w.drain(s, o.cause)
			}
		}
	case leave:
		w.leaving = true
	}
}

// enter takes a session in: its sockets into epoll, what was received before to
// the other side.
func (w *worker) enter(s *parked, rests [2][]byte) {
	defer w.rescue(s)
	if n := len(w.vacant); n > 0 {
		s.slot, w.vacant = w.vacant[n-1], w.vacant[:n-1]
	} else {
		s.slot = int32(len(w.slots))
		w.slots = append(w.slots, nil)
	}
	w.slots[s.slot] = s
	w.ages++
	s.age, s.ring, s.moved = w.ages, -1, w.now
	w.limitSilence(s, s.idle)
	for i := range s.legs {
		e := unix.EpollEvent{
			Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff,
			Fd:     s.slot<<1 | int32(i), Pad: s.age,
		}
		if err := unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, int(s.legs[i].fd), &e); err != nil {
			w.ends(s, Drained, os.NewSyscallError("epoll_ctl", err))
			w.finish(s)
			return
		}
	}
	for i, rest := range rests {
		if len(rest) > 0 && !s.over {
			w.deliver(s, i, rest)
		}
	}
	if !s.over {
		w.serve(s)
	}
	if !s.over {
		w.cool(s) // a handshake leaves large buffers
	}
	if w.closing != nil { // said goodbye before the session came in
		w.drain(s, w.closing)
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
		unix.Close(int(l.fd))
		l.fd = -1
	}
	w.slots[s.slot] = nil
	w.vacant = append(w.vacant, s.slot)
	w.live.Add(-1)
	defer w.loop.left()
	s.done(Result{In: s.ways[0].n.Load(), Out: s.ways[1].n.Load(), End: s.end}, s.err)
}

// failure is the error that a socket has in store.
func failure(fd int32) error {
	n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = os.NewSyscallError("read", syscall.Errno(n))
	}
	return err
}
