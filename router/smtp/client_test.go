package smtp

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"switchyard/router/routertest"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// client plays a script in parts, for tests that do something in between.
type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func startClient(t *testing.T, p *routertest.Proxy) *client {
	conn := p.Dial()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{t, conn, bufio.NewReader(conn)}
}

func (c *client) run(script string) {
	c.t.Helper()
	for line := range strings.SplitSeq(script, "\n") {
		side, text, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch side {
		case "C":
			if _, err := io.WriteString(c.conn, text+"\r\n"); err != nil {
				c.t.Fatal(err)
			}
		case "S":
			got, err := c.r.ReadString('\n')
			if err != nil || !routertest.Match(text+"\r\n", got) {
				c.t.Fatalf("got %q and %v, want %q", got, err, text)
			}
		}
	}
}

// newInbound is NewInbound with options that are right.
func newInbound(t interface{ Fatal(...any) }, o Options) *Inbound {
	p, err := NewInbound(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
