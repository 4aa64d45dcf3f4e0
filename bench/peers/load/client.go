package load

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// message is what submission and LMTP deliver: 2 kB with its header.
var message = "From: <sender@example.test>\r\nTo: <receiver@" + Domain + ">\r\nSubject: two kilobytes\r\nMessage-ID: <1@example.test>\r\n\r\n" +
	strings.Repeat("Sixty-two letters and two more make a line of this message. \r\n", 30) + ".\r\n"

// client is one client's connection.
type client struct {
	net.Conn
	in   *bufio.Reader
	user string
}

func newClient(conn net.Conn, user string) *client {
	return &client{conn, bufio.NewReaderSize(conn, 4096), user}
}

// session is a whole session: greeting, login, one command or one message,
// logout. The client does not wait for the server to close, as few do: nginx
// would make it wait for the 40 ms of a delayed acknowledgement.
func (c *client) session(service string) error {
	if err := c.login(service); err != nil {
		return err
	}
	var err error
	switch service {
	case "imap":
		err = c.tagged("LOGOUT")
	case "pop3":
		err = c.ask("QUIT", "+OK")
	case "submission", "lmtp":
		if err = c.deliver(); err == nil {
			err = c.ask("QUIT", "221")
		}
	}
	return err
}

// login goes through the greeting and the login, and one command after it where
// the session has no other.
func (c *client) login(service string) error {
	switch service {
	case "imap":
		if err := c.expect("greeting", "* OK"); err != nil {
			return err
		}
		if err := c.tagged("LOGIN " + c.user + " " + Password); err != nil {
			return err
		}
		return c.tagged("NOOP")
	case "pop3":
		return c.steps(
			"", "+OK",
			"USER "+c.user, "+OK",
			"PASS "+Password, "+OK",
			"NOOP", "+OK")
	case "submission":
		plain := base64.StdEncoding.EncodeToString([]byte("\x00" + c.user + "\x00" + Password))
		return c.steps(
			"", "220",
			"EHLO client.example.test", "250",
			"AUTH PLAIN "+plain, "235")
	case "lmtp":
		return c.steps(
			"", "220",
			"LHLO client.example.test", "250")
	}
	return fmt.Errorf("unknown service %q", service)
}

// deliver sends the message, a step at a time.
func (c *client) deliver() error {
	if err := c.steps(
		"MAIL FROM:<sender@example.test>", "250",
		"RCPT TO:<"+c.user+">", "250",
		"DATA", "354"); err != nil {
		return err
	}
	if _, err := io.WriteString(c, message); err != nil {
		return err
	}
	return c.expect("message", "250")
}

// fetch logs in and reads so many megabytes.
func (c *client) fetch(megabytes int) (int64, error) {
	if err := c.login("imap"); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(c, "f FETCH 1:%d BODY.PEEK[]\r\n", megabytes); err != nil {
		return 0, err
	}
	var total int64
	buf := make([]byte, 256<<10)
	for range megabytes {
		line, err := c.line()
		if err != nil {
			return total, err
		}
		size, err := literalSize(line)
		if err != nil {
			return total, err
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(c.in, size), buf)
		total += n
		if err != nil {
			return total, err
		}
		if err := c.expect("FETCH", ")"); err != nil {
			return total, err
		}
	}
	return total, c.expect("FETCH", "f OK")
}

// literalSize reads the {n} at the end of a line.
func literalSize(line string) (int64, error) {
	inner, found := strings.CutSuffix(line, "}")
	i := strings.LastIndexByte(inner, '{')
	if !found || i < 0 {
		return 0, fmt.Errorf("FETCH: unexpected %q", line)
	}
	return strconv.ParseInt(inner[i+1:], 10, 64)
}

// steps sends commands, each with what its answer begins with. An empty command
// only reads.
func (c *client) steps(pairs ...string) error {
	for ; len(pairs) > 0; pairs = pairs[2:] {
		if err := c.ask(pairs[0], pairs[1]); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) ask(command, want string) error {
	if command != "" {
		if _, err := io.WriteString(c, command+"\r\n"); err != nil {
			return err
		}
	}
	verb, _, _ := strings.Cut(command, " ")
	return c.expect(verb, want)
}

// expect reads one answer; of several lines in SMTP.
func (c *client) expect(step, want string) error {
	for {
		line, err := c.line()
		if err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		if !strings.HasPrefix(line, want) {
			return fmt.Errorf("%s: unexpected %q", step, line)
		}
		if len(line) > 3 && line[3] == '-' && line[0] >= '2' && line[0] <= '5' {
			continue
		}
		return nil
	}
}

// tagged sends an IMAP command and reads up to its OK.
func (c *client) tagged(command string) error {
	if _, err := io.WriteString(c, "a "+command+"\r\n"); err != nil {
		return err
	}
	for {
		line, err := c.line()
		verb, _, _ := strings.Cut(command, " ")
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", verb, err)
		case strings.HasPrefix(line, "a OK"):
			return nil
		case !strings.HasPrefix(line, "* "):
			return fmt.Errorf("%s: unexpected %q", verb, line)
		}
	}
}

func (c *client) line() (string, error) {
	raw, err := c.in.ReadSlice('\n')
	return strings.TrimRight(string(raw), "\r\n"), err
}
