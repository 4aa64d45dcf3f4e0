package smtpd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"switchyard/internal/origin"
	"switchyard/internal/wire"
)

// script is a connection that sends what it was given and swallows the rest.
type script struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// strict is a fake that fails the test when it is asked out of order.
type strict struct {
	loginFake
	t          *testing.T
	open       bool
	recipients int
}

func (s *strict) Mail(ctx context.Context, from Path, p MailParams) error {
	if s.open {
		s.t.Fatal("Mail within a transaction")
	}
	err := s.loginFake.Mail(ctx, from, p)
	s.open, s.recipients = err == nil, 0
	return err
}

func (s *strict) Rcpt(ctx context.Context, to Path, p RcptParams) error {
	if !s.open {
		s.t.Fatal("Rcpt outside of a transaction")
	}
	err := s.loginFake.Rcpt(ctx, to, p)
	if err == nil {
		s.recipients++
	}
	return err
}

func (s *strict) Data(ctx context.Context, body io.Reader) []Reply {
	if !s.open || s.recipients == 0 || s.recipients != s.conn.Recipients() {
		s.t.Fatal("Data without a sender or a recipient")
	}
	r := s.loginFake.Data(ctx, body)
	for _, b := range s.bodies {
		if strings.ContainsAny(strings.ReplaceAll(b, "\r\n", ""), "\r\n") {
			s.t.Fatalf("bare CR or LF in %q", b)
		}
	}
	s.bodies = nil
	return r
}

func (s *strict) Reset() {
	if !s.open {
		s.t.Fatal("Reset outside of a transaction")
	}
	s.open = false
}

func (s *strict) Identify(ctx context.Context, o origin.Origin) error {
	if s.open || s.conn.Authenticated() {
		s.t.Fatal("an identity was believed too late")
	}
	return s.loginFake.Identify(ctx, o)
}

// FuzzSession feeds a whole dialogue. The session must be asked in order, every
// answer must be well-formed, and nothing may run for ever.
func FuzzSession(f *testing.F) {
	seeds := []string{
		"EHLO x\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n..x\r\n.\r\nQUIT\r\n",
		"LHLO x\r\nAUTH PLAIN AGIAc2VjcmV0\r\nMAIL FROM:<> XTRACELEN=3\r\nRCPT TO:<b@x.test>\r\nBDAT 3\r\nx\r\nBDAT 0 LAST\r\nRSET\r\nQUIT\r\n",
		"EHLO x\r\nXCLIENT ADDR=192.0.2.1 TTL=3\r\nEHLO x\r\nAUTH LOGIN\r\nYg==\r\nc2VjcmV0\r\nMAIL FROM:<a@x.test> SMTPUTF8\r\nRCPT TO:<\xc3\xa4@x.test>\r\nBDAT 5\r\nabcQUIT\r\n",
		"HELO x\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\na\n.\nb\r\n.\r\nBDAT 4 LAST\r\nQUIT",
		"STARTTLS\r\nNOOP\r\n", "VRFY x\r\nEXPN x\r\nHELP\r\n", "AUTH PLAIN\r\n*\r\n",
	}
	for _, s := range seeds {
		for kind := range byte(8) {
			f.Add([]byte(s), kind)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, kind byte) {
		nc := &script{in: bytes.NewReader(in)}
		s := &strict{t: t}
		s.trusts, s.private, s.early = true, true, kind&4 != 0
		o := Options{LMTP: kind&1 != 0, RequireAuth: kind&2 != 0, AllowCleartextAuth: true, MaxSize: 1000, Hostname: "mx.test",
			StartTLS: func(context.Context) error { return errors.New("no handshake") }}
		err := Serve(context.Background(), wire.NewConn(nc), o, func(c *Conn) Session { s.conn = c; return s })
		if s.open {
			t.Fatal("a transaction was left open")
		}
		if err == nil && !bytes.Contains(nc.out.Bytes(), []byte("\r\n221 ")) {
			t.Fatalf("ended in order without a goodbye: %q", nc.out.String())
		}
		for line := range bytes.SplitAfterSeq(nc.out.Bytes(), []byte("\r\n")) {
			if len(line) == 0 {
				continue
			}
			if len(line) < 6 || line[0] < '2' || line[0] > '5' || line[3] != ' ' && line[3] != '-' || !bytes.HasSuffix(line, []byte("\r\n")) || len(line) > 600 {
				t.Fatalf("answered %q", line)
			}
		}
	})
}
