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
	turn    atomic.Uint32
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

// park takes the two sockets into a worker: a Conn's as it is, a *net.TCPConn's
// out of Go's poller. It returns nil, and has touched nothing, when the connections
// are of another kind or there is no descriptor left for the change-over.
func (y *system) park(front, back net.Conn, o Options, done func(Result, error)) Session {
	f, ok := bare(front)
	if !ok {
		return nil
	}
	b, ok := bare(back)
	if !ok {
		return nil
	}
	w := y.leastBusy()
	if f.conn != nil {
		w = f.conn.worker
	}
	if !f.duplicate() {
		return nil
	}
	if !b.duplicate() {
		if f.tcp != nil {
			closeNow(f.fd)
		}
		return nil
	}
	s := &parked{worker: w, done: done, idle: o.Idle, linger: o.Linger, grace: o.Grace}
	f.put(&s.legs[0], w)
	b.put(&s.legs[1], w)
	w.live.Add(1)
	w.tell(order{s: s, kind: enter, rests: [2][]byte{o.FrontRest, o.BackRest}, conns: [2]*Conn{f.conn, b.conn}})
	return s
}

// next is the worker for the next socket.
func (y *system) next() *worker {
	return y.workers[y.turn.Add(1)%uint32(len(y.workers))]
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
	conn *Conn        // one of the two
	tcp  *net.TCPConn // in Go's poller
	tls  *tls.Conn    // nil without TLS
	seat rebaser      // where the TLS layer's connection is exchanged
	fd   int32        // of tcp, duplicated
}

func bare(c net.Conn) (k socket, ok bool) {
	if tc, secured := c.(*tls.Conn); secured {
		if k.seat, ok = tc.NetConn().(rebaser); !ok {
			return socket{}, false
		}
		k.tls, c = tc, k.seat.Base()
	}
	switch c := c.(type) {
	case *Conn:
		k.conn = c
	case *net.TCPConn:
		k.tcp = c
	default:
		return socket{}, false
	}
	return k, true
}

// duplicate makes a descriptor that Go's poller does not know.
func (k *socket) duplicate() bool {
	if k.tcp == nil {
		return true
	}
	fd, err := duplicate(k.tcp)
	k.fd = int32(fd)
	return err == nil
}

// put makes l the owner of the socket. Closing the *net.TCPConn takes it from Go's
// poller, where a joined session would keep a poll descriptor. A Conn that was
// closed on the threshold has no socket any more: the session ends as soon as it
// begins.
func (k *socket) put(l *leg, w *worker) {
	if k.conn != nil {
		l.kept, l.nagle = k.conn.kept, k.conn.nagle
		l.fd, _ = k.conn.take(w)
	} else {
		l.fd, l.kept, l.nagle = k.fd, true, prompt
	}
	if k.tls != nil {
		l.tls, l.more = k.tls, true // it may have read more than the handshake
		k.seat.Rebase(&under{worker: w, leg: l})
	}
	if k.tcp != nil {
		k.tcp.Close()
	}
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
