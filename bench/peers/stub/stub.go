// Package stub is the backend of all proxies in the comparison: IMAP, POP3,
// submission and LMTP. It believes everything and keeps nothing, offers what a
// Dovecot or backendd would (SASL with an initial response, ID, XCLIENT,
// pipelining), and answers commands that came in one segment with one write, as
// they do: what a proxy saves by pipelining or pays for passing on who the client
// is, is its own affair.
package stub

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

// patience bounds the life of a connection to the stub.
const patience = 30 * time.Minute

// Addresses says where the stub listens, by service.
type Addresses map[string]string

// Serve runs the stub until its input ends. Its addresses are the first and
// only answer.
func Serve(in io.Reader, out io.Writer) error {
	dialogues := map[string]func(*session) error{
		"imap":       (*session).imap,
		"pop3":       (*session).pop3,
		"submission": func(c *session) error { return c.smtp(false) },
		"lmtp":       func(c *session) error { return c.smtp(true) },
	}
	addresses := make(Addresses)
	srv := server{open: make(map[io.Closer]bool)}
	for service, dialogue := range dialogues {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		srv.keep(ln)
		addresses[service] = ln.Addr().String()
		srv.group.Go(func() { srv.accept(ln, dialogue) })
	}
	if err := json.NewEncoder(out).Encode(addresses); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, in)
	srv.stop()
	return err
}

// server is what has to be closed and waited for in the end.
type server struct {
	group sync.WaitGroup

	mu   sync.Mutex
	open map[io.Closer]bool // listeners and connections; nil once stopped
}

// keep remembers what stop closes. It reports false, and closes it, when that is
// over.
func (s *server) keep(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		c.Close()
		return false
	}
	s.open[c] = true
	return true
}

func (s *server) forget(c io.Closer) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	c.Close()
}

func (s *server) stop() {
	s.mu.Lock()
	for c := range s.open {
		c.Close()
	}
	s.open = nil
	s.mu.Unlock()
	s.group.Wait()
}

// accept serves a listener until it is closed.
func (s *server) accept(ln net.Listener, dialogue func(*session) error) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors: some will come back
			continue
		}
		if !s.keep(conn) {
			return
		}
		s.group.Go(func() {
			defer s.forget(conn)
			conn.SetDeadline(time.Now().Add(patience))
			c := &session{Reader: bufio.NewReaderSize(conn, 2048), Writer: bufio.NewWriterSize(conn, 1024), conn: conn}
			// A client that goes away is no news.
			_ = dialogue(c)
			_ = c.Flush()
		})
	}
}

// session is one connection to the stub.
type session struct {
	*bufio.Reader
	*bufio.Writer
	conn net.Conn
}

// line reads a line. Answers are sent when nothing more has come in.
func (c *session) line() (string, error) {
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
func (c *session) say(lines ...string) {
	for _, l := range lines {
		c.WriteString(l)
		c.WriteString("\r\n")
	}
}

// command reads a line that may have literals in it, and returns it without
// them.
func (c *session) command() (string, error) {
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
func (c *session) sasl(args, prompt string) error {
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
