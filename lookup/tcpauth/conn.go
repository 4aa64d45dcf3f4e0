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
		line, err := Request{Verb: Auth, Secret: secret}.Line(false)
		if err != nil {
			return err
		}
		if err := c.exchange(ctx, line, (*conn).readSecretAnswer); err != nil {
			return fmt.Errorf("show the secret: %w", err)
		}
	}
	err := c.exchange(ctx, string(Version), (*conn).readVersion)
	if err != nil {
		return fmt.Errorf("ask for the version: %w", err)
	}
	return nil
}

func (c *conn) readSecretAnswer() error {
	reply, err := c.read()
	if err != nil {
		return err
	}
	if reply.Kind != OK {
		return fmt.Errorf("server says %s %q", reply.Kind, cut(reply.Text, maxReason))
	}
	return nil
}

// readVersion learns the server's extensions. A server that does not know the
// command has none.
func (c *conn) readVersion() error {
	reply, err := c.read()
	switch {
	case err != nil:
		return err
	case reply.Kind == OK:
		c.ext = parseVersion(reply.Text)
	case reply.Kind != Err:
		return fmt.Errorf("%w: %s to version", errGarbage, reply.Kind)
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

// exchange sends a line and lets read read the answer, which must be all that
// the server sends. When it returns any error but answered and dead, the
// connection must be closed: an answer that comes later would be taken for the
// next question's.
func (c *conn) exchange(ctx context.Context, line string, read func(*conn) error) error {
	c.limit(ctx)
	release := c.wire.Bind(ctx)
	err := c.send(line)
	if err == nil {
		err = read(c)
	}
	if !release() {
		// The interruption may still be on its way to the connection.
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	if n := c.wire.Buffered(); n > 0 && !isIO(err) {
		return fmt.Errorf("%w: %d bytes behind the answer", errGarbage, n)
	}
	return err
}

// isIO reports whether an error came from the connection, not from the answer.
func isIO(err error) bool {
	var final answered
	var says dead
	return err != nil && !errors.As(err, &final) && !errors.As(err, &says)
}

func (c *conn) send(line string) error {
	c.wire.WriteString(line)
	c.wire.WriteString("\n")
	return c.wire.Flush()
}

// read reads one reply. A -DEAD is an error.
func (c *conn) read() (Reply, error) {
	line, _, err := readLine(c.wire.Reader(), maxLine)
	if errors.Is(err, errLineTooLong) {
		return Reply{}, fmt.Errorf("%w: %v", errGarbage, err)
	}
	if err != nil {
		return Reply{}, err
	}
	reply, err := ParseReply(string(line))
	if err != nil {
		return Reply{}, err
	}
	if reply.Kind == Dead {
		return Reply{}, dead{cut(reply.Text, maxReason)}
	}
	return reply, nil
}

// stale reports whether an idle connection is of no use: too old, closed by
// the server, or with bytes on it that nobody asked for.
func (c *conn) stale(idle time.Duration) bool {
	if time.Since(c.since) > idle || c.wire.Buffered() > 0 {
		return true
	}
	sc, ok := c.nc.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN
	})
	return err != nil || !quiet
}
