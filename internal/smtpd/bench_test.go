package smtpd

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"switchyard/internal/wire"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is a Session that takes everything.
type sink struct{}

func (sink) Mail(context.Context, Path, MailParams) error { return nil }
func (sink) Rcpt(context.Context, Path, RcptParams) error { return nil }
func (sink) Reset()                                       {}
func (sink) Data(_ context.Context, body io.Reader) []Reply {
	if _, err := io.Copy(io.Discard, body); err != nil {
		return []Reply{ReplyOf(err)}
	}
	return []Reply{replyOK}
}

// BenchmarkDialogue sends messages over loopback, the envelope in one write
// and the message in another.
func BenchmarkDialogue(b *testing.B) {
	for _, bm := range []struct {
		name string
		size int
	}{{"4KB", 4 << 10}, {"10MB", 10 << 20}} {
		b.Run(bm.name, func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			done := make(chan error, 1)
			go func() {
				nc, err := ln.Accept()
				if err != nil {
					done <- err
					return
				}
				defer nc.Close()
				done <- Serve(context.Background(), wire.NewConn(nc), Options{}, func(*Conn) Session { return sink{} })
			}()
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			read := func(n int) {
				for range n {
					if _, err := r.ReadSlice('\n'); err != nil {
						b.Fatal(err)
					}
				}
			}
			read(1)
			io.WriteString(conn, "HELO x\r\n")
			read(1)
			line := strings.Repeat("x", 76) + "\r\n"
			message := []byte(strings.Repeat(line, bm.size/len(line)) + ".\r\n")
			b.SetBytes(int64(len(message)))
			for b.Loop() {
				io.WriteString(conn, "MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n")
				read(3)
				conn.Write(message)
				read(1)
			}
			io.WriteString(conn, "QUIT\r\n")
			read(1)
			if err := <-done; err != nil {
				b.Error(err)
			}
		})
	}
}
