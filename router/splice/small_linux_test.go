package splice

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// small gives a socket small buffers.
func small(t testing.TB, c net.Conn) {
	t.Helper()
	const size = 64 << 10
	switch c := c.(type) {
	case *net.TCPConn:
		c.SetReadBuffer(size)
		c.SetWriteBuffer(size)
	case *Conn:
		c.mu.Lock()
		defer c.mu.Unlock()
		setNow(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
		setNow(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	default:
		t.Fatalf("a %T", c)
	}
}
