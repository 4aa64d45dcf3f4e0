package router_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"

	"switchyard/internal/origin"
	"switchyard/router"
)

// backends is a network of backends that answer "welcome" or "moved", and close.
type backends struct {
	moved map[string]bool

	mu    sync.Mutex
	calls []string
}

func (b *backends) dial(_ context.Context, _, address string) (net.Conn, error) {
	name, _, _ := strings.Cut(address, ":")
	b.mu.Lock()
	b.calls = append(b.calls, name)
	b.mu.Unlock()
	proxy, backend := net.Pipe()
	go func() {
		defer backend.Close()
		if _, err := bufio.NewReader(backend).ReadString('\n'); err != nil {
			return
		}
		answer := "welcome\r\n"
		if b.moved[name] {
			answer = "moved\r\n"
		}
		io.WriteString(backend, answer)
	}()
	return proxy, nil
}

func (b *backends) reached() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

// believed is what a session made of another proxy's words.
type believed struct {
	client string
	ttl    int
	err    error
}

// believer is a protocol that is told things.
type believer struct {
	told []origin.Origin
	got  chan<- believed
}

func (believer) Name() string { return "believer" }

func (b believer) Serve(_ context.Context, s *router.Session) error {
	var errs []error
	for _, o := range b.told {
		errs = append(errs, s.Believe(o))
	}
	err := errors.Join(errs...)
	b.got <- believed{s.Client.Addr().String(), s.Origin(0).TTL, err}
	return err
}
