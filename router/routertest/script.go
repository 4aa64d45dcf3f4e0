// Package routertest starts a router with scripted clients, backends and a
// directory that does as it is told. It is for _test.go files only.
//
// A script is a dialogue, one step a line:
//
//	S: text     a line of the server, with CRLF
//	C: text     a line of the client
//	S- text     the same without CRLF (C- likewise)
//	TLS         the TLS handshake
//	NOTLS       a handshake that must fail
//	HALF        end the own half of the connection
//	CLOSE       close
//	EOF         read the end of the peer's half
//	HANG        say nothing until the peer closes
//
// Whoever plays the script sends its own lines, those next to each other in one
// write, and holds what it receives against the other's. There, * stands for
// anything and \* for itself. In all lines \r, \n and \0 stand for the characters.
package routertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// stepTimeout bounds each step of a script.
const stepTimeout = 10 * time.Second

// player plays one side of a script.
type player struct {
	conn   net.Conn
	r      *bufio.Reader
	out    []byte
	me     string // "C" or "S"
	config *tls.Config
	heard  func(string) // gets every line that was received
}

func newPlayer(conn net.Conn, me string, config *tls.Config) *player {
	return &player{conn: conn, r: bufio.NewReader(conn), me: me, config: config, heard: func(string) {}}
}

// play plays a script to its end. Lines that are empty or begin with # are
// comments.
func (p *player) play(script string) error {
	for i, step := range strings.Split(script, "\n") {
		step = strings.TrimLeft(step, "\t ")
		if step == "" || step[0] == '#' {
			continue
		}
		if err := p.step(step); err != nil {
			return fmt.Errorf("line %d, %q: %w", i+1, step, err)
		}
	}
	return p.flush()
}

func (p *player) step(step string) error {
	p.conn.SetDeadline(time.Now().Add(stepTimeout))
	if len(step) > 1 && (step[:2] == p.me+":" || step[:2] == p.me+"-") {
		text := strings.ReplaceAll(strings.TrimPrefix(step[2:], " "), `\*`, "*")
		p.out = append(p.out, unescape(text)...)
		if step[1] == ':' {
			p.out = append(p.out, "\r\n"...)
		}
		return nil
	}
	if err := p.flush(); err != nil {
		return err
	}
	if len(step) > 1 && (step[:2] == "C:" || step[:2] == "S:") {
		return p.expect(strings.TrimPrefix(step[2:], " "))
	}
	switch step {
	case "TLS":
		return p.startTLS()
	case "NOTLS":
		if p.startTLS() == nil {
			return fmt.Errorf("the handshake succeeds")
		}
		return nil
	case "HALF":
		return p.conn.(interface{ CloseWrite() error }).CloseWrite()
	case "CLOSE":
		return p.conn.Close()
	case "EOF":
		rest, err := io.ReadAll(p.r)
		if len(rest) > 0 {
			return fmt.Errorf("got %q, want the end", rest)
		}
		if err != nil && !isReset(err) {
			return err
		}
		return nil
	case "HANG":
		p.conn.SetDeadline(time.Now().Add(6 * stepTimeout))
		io.Copy(io.Discard, p.r)
		return nil
	}
	return fmt.Errorf("no such step")
}

func (p *player) flush() error {
	if len(p.out) == 0 {
		return nil
	}
	_, err := p.conn.Write(p.out)
	p.out = p.out[:0]
	return err
}

func (p *player) expect(pattern string) error {
	line, err := p.r.ReadString('\n')
	if err != nil {
		return fmt.Errorf("got %q, %w", line, err)
	}
	p.heard(strings.TrimRight(line, "\r\n"))
	want := unescape(pattern) + "\r\n"
	if !Match(want, line) {
		return fmt.Errorf("got %q", line)
	}
	return nil
}

func (p *player) startTLS() error {
	var tc *tls.Conn
	if p.me == "S" {
		tc = tls.Server(p.conn, p.config)
	} else {
		tc = tls.Client(p.conn, p.config)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		return err
	}
	p.conn = tc
	p.r.Reset(tc)
	return nil
}

// Match reports whether text is what pattern describes, where * stands for
// anything.
func Match(pattern, text string) bool {
	parts := strings.Split(strings.ReplaceAll(pattern, `\*`, "\x01"), "*")
	for i := range parts {
		parts[i] = strings.ReplaceAll(parts[i], "\x01", "*")
	}
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	for i, part := range parts[1:] {
		if i == len(parts)-2 {
			return strings.HasSuffix(text, part)
		}
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return text == ""
}

func unescape(s string) string {
	return strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\0`, "\x00").Replace(s)
}

func isReset(err error) bool {
	return strings.Contains(err.Error(), "reset by peer") || strings.Contains(err.Error(), "broken pipe")
}
