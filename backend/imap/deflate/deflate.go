// Package deflate puts a compressed layer (RFC 1951) over a connection, for
// IMAP's COMPRESS (RFC 4978).
//
// Memory is bounded whatever the peer sends: a layer holds a window of 32 KiB
// with the tables of one block to read, and the last 8 KiB that were sent to
// write. The compressor itself keeps nothing between writes, so that thousands
// of silent sessions do not each hold one.
package deflate

import (
	"errors"
	"net"
	"time"

	"switchyard/internal/wire"

	"github.com/klauspost/compress/flate"
)

// Conn is a wire.Conn whose lines go compressed through another one. Deadlines,
// interruptions and counts are those of the one below: all methods here that
// have to do with them are passed down. As with wire.Conn, one goroutine reads
// and one writes.
type Conn struct {
	*wire.Conn // lines, not compressed
	below      *wire.Conn
}

// Over puts a layer over below, which nobody else may use from now on. What
// below has received and not read is taken for compressed data.
func Over(below *wire.Conn) *Conn {
	top := wire.NewConn(&layer{
		below: below,
		in:    newInflater(below.Reader()),
	})
	top.SetIdle(0) // the deadlines are below's
	return &Conn{top, below}
}

// Flush sends everything that was written.
func (c *Conn) Flush() error {
	if err := c.Conn.Flush(); err != nil {
		return err
	}
	return c.below.Flush()
}

// Close closes the connection below. What was not flushed is lost.
func (c *Conn) Close() error { return c.below.Close() }

// layer is the net.Conn that the upper wire.Conn speaks through.
type layer struct {
	below *wire.Conn
	in    *inflater
	sent  []byte // the end of what was sent, for the compressor to refer to
}

// Read returns what the peer has sent before it waits for more: clients end
// their commands with a partial flush as well as with a full one.
func (l *layer) Read(p []byte) (int, error) { return l.in.Read(p) }

// ErrDamaged: the peer sent what is no compressed data.
var ErrDamaged = errors.New("damaged compressed data")

// window is how far back the compressor refers.
const window = 8 << 10

// Write compresses p, so that the peer can read all of it once it is flushed.
func (l *layer) Write(p []byte) (int, error) {
	if err := flate.StatelessDeflate(l.below, p, false, l.sent); err != nil {
		return 0, err
	}
	if len(p) >= window {
		l.sent = append(l.sent[:0], p[len(p)-window:]...)
		return len(p), nil
	}
	if over := len(l.sent) + len(p) - window; over > 0 {
		l.sent = l.sent[:copy(l.sent, l.sent[over:])]
	}
	l.sent = append(l.sent, p...)
	return len(p), nil
}

func (l *layer) Close() error { return nil } // Conn.Close closes below

func (l *layer) LocalAddr() net.Addr  { return nil }
func (l *layer) RemoteAddr() net.Addr { return nil }

// Below has the deadlines.
func (l *layer) SetDeadline(time.Time) error      { return nil }
func (l *layer) SetReadDeadline(time.Time) error  { return nil }
func (l *layer) SetWriteDeadline(time.Time) error { return nil }
