package smtp

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"switchyard/internal/smtpd"
	"switchyard/internal/wire"
)

// canned is a connection to a backend that says what it was given.
type canned struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (c *canned) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *canned) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *canned) Close() error                     { return nil }
func (c *canned) LocalAddr() net.Addr              { return nil }
func (c *canned) RemoteAddr() net.Addr             { return nil }
func (c *canned) SetDeadline(time.Time) error      { return nil }
func (c *canned) SetReadDeadline(time.Time) error  { return nil }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }

func TestReadReply(t *testing.T) {
	for in, want := range map[string]smtpd.Reply{
		"250 2.1.5 ok\r\n":                     smtpd.NewReply(250, "2.1.5", "ok"),
		"250\r\n":                              smtpd.NewReply(250, "", ""),
		"250-a\r\n250 b\r\n":                   smtpd.NewReply(250, "", "a\nb"),
		"550-5.1.1 a\r\n550 5.1.1 b\r\n":       smtpd.NewReply(550, "5.1.1", "a\nb"),
		"451 4.1.6 moved\r\n":                  smtpd.NewReply(451, "4.1.6", "moved"),
		"550 4.1.6 not of its class\r\n":       smtpd.NewReply(550, "", "4.1.6 not of its class"),
		"250 2.0.0000 x\r\n":                   smtpd.NewReply(250, "", "2.0.0000 x"),
		"":                                     {},
		"25\r\n":                               {},
		"* OK IMAP\r\n":                        {},
		"150 x\r\n":                            {},
		"600 x\r\n":                            {},
		"-50 x\r\n":                            {},
		"250x\r\n":                             {},
		"250-a\r\n550 b\r\n":                   {},
		"250-a\r\n":                            {},
		"250 a\n":                              {},
		"250 a\rb\r\n":                         {},
		strings.Repeat("250-a\r\n", 200):       {},
		"250 " + strings.Repeat("x", 10000):    {},
		"250-" + strings.Repeat("x\r\n250", 9): {},
	} {
		r, err := readReply(wire.NewConn(&canned{in: bytes.NewReader([]byte(in))}))
		if r != want || (err != nil) != (want.Code == 0) {
			t.Errorf("%.40q: got %+v and %v", in, r, err)
		}
	}
}

func FuzzReadReply(f *testing.F) {
	f.Add([]byte("250-a\r\n250 2.0.0 b\r\nrest"))
	f.Add([]byte("550-5.1.1 a\r\n550 5.1.1 b\r\n"))
	f.Add([]byte("354\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := readReply(wire.NewConn(&canned{in: bytes.NewReader(in)}))
		if err != nil {
			return
		}
		if r.Code < 200 || r.Code > 599 || strings.ContainsAny(r.Text, "\r\x00") {
			t.Fatalf("%q: %+v", in, r)
		}
	})
}

// FuzzStuffer: what is stuffed comes out of smtpd's own dialogue as it was, and
// as one message.
func FuzzStuffer(f *testing.F) {
	f.Add([]byte("a\r\n.b\r\n..\r\n.\r\nc"), 3)
	f.Add([]byte("."), 1)
	f.Add([]byte("\r\n.\r\n"), 2)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		in = bytes.ReplaceAll(bytes.ReplaceAll(in, []byte("\r"), nil), []byte("\n"), []byte("\r\n"))
		step = max(1, min(step, 64))
		var wired bytes.Buffer
		w := stuffer{w: &wired}
		for rest := in; len(rest) > 0; rest = rest[min(step, len(rest)):] {
			if _, err := w.Write(rest[:min(step, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
		want := string(in)
		if want != "" && !strings.HasSuffix(want, "\r\n") {
			want += "\r\n"
		}
		dialogue := "HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.test>\r\nDATA\r\n" + wired.String() + "QUIT\r\n"
		k := &keeper{}
		conn := wire.NewConn(&canned{in: bytes.NewReader([]byte(dialogue))})
		err := smtpd.Serve(context.Background(), conn, smtpd.Options{}, func(*smtpd.Conn) smtpd.Session { return k })
		if err != nil || len(k.got) != 1 || k.got[0] != want {
			t.Fatalf("%q became %q, %v", want, k.got, err)
		}
	})
}

// keeper is a session that keeps what it gets.
type keeper struct{ got []string }

func (k *keeper) Mail(context.Context, smtpd.Path, smtpd.MailParams) error { return nil }
func (k *keeper) Rcpt(context.Context, smtpd.Path, smtpd.RcptParams) error { return nil }
func (k *keeper) Reset()                                                   {}
func (k *keeper) Data(_ context.Context, body io.Reader) []smtpd.Reply {
	b, err := io.ReadAll(body)
	if err != nil {
		return nil
	}
	k.got = append(k.got, string(b))
	return []smtpd.Reply{smtpd.NewReply(250, "", "ok")}
}

func TestScanHeader(t *testing.T) {
	long := strings.Repeat("x", 10000)
	for in, want := range map[string]header{
		"":         {},
		"received": {},
		"Received: a\r\nRECEIVED: b\r\n\tReceived: no\r\nX-Received: no\r\n\r\nReceived: no\r\n": {received: 2},
		"X: " + long + "Received: no\r\nReceived:" + long + "\r\n\r\n":                           {received: 1},
		"Received: a\r\nmessage-id: <1>\r\nReceived: b\r\n\r\n":                                  {received: 2, messageID: true},
		"X: a\r\n Message-ID: no\r\n\r\nMessage-ID: no\r\n":                                      {},
		strings.Repeat("Received: x\r\n", 1000):                                                  {received: maxReceived + 1},
	} {
		if h, err := scanHeader(bufio.NewReaderSize(strings.NewReader(in), 16)); h != want || err != nil {
			t.Errorf("%.40q: got %+v and %v, want %+v", in, h, err, want)
		}
	}
}
