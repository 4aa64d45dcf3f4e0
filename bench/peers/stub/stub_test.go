package stub

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestLiteral reads the announcement of a literal at the end of a command.
func TestLiteral(t *testing.T) {
	for line, want := range map[string]struct {
		n        int
		wait, ok bool
	}{
		"a LOGIN {5}":     {5, true, true},
		"a LOGIN u {12+}": {12, false, true},
		"a NOOP":          {},
		"a X {-1}":        {},
		"a X }":           {},
		"a X {1}x":        {},
	} {
		n, wait, ok := literal(line)
		if ok != want.ok || ok && (n != want.n || wait != want.wait) {
			t.Errorf("%q: %d %v %v", line, n, wait, ok)
		}
	}
}

// TestWaysToLogIn: each proxy logs in at the backend in its own way. The lines
// of a step are sent together; their last answers are told.
func TestWaysToLogIn(t *testing.T) {
	orders, toServer := io.Pipe()
	fromServer, answers := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(orders, answers) }()
	t.Cleanup(func() {
		toServer.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var a Addresses
	if err := json.NewDecoder(fromServer).Decode(&a); err != nil {
		t.Fatal(err)
	}
	imap, submission := "* OK [CAPABILITY "+imapCapabilities+"] ready", "220 stub ready"
	loggedIn := " OK [CAPABILITY " + imapCapabilities + "] logged in"
	for name, c := range map[string]struct {
		service string
		steps   []string // sent, then what is read, in turn
	}{
		"literals":         {"imap", []string{"", imap, "a LOGIN {4}\r\n", "+ OK", "anna {3}\r\n", "+ OK", "pwd\r\n", "a" + loggedIn}},
		"ID and response":  {"imap", []string{"", imap, "I ID (\"x\" \"y\")\r\nL AUTHENTICATE PLAIN AGEAYg==\r\n", "* ID NIL\nI OK done\nL" + loggedIn}},
		"response later":   {"imap", []string{"", imap, "L AUTHENTICATE PLAIN\r\n", "+ ", "AGEAYg==\r\n", "L" + loggedIn}},
		"XCLIENT and AUTH": {"pop3", []string{"", "+OK [XCLIENT] ready", "XCLIENT ADDR=192.0.2.1\r\nAUTH PLAIN AGEAYg==\r\n", "+OK\n+OK logged in"}},
		"XCLIENT":          {"submission", []string{"", submission, "XCLIENT ADDR=192.0.2.1 LOGIN=anna\r\n", submission}},
		"AUTH in steps":    {"submission", []string{"", submission, "AUTH PLAIN\r\n", "334 ", "AGEAYg==\r\n", "235 2.7.0 logged in"}},
		"two recipients":   {"lmtp", []string{"", submission, "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", "250 2.1.0 OK\n250 2.1.5 OK\n250 2.1.5 OK\n354 go on", "x\r\n.\r\nQUIT\r\n", "250 2.0.0 taken\n250 2.0.0 taken\n221 2.0.0 bye"}},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", a[c.service])
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			in := bufio.NewReader(conn)
			for i := 0; i < len(c.steps); i += 2 {
				if _, err := io.WriteString(conn, c.steps[i]); err != nil {
					t.Fatal(err)
				}
				want := bufio.NewScanner(strings.NewReader(c.steps[i+1]))
				for want.Scan() {
					line, err := in.ReadString('\n')
					if err != nil || line != want.Text()+"\r\n" {
						t.Fatalf("after %q: %q, want %q (%v)", c.steps[i], line, want.Text(), err)
					}
				}
			}
		})
	}
}
