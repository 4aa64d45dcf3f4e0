package imap

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"switchyard/backend/imap/deflate"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/wire"
)

// transport is the connection as the session speaks through it: lines, and
// below them, once the client has asked for it, compression. TLS is below
// both. Deadlines and counts are the socket's.
type transport struct {
	*wire.Conn            // where lines are read and written
	socket     *wire.Conn // the same without compression
	deflated   *deflate.Conn
}

func newTransport(c *wire.Conn) *transport { return &transport{Conn: c, socket: c} }

// compress puts the compressed layer in.
func (t *transport) compress() {
	t.deflated = deflate.Over(t.socket)
	t.Conn = t.deflated.Conn
}

func (t *transport) Flush() error {
	if t.deflated != nil {
		return t.deflated.Flush()
	}
	return t.socket.Flush()
}

func (t *transport) Line(format string, args ...any) error {
	if _, err := fmt.Fprintf(t.Conn, format+"\r\n", args...); err != nil {
		return err
	}
	return t.Flush()
}

func (t *transport) SetIdle(d time.Duration)                  { t.socket.SetIdle(d) }
func (t *transport) SetDeadline(at time.Time)                 { t.socket.SetDeadline(at) }
func (t *transport) Bind(ctx context.Context) (f func() bool) { return t.socket.Bind(ctx) }
func (t *transport) Resume()                                  { t.socket.Resume() }
func (t *transport) BytesRead() int64                         { return t.socket.BytesRead() }
func (t *transport) BytesWritten() int64                      { return t.socket.BytesWritten() }
func (t *transport) TLS() *tls.ConnectionState                { return t.socket.TLS() }
func (t *transport) Close() error                             { return t.socket.Close() }

// compress serves COMPRESS (RFC 4978). It is for logged-in sessions, which
// have no bound on memory before login to keep.
func (s *session) compress(context.Context) (reply, error) {
	if err := s.lex.SP(); err != nil {
		return reply{}, err
	}
	name, err := s.lex.Word()
	if err != nil {
		return reply{}, err
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	switch {
	case s.srv.o.NoCompress:
		return reply{}, syntax.Errorf("Compression is not offered")
	case name != "DEFLATE":
		return reply{}, syntax.Errorf("An unknown way to compress")
	case s.conn.deflated != nil:
		return bad("COMPRESSIONACTIVE", "Compression is active"), nil
	}
	s.then = func(context.Context) error {
		s.conn.compress()
		return nil
	}
	return ok("Compression begins")
}
