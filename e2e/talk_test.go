package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"switchyard/internal/harness"
)

// dialFrom connects from a local address (any when empty), with a deadline for
// the whole session.
func dialFrom(t testing.TB, from, address string) net.Conn {
	t.Helper()
	conn, err := tryDial(from, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func tryDial(from, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: stepTimeout}
	if from != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
	}
	conn, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(sessionTimeout))
}

// talk is a dialogue line by line.
type talk struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func newTalk(t testing.TB, conn net.Conn) *talk {
	return &talk{t: t, conn: conn, r: bufio.NewReader(conn)}
}

// plain opens a dialogue in clear.
func plain(t testing.TB, address string) *talk {
	t.Helper()
	return newTalk(t, dialFrom(t, "", address))
}

// secure opens a dialogue with TLS from the start.
func (c *cluster) secure(t testing.TB, address string) *talk {
	t.Helper()
	conn := tls.Client(dialFrom(t, "", address), c.tls)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return newTalk(t, conn)
}

// send writes bytes as they are.
func (k *talk) send(b string) {
	k.t.Helper()
	if _, err := k.conn.Write([]byte(b)); err != nil {
		k.t.Fatal(err)
	}
}

// say writes a line.
func (k *talk) say(format string, args ...any) {
	k.t.Helper()
	k.send(fmt.Sprintf(format, args...) + "\r\n")
}

// line reads a line, without its end.
func (k *talk) line() string {
	k.t.Helper()
	s, err := k.r.ReadString('\n')
	if err != nil {
		k.t.Fatalf("read a line: %v (so far %q)", err, s)
	}
	return strings.TrimRight(s, "\r\n")
}

// until reads lines until one begins with the prefix, and returns that one.
func (k *talk) until(prefix string) string {
	k.t.Helper()
	for {
		if s := k.line(); strings.HasPrefix(s, prefix) {
			return s
		}
	}
}

// want reads a line that must begin with the prefix.
func (k *talk) want(prefix string) string {
	k.t.Helper()
	s := k.line()
	if !strings.HasPrefix(s, prefix) {
		k.t.Fatalf("got %q, want %s…", s, prefix)
	}
	return s
}

// reply reads an SMTP reply and returns its last line.
func (k *talk) reply() string {
	k.t.Helper()
	for {
		if s := k.line(); len(s) < 4 || s[3] != '-' {
			return s
		}
	}
}

// wantReply reads an SMTP reply that must begin with the prefix.
func (k *talk) wantReply(prefix string) string {
	k.t.Helper()
	s := k.reply()
	if !strings.HasPrefix(s, prefix) {
		k.t.Fatalf("got %q, want %s…", s, prefix)
	}
	return s
}

// end reads to the end of the connection, which must come, and returns what was
// said. A reset is an end too: the server hung up on what it did not read.
func (k *talk) end() string {
	k.t.Helper()
	var b strings.Builder
	if _, err := k.r.WriteTo(&b); errors.Is(err, os.ErrDeadlineExceeded) {
		k.t.Errorf("the connection did not end in time; heard %.300q", b.String())
	}
	return b.String()
}

// answer logs in by a protocol, or offers a recipient ("smtp", "lmtp"), on a
// dialogue that has not begun, and returns the answer.
func (c *cluster) answer(k *talk, protocol string, a harness.Account) string {
	k.t.Helper()
	switch protocol {
	case "imap":
		k.want("* OK")
		k.say("a LOGIN %q %q", a.Name, a.Password)
		return strings.TrimPrefix(k.until("a "), "a ")
	case "pop3":
		k.want("+OK")
		k.say("USER %s", a.Name)
		k.want("+OK")
		k.say("PASS %s", a.Password)
		return k.line()
	case "submission":
		k.wantReply("220")
		k.say("EHLO client.example.org")
		k.wantReply("250")
		k.say("AUTH PLAIN %s", plainResponse(a))
		return k.reply()
	case "lmtp":
		k.wantReply("220")
		k.say("LHLO proxy.example.org")
		k.wantReply("250")
		k.say("AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00proxy\x00"+c.proxySecret)))
		k.wantReply("235")
	case "smtp":
		k.wantReply("220")
		k.say("EHLO client.example.org")
		k.wantReply("250")
	default:
		k.t.Fatalf("no protocol %q", protocol)
	}
	k.say("MAIL FROM:<sender@example.org>")
	k.wantReply("250")
	k.say("RCPT TO:<%s>", a.Name)
	return k.reply()
}

// ask is answer on a new connection to a proxy's listener that takes logins in
// clear.
func (c *cluster) ask(t testing.TB, proxy *harness.Proxy, protocol string, a harness.Account) string {
	t.Helper()
	k := plain(t, proxy.Addr[protocol])
	defer k.conn.Close()
	return c.answer(k, protocol, a)
}

// logOut ends a dialogue in the protocol's own way, and hangs up.
func (k *talk) logOut(protocol string) {
	k.t.Helper()
	if protocol == "imap" {
		k.say("z LOGOUT")
		k.until("z OK")
	} else {
		k.say("QUIT")
		k.line()
	}
	if rest := k.end(); rest != "" {
		k.t.Errorf("%s: %q behind the goodbye", protocol, rest)
	}
	k.conn.Close()
}

// plainResponse is what SASL PLAIN says for an account.
func plainResponse(a harness.Account) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + a.Name + "\x00" + a.Password))
}
