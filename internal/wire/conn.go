// Package wire reads and writes the lines, literals and SASL messages that the
// mail protocols share, with bounds and deadlines on everything. It knows no
// protocol's commands.
package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrLineTooLong: the line was longer than the caller allows. The rest of
	// it has not been read; the session cannot go on, since the rest would
	// look like commands.
	ErrLineTooLong = errors.New("line too long")

	// ErrBareLF: a line ended in LF without CR. Accepting it would let two
	// parties disagree about where lines end.
	ErrBareLF = errors.New("line ends in a bare LF")

	// ErrBytesBehindStartTLS: the peer sent bytes behind STARTTLS before the
	// handshake. They are an attacker's or a bug's; the connection must end.
	ErrBytesBehindStartTLS = errors.New("bytes behind STARTTLS")
)

// bufferSize is the read and the write buffer of a connection, and so what a
// session holds before login, beside the longest line that it allows.
const bufferSize = 4096

// readers and writers are what detached connections have left. Most sessions at a
// proxy are detached soon; new buffers for each would be half of what it allocates.
var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, bufferSize) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferSize) }}
)

// Conn is a connection to a client or a server that speaks in lines. One
// goroutine reads and one writes; the two may be different ones. Every read
// and write has a deadline: see SetIdle and SetDeadline.
type Conn struct {
	raw *timed
	top net.Conn      // raw, or TLS over it
	r   *bufio.Reader // nil behind Detach
	w   *bufio.Writer

	detached atomic.Bool
}

// DefaultIdle is the deadline of each single read and write until SetIdle.
const DefaultIdle = time.Minute

// NewConn takes over nc. Close closes it.
func NewConn(nc net.Conn) *Conn {
	raw := &timed{Conn: nc}
	raw.idle.Store(int64(DefaultIdle))
	c := &Conn{raw: raw, top: raw, r: readers.Get().(*bufio.Reader), w: writers.Get().(*bufio.Writer)}
	c.r.Reset(raw)
	c.w.Reset(raw)
	return c
}

// SetIdle sets how long each single read or write may take. Zero means for
// ever: only behind a login, and with TCP keepalive to find dead peers.
func (c *Conn) SetIdle(d time.Duration) { c.raw.idle.Store(int64(d)) }

// SetDeadline sets a moment that no read or write outlives, whatever SetIdle
// says: the end of the time before login. The zero time takes it away.
func (c *Conn) SetDeadline(t time.Time) {
	if t.IsZero() {
		c.raw.limit.Store(0)
	} else {
		c.raw.limit.Store(t.UnixNano())
	}
}

// Bind makes reads fail with the context's cause once ctx ends, and writes a
// moment later, which is long enough to say what has been done by then: an
// acknowledgement that is cut off makes the peer do it again. The returned
// function undoes it; it returns false if ctx had ended.
func (c *Conn) Bind(ctx context.Context) (release func() bool) {
	return context.AfterFunc(ctx, func() { c.raw.interrupt(context.Cause(ctx)) })
}

// Resume lets reads and writes go on behind an interruption by Bind, so that a
// server can say goodbye at leisure.
func (c *Conn) Resume() { c.raw.stopped.Store(nil) }

// Buffered returns how many bytes were received and not yet read.
func (c *Conn) Buffered() int { return c.r.Buffered() }

// ReadLine reads one line of at most limit bytes without its CRLF. The slice
// is valid until the next read. Errors: ErrLineTooLong, ErrBareLF, io.EOF when
// the peer closed between lines, io.ErrUnexpectedEOF inside one, and the
// connection's own.
func (c *Conn) ReadLine(limit int) ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		line, err = c.readLongLine(line, limit)
	}
	if err != nil {
		if err == io.EOF && len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if len(line) < 2 || line[len(line)-2] != '\r' {
		return nil, ErrBareLF
	}
	line = line[:len(line)-2]
	if len(line) > limit {
		return nil, ErrLineTooLong
	}
	return line, nil
}

// readLongLine goes on where the buffer was too small, up to limit.
func (c *Conn) readLongLine(start []byte, limit int) ([]byte, error) {
	line := append(make([]byte, 0, 2*len(start)), start...)
	for {
		if len(line) > limit+2 {
			return nil, ErrLineTooLong
		}
		part, err := c.r.ReadSlice('\n')
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
	}
}

// Read reads what there is, for literals and message data.
func (c *Conn) Read(p []byte) (int, error) { return c.r.Read(p) }

// Peek returns the next n bytes (at most 4,096) without reading them; it
// blocks until they are there.
func (c *Conn) Peek(n int) ([]byte, error) { return c.r.Peek(n) }

// Discard reads and throws away n bytes.
func (c *Conn) Discard(n int64) error {
	_, err := io.CopyN(io.Discard, c.r, n)
	return err
}

// Reader is the buffered reader itself, for parsers that look byte by byte.
func (c *Conn) Reader() *bufio.Reader { return c.r }

// Write, WriteString and Printf write to the buffer; Flush sends it.
func (c *Conn) Write(p []byte) (int, error)       { return c.w.Write(p) }
func (c *Conn) WriteString(s string) (int, error) { return c.w.WriteString(s) }
func (c *Conn) Printf(format string, args ...any) { fmt.Fprintf(c.w, format, args...) }
func (c *Conn) Flush() error                      { return c.w.Flush() }

// Line writes a line with its CRLF and sends the buffer.
func (c *Conn) Line(format string, args ...any) error {
	fmt.Fprintf(c.w, format+"\r\n", args...)
	return c.w.Flush()
}

// AvailableBuffer is room to append to for a Write that follows at once; see
// bufio.Writer.
func (c *Conn) AvailableBuffer() []byte { return c.w.AvailableBuffer() }

// Say writes a line that is made of words as they are, with its CRLF, and sends
// the buffer.
func (c *Conn) Say(words ...string) error {
	for _, word := range words {
		c.w.WriteString(word)
	}
	c.w.WriteString("\r\n")
	return c.w.Flush()
}

// ServerTLS performs the server's side of a TLS handshake, for implicit TLS or
// behind the answer to STARTTLS. Bytes received before it end the connection
// (ErrBytesBehindStartTLS): they were sent in clear and must neither be run nor
// fed to the handshake. The handshake obeys the connection's deadlines.
func (c *Conn) ServerTLS(ctx context.Context, config *tls.Config) error {
	return c.secure(ctx, tls.Server(c.raw, config))
}

// ClientTLS is ServerTLS for the client's side.
func (c *Conn) ClientTLS(ctx context.Context, config *tls.Config) error {
	return c.secure(ctx, tls.Client(c.raw, config))
}

func (c *Conn) secure(ctx context.Context, tc *tls.Conn) error {
	if c.top != net.Conn(c.raw) {
		return errors.New("TLS is active already")
	}
	if c.r.Buffered() > 0 {
		return ErrBytesBehindStartTLS
	}
	if err := c.w.Flush(); err != nil {
		return err
	}
	if err := tc.HandshakeContext(ctx); err != nil {
		return err
	}
	c.top = tc
	c.r.Reset(tc)
	c.w.Reset(tc)
	return nil
}

// TLS returns the state of the TLS layer, nil without one.
func (c *Conn) TLS() *tls.ConnectionState {
	tc, ok := c.top.(*tls.Conn)
	if !ok {
		return nil
	}
	state := tc.ConnectionState()
	return &state
}

// Detach gives up the connection for splicing: without TLS the very net.Conn
// that NewConn got, else the *tls.Conn over it, all deadlines removed, and the
// bytes that were received but not read (nil when there are none). Nobody may be
// reading or writing, and what ReadLine, Peek and Reader gave is not valid any
// more: the buffers are another connection's. Afterwards only Close, TLS and the
// byte counts may be called; Close does nothing: the connection is another's. What
// lies under a *tls.Conn has the methods Base and Rebase, by which a splice puts a
// socket of its own there.
func (c *Conn) Detach() (net.Conn, []byte, error) {
	if err := c.w.Flush(); err != nil {
		return nil, nil, err
	}
	if err := c.raw.Conn.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	rest, err := c.r.Peek(c.r.Buffered())
	if err != nil {
		return nil, nil, err
	}
	rest = append([]byte(nil), rest...) // nil when there is none
	c.detached.Store(true)
	c.giveBack()
	c.raw.idle.Store(0)
	c.raw.limit.Store(0)
	if c.top == net.Conn(c.raw) {
		return c.raw.Conn, rest, nil
	}
	return c.top, rest, nil
}

// giveBack lets other connections have the buffers: a joined session that is idle
// holds none.
func (c *Conn) giveBack() {
	c.r.Reset(nil)
	c.w.Reset(nil)
	readers.Put(c.r)
	writers.Put(c.w)
	c.r, c.w = nil, nil
}

// BytesRead and BytesWritten count what passed the socket, TLS included.
func (c *Conn) BytesRead() int64    { return c.raw.read.Load() }
func (c *Conn) BytesWritten() int64 { return c.raw.written.Load() }

// RemoteAddr and LocalAddr are the socket's own addresses, which a PROXY header
// or a proxy's word may overrule. The zero value stands for what is not an
// IP address.
func (c *Conn) RemoteAddr() netip.AddrPort {
	if nc, ok := c.raw.Conn.(addressed); ok {
		return nc.RemoteAddrPort()
	}
	return AddrPort(c.raw.RemoteAddr())
}

func (c *Conn) LocalAddr() netip.AddrPort {
	if nc, ok := c.raw.Conn.(addressed); ok {
		return nc.LocalAddrPort()
	}
	return AddrPort(c.raw.LocalAddr())
}

// addressed is a connection that knows its addresses as they are wanted here.
type addressed interface {
	LocalAddrPort() netip.AddrPort
	RemoteAddrPort() netip.AddrPort
}

// Close closes the connection at once; with TLS, the close is announced. It
// does nothing when the connection was detached: it is another's.
func (c *Conn) Close() error {
	if c.detached.Load() {
		return nil
	}
	if _, ok := c.top.(*tls.Conn); ok {
		c.raw.idle.Store(int64(time.Second)) // for close_notify
	}
	return c.top.Close()
}

// AddrPort converts a socket's address, with IPv4 in its own form.
func AddrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// timed is a net.Conn that sets a deadline before each read and write.
type timed struct {
	net.Conn
	idle    atomic.Int64 // nanoseconds; zero: none
	limit   atomic.Int64 // Unix nanoseconds; zero: none
	stopped atomic.Pointer[stop]
	read    atomic.Int64
	written atomic.Int64
	rebased atomic.Bool
	swap    sync.Mutex // keeps interrupt and Rebase apart
}

// stop is an interruption.
type stop struct {
	cause  error
	writes time.Time // when writes end too
}

// lastWrites is how long writes go on behind an interruption.
const lastWrites = time.Second

// Base is the connection underneath.
func (t *timed) Base() net.Conn { return t.Conn }

// Rebase puts nc in the place of the connection underneath, which becomes the
// caller's to close. Reads and writes go straight to nc from now on, without
// deadlines, and are counted as before. No other read or write may be under way.
func (t *timed) Rebase(nc net.Conn) {
	t.swap.Lock()
	defer t.swap.Unlock()
	t.Conn = nc
	t.rebased.Store(true)
}

// deadline is when an operation that begins now must have ended.
func (t *timed) deadline() time.Time {
	var d time.Time
	if idle := t.idle.Load(); idle != 0 {
		d = time.Now().Add(time.Duration(idle))
	}
	if limit := t.limit.Load(); limit != 0 {
		if l := time.Unix(0, limit); d.IsZero() || l.Before(d) {
			d = l
		}
	}
	return d
}

func (t *timed) interrupt(cause error) {
	t.swap.Lock()
	defer t.swap.Unlock()
	if t.rebased.Load() {
		return
	}
	s := &stop{cause, time.Now().Add(lastWrites)}
	t.stopped.Store(s)
	t.Conn.SetReadDeadline(time.Unix(1, 0))
	t.Conn.SetWriteDeadline(s.writes)
}

// beginRead sets the deadline for one read, unless the connection was interrupted
// before or meanwhile.
func (t *timed) beginRead() error {
	if err := t.Conn.SetReadDeadline(t.deadline()); err != nil {
		return err
	}
	if s := t.stopped.Load(); s != nil {
		return s.cause
	}
	return nil
}

// beginWrite sets the deadline for one write; interrupted before or meanwhile, it
// is near.
func (t *timed) beginWrite() error {
	d := t.deadline()
	if err := t.Conn.SetWriteDeadline(d); err != nil {
		return err
	}
	s := t.stopped.Load()
	switch {
	case s == nil || !d.IsZero() && d.Before(s.writes):
		return nil
	case !time.Now().Before(s.writes):
		return s.cause
	}
	return t.Conn.SetWriteDeadline(s.writes)
}

// end explains an error by the interruption that caused it.
func (t *timed) end(err error) error {
	if err != nil {
		if s := t.stopped.Load(); s != nil {
			return s.cause
		}
	}
	return err
}

func (t *timed) Read(p []byte) (int, error) {
	if t.rebased.Load() {
		n, err := t.Conn.Read(p)
		t.read.Add(int64(n))
		return n, err
	}
	if err := t.beginRead(); err != nil {
		return 0, err
	}
	n, err := t.Conn.Read(p)
	t.read.Add(int64(n))
	return n, t.end(err)
}

func (t *timed) Write(p []byte) (int, error) {
	if t.rebased.Load() {
		n, err := t.Conn.Write(p)
		t.written.Add(int64(n))
		return n, err
	}
	if err := t.beginWrite(); err != nil {
		return 0, err
	}
	n, err := t.Conn.Write(p)
	t.written.Add(int64(n))
	return n, t.end(err)
}

// The deadlines are timed's own: crypto/tls and others must not move them.
func (t *timed) SetDeadline(time.Time) error      { return nil }
func (t *timed) SetReadDeadline(time.Time) error  { return nil }
func (t *timed) SetWriteDeadline(time.Time) error { return nil }

// IsTimeout reports whether err is a deadline that passed.
func IsTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
