package splice

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxOwed bounds what one side may be owed. A turn moves at most bulkSize, and
// none begins while something is owed; the rest is for what TLS sends by itself
// (alerts, answers to key updates). A peer that provokes more, and reads
// nothing, is cut off.
const maxOwed = 4 * bulkSize

var errOwed = errors.New("the peer does not read what TLS has to say")

// leg is one side's socket. The flags follow edge-triggered events: readable
// and writable hold until a call shows the contrary.
type leg struct {
	tls      *tls.Conn
	out      *chunk // what the socket did not take yet
	pipe     *pipe  // the same, in a pipe
	fd       int32
	seat     int32
	age      int32 // zero: it has no seat
	readable bool
	writable bool
	hup      bool // an end or an error waits behind what can be read
	more     bool // the TLS layer holds bytes that can be read
	kept     bool // TCP keepalive is on
	nagle    nagle
}

// chunk is a buffer from a pool.
type chunk struct {
	b    []byte
	sent int
}

func (l *leg) owes() bool { return l.out != nil || l.pipe != nil }

// owed is how many bytes the socket did not take yet.
func (l *leg) owed() int64 {
	var n int
	if l.out != nil {
		n += len(l.out.b) - l.out.sent
	}
	if l.pipe != nil {
		n += l.pipe.n
	}
	return int64(n)
}

// under is what lies under a parked *tls.Conn. Its Write takes all and never
// blocks; its Read says errBlocked where it would block, which crypto/tls takes
// for something that passes.
type under struct {
	worker *worker
	leg    *leg
}

// errBlocked is a net.Error that is Temporary: crypto/tls then keeps what it
// has read and goes on with the next call.
var errBlocked error = blockedError{}

type blockedError struct{}

func (blockedError) Error() string   { return "nothing to read now" }
func (blockedError) Timeout() bool   { return true }
func (blockedError) Temporary() bool { return true }

func (u *under) Read(p []byte) (int, error) { return u.leg.recv(p) }

func (u *under) Write(p []byte) (int, error) {
	w := u.worker
	if u.leg.fd < 0 {
		return 0, net.ErrClosed
	}
	if w.cork == u.leg {
		w.sealed = append(w.sealed, p...)
		return len(p), nil
	}
	if err := w.write(u.leg, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// The socket is the worker's to close, there are no deadlines, and nobody asks
// for the addresses.
func (u *under) Close() error                     { return nil }
func (u *under) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (u *under) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (u *under) SetDeadline(time.Time) error      { return nil }
func (u *under) SetReadDeadline(time.Time) error  { return nil }
func (u *under) SetWriteDeadline(time.Time) error { return nil }

// recv reads from the socket. Errors: errBlocked, io.EOF, the socket's own.
func (l *leg) recv(p []byte) (int, error) {
	if !l.readable {
		return 0, errBlocked
	}
	n, err := readNow(l.fd, p)
	switch {
	case err == unix.EAGAIN:
		l.readable = false
		return 0, errBlocked
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	if n < len(p) && !l.hup {
		l.readable = false // what comes later is a new event
	}
	l.nagle.heard()
	return n, nil
}

// read reads what a side sent, TLS taken off. Errors: as recv's, and those of
// crypto/tls. Both n and an error may be given.
func (l *leg) read(p []byte) (n int, err error) {
	if l.tls == nil {
		return l.recv(p)
	}
	for n < len(p) && err == nil {
		var m int
		m, err = l.tls.Read(p[n:])
		n += m
	}
	l.more = err == nil
	return n, err
}

// send sends to a side, over TLS where there is. What the socket does not take
// is kept.
func (w *worker) send(l *leg, p []byte) error {
	if l.tls == nil {
		return w.write(l, p)
	}
	w.cork = l
	_, err := l.tls.Write(p)
	w.cork = nil
	if err == nil {
		err = w.write(l, w.sealed)
	}
	w.sealed = w.sealed[:0]
	return err
}

// write writes to the socket, and keeps what it does not take.
func (w *worker) write(l *leg, p []byte) error {
	if !l.owes() && l.writable {
		n, err := l.put(p)
		if err != nil {
			return err
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
	if l.out == nil {
		l.out = w.chunk(len(p))
	}
	if len(l.out.b)-l.out.sent+len(p) > maxOwed {
		return errOwed
	}
	l.out.b = append(l.out.b, p...)
	return nil
}

// put writes what the socket takes now.
func (l *leg) put(p []byte) (int, error) {
	l.nagle.said(l.fd)
	n, err := writeNow(l.fd, p)
	switch {
	case err == unix.EAGAIN:
		l.writable = false
		return 0, nil
	case err != nil:
		return 0, os.NewSyscallError("write", err)
	}
	if n < len(p) {
		l.writable = false
	}
	return n, nil
}

// flush sends what is owed, as far as the socket takes it.
func (w *worker) flush(l *leg) error {
	if l.out != nil {
		n, err := l.put(l.out.b[l.out.sent:])
		if err != nil {
			return err
		}
		if l.out.sent += n; l.out.sent < len(l.out.b) {
			return nil
		}
		w.recycle(l.out)
		l.out = nil
	}
	if l.pipe != nil {
		return w.pour(l)
	}
	return nil
}

// drop throws away what is owed.
func (w *worker) drop(l *leg) {
	if l.out != nil {
		w.recycle(l.out)
		l.out = nil
	}
	if l.pipe != nil {
		w.pipes.put(l.pipe)
		l.pipe = nil
	}
}

// halfClose ends our half: FIN, or close_notify.
func (l *leg) halfClose() {
	if l.tls != nil {
		l.tls.CloseWrite()
		return
	}
	shutdownNow(l.fd)
}

// chunk is an empty buffer with room for n bytes. The pools give back what is
// not used for two garbage collections.
func (w *worker) chunk(n int) *chunk {
	pool, size := &w.small, copySize
	if n > copySize {
		pool, size = &w.large, sealedSize
	}
	if n > size {
		return &chunk{b: make([]byte, 0, n)}
	}
	if c, ok := pool.Get().(*chunk); ok {
		return c
	}
	return &chunk{b: make([]byte, 0, size)}
}

func (w *worker) recycle(c *chunk) {
	c.b, c.sent = c.b[:0], 0
	switch cap(c.b) {
	case copySize:
		w.small.Put(c)
	case sealedSize:
		w.large.Put(c)
	}
}
