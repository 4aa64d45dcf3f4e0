//go:build !linux

package splice

import (
	"net"
	"testing"
)

func small(t testing.TB, c net.Conn) {
	c.(*net.TCPConn).SetReadBuffer(64 << 10)
	c.(*net.TCPConn).SetWriteBuffer(64 << 10)
}
