package splice

import (
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// system is the part of a Loop that parks sessions in epoll.
type system struct {
	loop    *Loop
	workers []*worker
	layout  layout
}

func (y *system) start(l *Loop) error {
	y.loop, y.layout = l, findLayout()
	for range l.o.Workers {
		w, err := newWorker(l, y.layout)
		if err != nil {
			y.close()
			return err
		}
		y.workers = append(y.workers, w)
	}
	return nil
}

// park takes the two sockets from Go's poller into a worker. It returns nil,
// and has touched nothing, when the connections are of another kind or there is
// no descriptor left for the change-over.
func (y *system) park(front, back net.Conn, o Options, done func(Result, error)) Session {
	f, ok := bare(front)
	if !ok {
		return nil
	}
	b, ok := bare(back)
	if !ok {
		return nil
	}
	fd, err := duplicate(f.tcp)
	if err != nil {
		return nil
	}
	bd, err := duplicate(b.tcp)
	if err != nil {
		unix.Close(fd)
		return nil
	}
	s := &parked{worker: y.leastBusy(), done: done, idle: o.Idle, linger: o.Linger, grace: o.Grace}
	f.put(&s.legs[0], s.worker, fd)
	b.put(&s.legs[1], s.worker, bd)
	s.worker.live.Add(1)
	s.worker.tell(order{s: s, kind: enter, rests: [2][]byte{o.FrontRest, o.BackRest}})
	return s
}

func (y *system) leastBusy() *worker {
	best := y.workers[0]
	for _, w := range y.workers[1:] {
		if w.live.Load() < best.live.Load() {
			best = w
		}
	}
	return best
}

func (y *system) goodbye(cause error) {
	for _, w := range y.workers {
		w.tell(order{kind: goodbyeAll, cause: cause})
	}
}

func (y *system) close() {
	for _, w := range y.workers {
		w.tell(order{kind: leave})
		<-w.ended
		w.free()
	}
}

// rebaser is what wire.Conn puts under a *tls.Conn, whose handshake is over by
// then.
type rebaser interface {
	Base() net.Conn
	Rebase(net.Conn)
}

// socket is a connection with its layers laid bare.
type socket struct {
	tcp  *net.TCPConn
	tls  *tls.Conn // nil without TLS
	seat rebaser   // where the TLS layer's connection is exchanged
}

func bare(c net.Conn) (socket, bool) {
	switch c := c.(type) {
	case *net.TCPConn:
		return socket{tcp: c}, true
	case *tls.Conn:
		seat, ok := c.NetConn().(rebaser)
		if !ok {
			return socket{}, false
		}
		tcp, ok := seat.Base().(*net.TCPConn)
		return socket{tcp: tcp, tls: c, seat: seat}, ok
	default:
		return socket{}, false
	}
}

// put makes l the owner of the socket, by its descriptor fd. Closing the
// *net.TCPConn takes it from Go's poller, where a joined session would keep a
// poll descriptor.
func (k socket) put(l *leg, w *worker, fd int) {
	l.fd = int32(fd)
	l.readable, l.writable = true, true // until it is tried
	if k.tls != nil {
		l.tls = k.tls
		k.seat.Rebase(&under{worker: w, leg: l, local: k.tcp.LocalAddr(), remote: k.tcp.RemoteAddr()})
	}
	k.tcp.Close()
}

func duplicate(c *net.TCPConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var fd int
	var failed error
	err = raw.Control(func(old uintptr) {
		fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err != nil {
		return 0, err
	}
	return fd, failed
}

// parked is a session in a worker. All but what is atomic or never changes
// belongs to the worker's goroutine.
type parked struct {
	worker *worker
	done   func(Result, error)
	err    error
	legs   [2]leg // the client's, the backend's
	ways   [2]way // from the client, from the backend
	end    End

	idle, linger, grace time.Duration

	// Nanoseconds on the worker's clock. Zero: none.
	moved int64 // when bytes moved last
	limit int64 // how long silence may last
	cut   int64 // when the session is cut off
	wake  int64 // when the clock rings

	ring   int32 // place in the clock; less than zero: none
	slot   int32
	age    int32 // tells a slot's sessions apart
	queued bool
	warm   bool // in worker.warm
	over   bool
}

// way is one direction. It ends when its source has ended and the destination
// has been told, or is broken.
type way struct {
	n        atomic.Int64
	bulk     bool // much moves
	ended    bool // the source has ended
	fin      bool // the destination's half is to be closed
	finSent  bool
	broken   bool // the destination takes no more
	discards bool // what comes is thrown away
}

func (y *way) over(dst *leg) bool {
	return y.ended && (y.broken || y.finSent && !dst.owes())
}

func (s *parked) Goodbye(cause error) {
	s.worker.tell(order{s: s, kind: goodbye, cause: cause})
}

func (s *parked) Cut(cause error) {
	s.worker.tell(order{s: s, kind: cutOne, cause: cause})
}

func (s *parked) Moved() (in, out int64) { return s.ways[0].n.Load(), s.ways[1].n.Load() }
