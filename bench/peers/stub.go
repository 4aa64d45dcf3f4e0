package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// stubPatience bounds the life of a connection to the stub.
const stubPatience = 30 * time.Minute

// The stub is the backend of all proxies. It believes everything and keeps
// nothing, offers what a Dovecot or backendd would (SASL with an initial
// response, ID, XCLIENT, pipelining), and answers commands that came in one
// segment with one write, as they do: what a proxy saves by pipelining or pays
// for passing on who the client is, is its own affair.

// stubAddresses says where the stub listens, by service.
type stubAddresses map[string]string

// serveStub runs the stub until its input ends. Its addresses are the first and
// only answer.
func serveStub(in io.Reader, out io.Writer) error {
	dialogues := map[string]func(*stubConn) error{
		"imap":       (*stubConn).imap,
		"pop3":       (*stubConn).pop3,
		"submission": func(c *stubConn) error { return c.smtp(false) },
		"lmtp":       func(c *stubConn) error { return c.smtp(true) },
	}
	addresses := make(stubAddresses)
	var group sync.WaitGroup
	var listeners []net.Listener
	for service, dialogue := range dialogues {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		listeners = append(listeners, ln)
		addresses[service] = ln.Addr().String()
		group.Go(func() { acceptStub(ln, dialogue) })
	}
	if err := json.NewEncoder(out).Encode(addresses); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, in)
	for _, ln := range listeners {
		ln.Close()
	}
	group.Wait()
	return err
}

// acceptStub serves a listener until it is closed. Sessions end with their
// clients, or with the process.
func acceptStub(ln net.Listener, dialogue func(*stubConn) error) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors: some will come back
			continue
		}
		go func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(stubPatience))
			c := &stubConn{Reader: bufio.NewReaderSize(conn, 2048), Writer: bufio.NewWriterSize(conn, 1024), conn: conn}
			// A client that goes away is no news.
			_ = dialogue(c)
			_ = c.Flush()
		}()
	}
}

// stubConn is one connection to the stub.
type stubConn struct {
	*bufio.Reader
	*bufio.Writer
	conn net.Conn
}

// line reads a line. Answers are sent when nothing more has come in.
func (c *stubConn) line() (string, error) {
	if c.Reader.Buffered() == 0 {
		if err := c.Flush(); err != nil {
			return "", err
		}
	}
	raw, err := c.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(raw), "\r\n"), nil
}

// say puts lines into the buffer.
func (c *stubConn) say(lines ...string) {
	for _, l := range lines {
		c.WriteString(l)
		c.WriteString("\r\n")
	}
}

// command reads a line that may have literals in it, and returns it without
// them.
func (c *stubConn) command() (string, error) {
	var all string
	for {
		l, err := c.line()
		if err != nil {
			return "", err
		}
		all += l
		n, wait, ok := literal(l)
		if !ok {
			return all, nil
		}
		if wait {
			c.say("+ OK")
			if err := c.Flush(); err != nil {
				return "", err
			}
		}
		if _, err := c.Discard(n); err != nil {
			return "", err
		}
	}
}

// literal reads the {n} or {n+} at the end of a line; wait is false for the
// latter.
func literal(line string) (n int, wait, ok bool) {
	inner, found := strings.CutSuffix(line, "}")
	if !found {
		return 0, false, false
	}
	i := strings.LastIndexByte(inner, '{')
	if i < 0 {
		return 0, false, false
	}
	inner, plus := strings.CutSuffix(inner[i+1:], "+")
	n, err := strconv.Atoi(inner)
	return n, !plus, err == nil && n >= 0
}

// sasl reads the response of AUTH or AUTHENTICATE when it does not stand on the
// command's line, after the mechanism.
func (c *stubConn) sasl(args, prompt string) error {
	if strings.Contains(args, " ") {
		return nil
	}
	c.say(prompt)
	if err := c.Flush(); err != nil {
		return err
	}
	_, err := c.line()
	return err
}
