package pop

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"path"
	"strings"
	"testing"
	"time"
)

// client speaks to a server over loopback.
type client struct {
	t    testing.TB
	nc   net.Conn
	r    *bufio.Reader
	tls  *tls.Config
	done chan struct{} // closed when the session has ended
}

// dial starts a session on a loopback connection from local.
func (f *fixture) dial(ctx context.Context, local string, serve func(context.Context, net.Conn)) *client {
	f.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	defer ln.Close()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
	nc, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		f.t.Fatal(err)
	}
	sc, err := ln.Accept()
	if err != nil {
		f.t.Fatal(err)
	}
	c := &client{t: f.t, nc: nc, r: bufio.NewReader(nc), tls: f.client, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		serve(ctx, sc)
	}()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	f.t.Cleanup(func() { nc.Close(); <-c.done })
	return c
}

func (f *fixture) open() *client {
	f.t.Helper()
	return f.dial(context.Background(), "127.0.0.1", f.srv.Serve)
}

// secure does the client's part of a handshake.
func (c *client) secure() {
	c.t.Helper()
	tc := tls.Client(c.nc, c.tls)
	if err := tc.Handshake(); err != nil {
		c.t.Fatalf("handshake: %v", err)
	}
	c.nc, c.r = tc, bufio.NewReader(tc)
}

// run plays a dialogue: lines "C: …" are sent, "S: …" are expected (a * stands
// for anything, as in path.Match), "TLS" does a handshake, "EOF" expects the
// end of the connection. Consecutive C lines are sent in one write.
func (c *client) run(script string) {
	c.t.Helper()
	var out strings.Builder
	flush := func() {
		if out.Len() > 0 {
			c.nc.Write([]byte(out.String()))
			out.Reset()
		}
	}
	for line := range strings.SplitSeq(strings.TrimSpace(script), "\n") {
		line = strings.TrimLeft(line, "\t ")
		switch kind, text, _ := strings.Cut(line, " "); kind {
		case "C:":
			out.WriteString(text + "\r\n")
		case "S:":
			flush()
			got, err := c.r.ReadString('\n')
			if err != nil {
				c.t.Fatalf("want %q, got %q and %v", text, got, err)
			}
			got = strings.TrimSuffix(got, "\r\n")
			pattern := strings.NewReplacer("[", `\[`, "?", `\?`).Replace(text)
			// path.Match's * stops at slashes; there are some in codes.
			if ok, err := path.Match(strings.ReplaceAll(pattern, "/", "|"), strings.ReplaceAll(got, "/", "|")); err != nil || !ok {
				c.t.Fatalf("got %q, want %q (%v)", got, text, err)
			}
		case "TLS":
			flush()
			c.secure()
		case "EOF":
			flush()
			if b, err := c.r.ReadByte(); err == nil {
				rest, _ := c.r.ReadString('\n')
				c.t.Fatalf("want the end, got %q", string(b)+rest)
			}
			<-c.done
		case "":
		default:
			c.t.Fatalf("no such step: %q", line)
		}
	}
	flush()
}

const login = `
	C: USER anna
	S: +OK *
	C: PASS sesame street
	S: +OK * messages
`
