package server

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// running is a server under test.
type running struct {
	addr string
	stop context.CancelFunc
	done chan error
}

func start(t *testing.T, o Options, h Handler) *running {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{addr: ln.Addr().String(), stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- Run(ctx, ln, o, h) }()
	t.Cleanup(cancel)
	return r
}

// startPlaces is start for sessions that outlive their handlers.
func startPlaces(t *testing.T, o Options, h func(context.Context, net.Conn, *Place)) *running {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{addr: ln.Addr().String(), stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- RunPlaces(ctx, ln, o, h) }()
	t.Cleanup(cancel)
	return r
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func TestStopLetsSessionsSayGoodbye(t *testing.T) {
	entered := make(chan struct{})
	r := start(t, Options{}, func(ctx context.Context, conn net.Conn) {
		defer conn.Close()
		close(entered)
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), ErrShutdown) {
			t.Errorf("cause %v", context.Cause(ctx))
		}
		io.WriteString(conn, "bye")
	})
	c := dial(t, r.addr)
	<-entered
	r.stop()
	if b, err := io.ReadAll(c); string(b) != "bye" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := <-r.done; err != nil {
		t.Errorf("got %v", err)
	}
	if _, err := net.Dial("tcp", r.addr); err == nil {
		t.Error("still accepts")
	}
}

func TestGraceEndsDeafSessions(t *testing.T) {
	entered := make(chan struct{})
	r := start(t, Options{Grace: 20 * time.Millisecond}, func(_ context.Context, conn net.Conn) {
		close(entered)
		io.Copy(io.Discard, conn) // never hears the context
	})
	dial(t, r.addr)
	<-entered
	r.stop()
	if err := <-r.done; err != nil {
		t.Errorf("got %v", err)
	}
}

func TestPanicEndsOneSession(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	r := start(t, Options{Logger: zap.New(core)}, func(_ context.Context, conn net.Conn) {
		b := make([]byte, 1)
		io.ReadFull(conn, b)
		if b[0] == 'p' {
			panic("oops")
		}
		io.WriteString(conn, "ok")
		conn.Close()
	})
	bad, good := dial(t, r.addr), dial(t, r.addr)
	io.WriteString(bad, "p")
	if b, _ := io.ReadAll(bad); len(b) != 0 {
		t.Errorf("got %q", b)
	}
	io.WriteString(good, "g")
	if b, err := io.ReadAll(good); string(b) != "ok" {
		t.Errorf("the other session: got %q, %v", b, err)
	}
	if n := logs.FilterMessage("session panicked").Len(); n != 1 {
		t.Errorf("%d log lines", n)
	}
}

func TestMaxSessions(t *testing.T) {
	entered := make(chan net.Conn)
	r := start(t, Options{MaxSessions: 1}, func(_ context.Context, conn net.Conn) {
		entered <- conn
		io.Copy(io.Discard, conn)
		conn.Close()
	})
	first := dial(t, r.addr)
	<-entered
	dial(t, r.addr)
	select {
	case <-entered:
		t.Fatal("a second session although one is the most")
	default:
	}
	first.Close()
	<-entered // now there is room
}

// TestKeptSessionsCount: a session that has outlived its handler takes its place
// until it leaves.
func TestKeptSessionsCount(t *testing.T) {
	leaves := make(chan func())
	r := startPlaces(t, Options{MaxSessions: 1}, func(_ context.Context, conn net.Conn, p *Place) {
		leave := p.Keep()
		leaves <- func() { conn.Close(); leave() }
	})
	first := dial(t, r.addr)
	leave := <-leaves
	dial(t, r.addr)
	select {
	case <-leaves:
		t.Fatal("a second session although one is the most")
	case <-time.After(50 * time.Millisecond):
	}
	leave()
	if b, err := io.ReadAll(first); len(b) > 0 || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	(<-leaves)() // now there is room
}

// TestStopWaitsForKeptSessions: they are told when the contexts have ended, their
// connections are not closed for them, and Run returns behind the last one.
func TestStopWaitsForKeptSessions(t *testing.T) {
	kept := make(chan context.Context, 1)
	var leave func()
	told := make(chan struct{})
	r := startPlaces(t, Options{Grace: time.Millisecond, Stop: func() { close(told) }}, func(ctx context.Context, conn net.Conn, p *Place) {
		left := p.Keep()
		leave = func() { io.WriteString(conn, "bye"); conn.Close(); left() }
		kept <- ctx
	})
	c := dial(t, r.addr)
	ctx := <-kept
	r.stop()
	<-told
	if !errors.Is(context.Cause(ctx), ErrShutdown) {
		t.Errorf("cause %v", context.Cause(ctx))
	}
	select {
	case err := <-r.done:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(50 * time.Millisecond): // longer than the grace period
	}
	leave()
	if b, err := io.ReadAll(c); string(b) != "bye" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	if err := <-r.done; err != nil {
		t.Errorf("got %v", err)
	}
}

// TestPanicBehindKeep: the session goes on, and its place is given back once.
func TestPanicBehindKeep(t *testing.T) {
	leaves := make(chan func(), 1)
	r := startPlaces(t, Options{}, func(_ context.Context, _ net.Conn, p *Place) {
		leaves <- p.Keep()
		panic("oops")
	})
	dial(t, r.addr)
	leave := <-leaves
	r.stop()
	leave()
	if err := <-r.done; err != nil {
		t.Errorf("got %v", err)
	}
}
