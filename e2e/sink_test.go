package e2e

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
)

// sink is the mail server of other domains: it takes all there is.
type sink struct {
	addr string

	mu  sync.Mutex
	got map[string][][]byte // by recipient
}

// startSink starts one that ends with the test.
func startSink(t testing.TB) *sink {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(loopback(t), "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{addr: ln.Addr().String(), got: make(map[string][][]byte)}
	srv := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &sinkSession{sink: s}, nil }))
	srv.Domain = "sink.example.org"
	var done sync.WaitGroup
	done.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() { srv.Close(); done.Wait() })
	return s
}

type sinkSession struct {
	*sink
	to []string
}

func (s *sinkSession) Mail(string, *smtp.MailOptions) error { s.to = nil; return nil }

func (s *sinkSession) Rcpt(to string, _ *smtp.RcptOptions) error { s.to = append(s.to, to); return nil }

func (s *sinkSession) Data(r io.Reader) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, to := range s.to {
		s.got[to] = append(s.got[to], body)
	}
	return nil
}

func (s *sinkSession) Reset() { s.to = nil }

func (s *sinkSession) Logout() error { return nil }
