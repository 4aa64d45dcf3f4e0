package tcpauth

import (
	"sync"
	"time"

	"switchyard/internal/wire"
)

// outlet is what goes out on a connection, from several goroutines: lines are
// gathered while others are being written, so that many share one write.
type outlet struct {
	conn *wire.Conn

	// limit is how long one write may take. The connection's own deadline is
	// the reader's.
	limit time.Duration

	mu      sync.Mutex
	room    sync.Cond // signalled when the buffer was taken, or failed
	buf     []byte
	spare   []byte
	writing bool
	err     error
}

// outletSize is how much is gathered before who adds more has to wait, beside
// what one caller adds at a time.
const outletSize = 256 << 10

func newOutlet(conn *wire.Conn, limit time.Duration) *outlet {
	o := &outlet{conn: conn, limit: limit}
	o.room.L = &o.mu
	return o
}

// add puts whole lines into the buffer. It waits while the buffer is full and
// is being written.
func (o *outlet) add(lines []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.buf) >= outletSize && o.writing && o.err == nil {
		o.room.Wait()
	}
	if o.err == nil {
		o.buf = append(o.buf, lines...)
	}
}

// flush writes the buffer. When another goroutine is writing, that one takes
// what is there along, and flush returns at once.
func (o *outlet) flush() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.writing && len(o.buf) > 0 && o.err == nil {
		out := o.buf
		o.buf, o.spare, o.writing = o.spare[:0], nil, true
		o.room.Broadcast()
		o.mu.Unlock()
		err := o.write(out)
		o.mu.Lock()
		o.writing = false
		if cap(out) <= 2*outletSize {
			o.spare = out
		}
		if err != nil {
			o.err, o.buf = err, nil
		}
		o.room.Broadcast()
	}
	return o.err
}

// write closes the connection when it takes too long.
func (o *outlet) write(b []byte) error {
	stuck := time.AfterFunc(o.limit, func() { o.conn.Close() })
	defer stuck.Stop()
	if _, err := o.conn.Write(b); err != nil {
		return err
	}
	return o.conn.Flush()
}

// drain waits until nothing is being written, and writes the rest.
func (o *outlet) drain() error {
	o.mu.Lock()
	for o.writing {
		o.room.Wait()
	}
	o.mu.Unlock()
	return o.flush()
}

// full reports whether it is time to flush.
func (o *outlet) full() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.buf) >= outletSize/8
}
