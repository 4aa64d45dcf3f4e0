package imap

import (
	"bufio"
	"compress/flate"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"switchyard/backend"
	"switchyard/internal/tlsconf"
)

// TestDialogs runs testdata/dialogs/*.txt. Each line of a script is one step:
//
//	options: starttls require-tls max-append=1000 …   first line, optional
//	C: text       the client sends a line; C2: is another session's client
//	R: "text"     the client sends these bytes, quoted as in Go, and no more
//	S: text       the server's next line; ... stands for anything
//	S*: text      passes over lines up to this one
//	E:            the server has closed the connection
//	X: action     tls | compress | append USER MAILBOX FILE [FLAG…] | directory down|up | expunge USER MAILBOX UID |
//	              quota USER BYTES MESSAGES |
//	              uidvalidity USER MAILBOX (from there on %V stands for it)
//
// A client is connected when it is first used; its greeting is read by the
// script like any other line.
func TestDialogs(t *testing.T) {
	files, err := filepath.Glob("testdata/dialogs/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d dialogs, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			runDialog(t, string(text))
		})
	}
}

type dialog struct {
	*testing.T
	f       *fixture
	clients map[string]*client
	tls     bool
	valid   string // what %V stands for
}

// client is one end of a connection.
type client struct {
	net.Conn
	r *bufio.Reader
}

var step = regexp.MustCompile(`^([CSREX])(\d?)(\*?): ?(.*)$`)

func runDialog(t *testing.T, script string) {
	lines := strings.Split(strings.TrimRight(script, "\n"), "\n")
	d := &dialog{T: t, clients: map[string]*client{}}
	var o Options
	if rest, ok := strings.CutPrefix(lines[0], "options:"); ok {
		o = d.options(strings.Fields(rest))
		lines[0] = ""
	}
	d.f = start(t, o)
	t.Cleanup(func() {
		for _, c := range d.clients {
			c.Close()
		}
	})
	for n, line := range lines {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := step.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %d: no step: %s", n+1, line)
		}
		if err := d.step(m[1], m[2], m[3] != "", m[4]); err != nil {
			t.Fatalf("line %d: %s\n%v", n+1, line, err)
		}
	}
}

func (d *dialog) options(words []string) Options {
	var o Options
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "starttls":
			o.Mode = tlsconf.StartTLS
		case "tls":
			o.Mode, d.tls = tlsconf.Implicit, true
		case "require-tls":
			o.RequireTLS = true
		case "max-append":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				d.Fatal(err)
			}
			o.MaxAppend = n
		default:
			d.Fatalf("unknown option %q", w)
		}
	}
	return o
}

func (d *dialog) step(kind, who string, skip bool, text string) error {
	if kind == "X" {
		return d.action(who, strings.Fields(text))
	}
	c, err := d.client(who)
	if err != nil {
		return err
	}
	switch kind {
	case "C":
		text = strings.ReplaceAll(text, "%V", d.valid)
		_, err = c.Write([]byte(text + "\r\n"))
		return err
	case "R":
		raw, err := strconv.Unquote(text)
		if err != nil {
			return err
		}
		_, err = c.Write([]byte(raw))
		return err
	case "E":
		if line, err := c.r.ReadString('\n'); err == nil {
			return fmt.Errorf("the connection is open, and the server says %q", line)
		}
		return nil
	}
	want := pattern(text)
	for {
		line, err := c.r.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if err != nil {
			return fmt.Errorf("got %q, %w", line, err)
		}
		if want.MatchString(line) {
			return nil
		}
		if !skip {
			return fmt.Errorf("got %q", line)
		}
	}
}

func pattern(text string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(text), `\.\.\.`, ".*") + "$")
}

func (d *dialog) client(who string) (*client, error) {
	if c := d.clients[who]; c != nil {
		return c, nil
	}
	nc, err := net.Dial("tcp", d.f.addr)
	if err != nil {
		return nil, err
	}
	if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if d.tls {
		nc = tls.Client(nc, d.f.tls)
	}
	c := &client{nc, bufio.NewReader(nc)}
	d.clients[who] = c
	return c, nil
}

func (d *dialog) action(who string, words []string) error {
	switch words[0] {
	case "tls":
		c, err := d.client(who)
		if err != nil {
			return err
		}
		tc := tls.Client(c.Conn, d.f.tls)
		d.clients[who] = &client{tc, bufio.NewReader(tc)}
		return tc.Handshake()
	case "compress":
		c, err := d.client(who)
		if err != nil {
			return err
		}
		d.clients[who] = compressed(d, c)
	case "append":
		d.f.append(d, words[1], words[2], testMessage(d, words[3]), words[4:]...)
	case "quota":
		var limit backend.Quota
		if _, err := fmt.Sscan(words[2], &limit.Bytes); err != nil {
			return err
		}
		if _, err := fmt.Sscan(words[3], &limit.Messages); err != nil {
			return err
		}
		d.f.user(d, words[1]).Limit(limit)
	case "directory":
		d.f.dir.down.Store(words[1] == "down")
	case "expunge":
		u := d.f.user(d, words[1])
		m, err := u.Mailbox(d.Context(), words[2])
		if err != nil {
			return err
		}
		uid, err := strconv.Atoi(words[3])
		if err != nil {
			return err
		}
		_, err = u.Expunge(d.Context(), m.ID, []backend.UID{backend.UID(uid)}, false)
		return err
	case "uidvalidity":
		m, err := d.f.user(d, words[1]).Mailbox(d.Context(), words[2])
		d.valid = strconv.Itoa(int(m.UIDValidity))
		return err
	default:
		return fmt.Errorf("unknown action")
	}
	return nil
}

// compressed puts the client's side of COMPRESS over a connection.
func compressed(t testing.TB, c *client) *client {
	w, err := flate.NewWriter(c.Conn, flate.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	return &client{&flateConn{c.Conn, w}, bufio.NewReader(flate.NewReader(c.r))}
}

type flateConn struct {
	net.Conn
	w *flate.Writer
}

func (c *flateConn) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if err == nil {
		err = c.w.Flush()
	}
	return n, err
}
