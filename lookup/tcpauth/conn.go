package tcpauth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"switchyard/internal/wire"

	"switchyard/lookup/internal/authent"
)

// conn is the client's side of a connection. One question at a time uses it.
type conn struct {
	nc    net.Conn
	wire  *wire.Conn
	ext   extensions
	used  bool      // has answered a question before
	since time.Time // when it became idle
}

func newConn(nc net.Conn) *conn { return &conn{nc: nc, wire: wire.NewConn(nc)} }

func (c *conn) close() { c.wire.Close() }

// begin makes a connection ready for questions. Everything must be done when
// ctx ends.
func (c *conn) begin(ctx context.Context, config *tls.Config, secret string) error {
	if config != nil {
		c.limit(ctx)
		if err := c.wire.ClientTLS(ctx, config); err != nil {
			return fmt.Errorf("TLS handshake: %w", err)
		}
	}
	if secret != "" {
		line, err := authent.Request{Verb: authent.Auth, Secret: secret}.Line(false)
		if err != nil {
			return err
		}
		replies, err := c.exchange(ctx, line, 1)
		if err == nil && replies[0].Kind != authent.OK {
			err = fmt.Errorf("server says %s %q", replies[0].Kind, replies[0].Reason())
		}
		if err != nil {
			return fmt.Errorf("show the secret: %w", err)
		}
	}
	replies, err := c.exchange(ctx, string(authent.Version), 1)
	if err != nil {
		return fmt.Errorf("ask for the version: %w", err)
	}
	// A server that does not know the command has no extensions.
	if replies[0].Kind == authent.OK {
		c.ext = parseVersion(replies[0].Text)
		// Nobody in between gives us keys of his own making.
		c.ext.scram = c.ext.scram && (config != nil || c.wire.RemoteAddr().Addr().Unmap().IsLoopback())
	}
	return nil
}

// limit keeps reads and writes within ctx's deadline.
func (c *conn) limit(ctx context.Context) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(wire.DefaultIdle)
	}
	c.wire.SetIdle(0)
	c.wire.SetDeadline(deadline)
}

// exchange sends a line and reads the answer, of at most most lines, which must
// be all that the server sends. When it returns any error but dead, the
// connection must be closed: an answer that comes later would be taken for the
// next question's.
func (c *conn) exchange(ctx context.Context, line string, most int) ([]authent.Reply, error) {
	c.limit(ctx)
	release := c.wire.Bind(ctx)
	err := c.send(line)
	var replies []authent.Reply
	for more := true; more && err == nil; {
		var reply authent.Reply
		if reply, err = c.read(); err == nil {
			replies = append(replies, reply)
			more = reply.Kind == authent.Data
			if more && len(replies) == most {
				err = fmt.Errorf("%w: more lines than asked for", authent.ErrGarbage)
			}
		}
	}
	if !release() {
		// The interruption may still be on its way to the connection.
		return nil, fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	var says dead
	if n := c.wire.Buffered(); n > 0 && (err == nil || errors.As(err, &says)) {
		return nil, fmt.Errorf("%w: %d bytes behind the answer", authent.ErrGarbage, n)
	}
	return replies, err
}

func (c *conn) send(line string) error {
	c.wire.WriteString(line)
	c.wire.WriteString("\n")
	return c.wire.Flush()
}

// read reads one reply. A -DEAD is an error.
func (c *conn) read() (authent.Reply, error) {
	line, _, err := readLine(c.wire.Reader(), maxLine)
	if errors.Is(err, errLineTooLong) {
		return authent.Reply{}, fmt.Errorf("%w: %v", authent.ErrGarbage, err)
	}
	if err != nil {
		return authent.Reply{}, err
	}
	reply, err := authent.ParseReply(string(line))
	if err != nil {
		return authent.Reply{}, err
	}
	if reply.Kind == authent.Dead {
		return authent.Reply{}, dead{reply.Reason()}
	}
	return reply, nil
}

// gone reports whether the server has closed the connection.
func (c *conn) gone() bool {
	n, err := c.peek()
	return n == 0 && err != syscall.EAGAIN
}

// stale reports whether an idle connection is of no use: too old, closed by
// the server, or with bytes on it that nobody asked for.
func (c *conn) stale(idle time.Duration) bool {
	if time.Since(c.since) > idle || c.wire.Buffered() > 0 {
		return true
	}
	_, err := c.peek()
	return err != syscall.EAGAIN
}

// peek looks at what the system has received, without waiting and without
// taking it. The error is EAGAIN when that is nothing.
func (c *conn) peek() (n int, err error) {
	sc, ok := c.nc.(syscall.Conn)
	if !ok {
		return 0, syscall.EAGAIN // nobody can tell
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, failed = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	if err != nil {
		return 0, err
	}
	return n, failed
}
