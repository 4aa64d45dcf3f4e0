package splice

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func newLoop(t testing.TB, o LoopOptions) *Loop {
	t.Helper()
	l, err := NewLoop(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(errStop) })
	return l
}

// open joins two pairs in l. The result reaches done when the session ends.
func open(t testing.TB, l *Loop, k shape, o Options) (r *rig, s Session) {
	t.Helper()
	r = &rig{done: make(chan struct{})}
	front, back := r.connect(t, l, k)
	s = l.Join(front, back, o, func(result Result, err error) {
		r.result, r.err = result, err
		close(r.done) // panics when it is called twice
	})
	for _, c := range []net.Conn{r.client, r.backend} {
		c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return r, s
}

// until waits for a condition.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !f(); {
		if time.Now().After(end) {
			t.Fatalf("not %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func echo(t *testing.T, r *rig, n int) {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789abcdef"), n/16)
	for _, ends := range [][2]net.Conn{{r.client, r.backend}, {r.backend, r.client}} {
		go ends[0].Write(data)
		got := make([]byte, len(data))
		if _, err := io.ReadFull(ends[1], got); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("the bytes differ: %v", err)
		}
	}
}

func loopShapes(t *testing.T, f func(t *testing.T, k shape)) {
	for _, k := range shapes() {
		if k.loop && (k.own || !testing.Short()) {
			t.Run(k.name, func(t *testing.T) { f(t, k) })
		}
	}
}

// TestIdleSessionsHoldNothing: no goroutine, no pipe, no poll descriptor while
// idle, and nothing at all afterwards.
func TestIdleSessionsHoldNothing(t *testing.T) {
	sessions := 2000
	if testing.Short() || raceEnabled {
		sessions = 300
	}
	l := newLoop(t, LoopOptions{Workers: 2})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	before := descriptors(t)
	var heaps [3]uint64
	for round := range heaps {
		var rigs []*rig
		base := runtime.NumGoroutine()
		for range sessions {
			r := &rig{done: make(chan struct{})}
			c, front := connected(t, ln)
			back, b := connected(t, ln)
			r.client, r.backend = c, b
			l.Join(front, back, Options{}, func(Result, error) { close(r.done) })
			rigs = append(rigs, r)
		}
		if round == 0 {
			for _, r := range rigs[:10] {
				echo(t, r, 1<<20)
			}
		}
		until(t, "without goroutines", func() bool { return runtime.NumGoroutine() <= base })
		until(t, "without pipes", func() bool { return descriptors(t)["pipe"] == before["pipe"] })
		if n := descriptors(t)["socket"] - before["socket"]; n != 4*sessions {
			t.Errorf("%d sockets, want %d", n, 4*sessions)
		}
		if l.Len() != sessions {
			t.Errorf("%d sessions, want %d", l.Len(), sessions)
		}
		for _, r := range rigs {
			r.client.Close()
			r.backend.Close()
		}
		for _, r := range rigs {
			r.wait(t)
		}
		rigs = nil
		until(t, "without sockets", func() bool { return descriptors(t)["socket"] == before["socket"] })
		heaps[round] = heapInUse()
	}
	if grown := int64(heaps[2]) - int64(heaps[1]); grown > int64(sessions)*200 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
}

// TestTLSBuffersAreGivenBack: what crypto/tls keeps for a session that has moved
// large records goes when it is idle.
func TestTLSBuffersAreGivenBack(t *testing.T) {
	const sessions = 100
	l := newLoop(t, LoopOptions{Workers: 1})
	before := heapInUse()
	var kept []*parked
	for range sessions {
		r, s := open(t, l, shape{loop: true, frontTLS: true}, Options{})
		kept = append(kept, s.(*parked))
		echo(t, r, 64<<10)
	}
	// The ends in this process keep some 40 kB for each; the loop's would be as
	// much again.
	until(t, "small", func() bool {
		l.system.workers[0].tell(order{}) // the clock goes on
		return (int64(heapInUse())-int64(before))/sessions < 60<<10 && cold(l, kept)
	})
}

// cold reports whether the sessions' buffers are gone. It asks between two
// rounds of the worker, which has to be idle.
func cold(l *Loop, kept []*parked) bool {
	w := l.system.workers[0]
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.asleep {
		return false
	}
	for _, s := range kept {
		if s.warm {
			return false
		}
	}
	return true
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// descriptors counts the process's descriptors by kind.
func descriptors(t *testing.T) map[string]int {
	t.Helper()
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, e := range dir {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil {
			kind, _, _ := strings.Cut(target, ":")
			n[kind]++
		}
	}
	return n
}

// TestLayoutIsKnown: with the crypto/tls that this is built with, buffers are
// given back, and never bytes with them.
func TestLayoutIsKnown(t *testing.T) {
	y := findLayout()
	if !y.known {
		t.Fatal("crypto/tls has changed: idle TLS sessions keep their buffers")
	}
	c, f := pair(t)
	client, inner := secured(t, c, f, true)
	l := newLoop(t, LoopOptions{Workers: 1})
	w := l.system.workers[0]
	k, ok := bare(inner)
	if !ok {
		t.Fatal("not to be parked")
	}
	if !k.duplicate() {
		t.Fatal("no descriptor")
	}
	defer closeNow(k.fd)
	var g leg
	k.put(&g, w)
	say(t, client, "hello")
	say(t, client, strings.Repeat("x", 16000))
	var got []byte
	buf := make([]byte, 100) // leaves bytes in the TLS layer
	for len(got) < 16005 {
		y.release(g.tls)
		g.readable = true
		n, err := g.tls.Read(buf)
		if err != nil && !errors.Is(err, errBlocked) {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	if string(got) != "hello"+strings.Repeat("x", 16000) {
		t.Error("bytes were lost")
	}
}

// TestSlowReader: what nobody reads is bounded, and arrives whole in the end.
// Others are not held up.
func TestSlowReader(t *testing.T) {
	loopShapes(t, func(t *testing.T, k shape) {
		const size = 4 << 20
		k.small = true
		l := newLoop(t, LoopOptions{Workers: 1, Pipes: 2})
		var slow []*rig
		var sessions []*parked
		sent := make(chan error, 4)
		for i := range cap(sent) {
			r, s := open(t, l, k, Options{})
			slow, sessions = append(slow, r), append(sessions, s.(*parked))
			go func() { sent <- sendStream(r.backend, size, uint64(i)) }()
		}
		quick, _ := open(t, l, k, Options{})
		for range 10 {
			echo(t, quick, 64<<10)
		}
		until(t, "stuck", func() bool { return stuck(t, l, sessions) })
		for i, r := range slow {
			if err := checkStream(r.client, size, uint64(i)); err != nil {
				t.Error(err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
		}
	})
}

// stuck reports whether all clients are owed something, and checks how much.
func stuck(t *testing.T, l *Loop, sessions []*parked) bool {
	w := l.system.workers[0]
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.asleep {
		return false
	}
	for _, s := range sessions {
		g := &s.legs[0]
		if !g.owes() {
			return false
		}
		if n := g.owed(); n > maxOwed && g.pipe == nil || n > pipeSize {
			t.Errorf("a client is owed %d bytes", n)
		}
	}
	if w.pipes.open > 2 {
		t.Errorf("%d pipes, want at most 2", w.pipes.open)
	}
	return true
}

// TestBusySessionsStarveNobody: a turn is bounded.
func TestBusySessionsStarveNobody(t *testing.T) {
	loopShapes(t, func(t *testing.T, k shape) {
		l := newLoop(t, LoopOptions{Workers: 1})
		var stop atomic.Bool
		var wg sync.WaitGroup
		for range 2 {
			r, _ := open(t, l, k, Options{})
			wg.Go(func() {
				buf := make([]byte, 256<<10)
				for !stop.Load() {
					if _, err := r.backend.Write(buf); err != nil {
						t.Error(err)
						return
					}
				}
				r.backend.Close()
			})
			wg.Go(func() { io.Copy(io.Discard, r.client); r.client.Close() })
		}
		ping, _ := open(t, l, k, Options{})
		for range 10 {
			say(t, ping.client, "ping")
			hear(t, ping.backend, "ping")
			say(t, ping.backend, "pong")
			hear(t, ping.client, "pong")
		}
		stop.Store(true)
		wg.Wait()
	})
}

// TestLastCommandOfAReset: a client that says QUIT and breaks off has said it.
func TestLastCommandOfAReset(t *testing.T) {
	loopShapes(t, func(t *testing.T, k shape) {
		l := newLoop(t, LoopOptions{Workers: 1})
		for range 20 {
			r, _ := open(t, l, k, Options{})
			say(t, r.client, "QUIT\r\n")
			reset(r.client)
			hear(t, r.backend, "QUIT\r\n")
			r.wait(t)
			if r.result.In != 6 || r.result.End != FrontFailed && r.result.End != FrontClosed {
				t.Errorf("got %+v, %v", r.result, r.err)
			}
		}
	})
}

// TestClientBreaksWhileTheBackendIsStuck: there is nothing to read to find out,
// and yet the session does not stay for ever.
func TestClientBreaksWhileTheBackendIsStuck(t *testing.T) {
	t.Parallel()
	l := newLoop(t, LoopOptions{Workers: 1})
	r, _ := open(t, l, shape{loop: true}, Options{Linger: time.Minute})
	r.client.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	for junk := make([]byte, 1<<20); ; {
		if _, err := r.client.Write(junk); err != nil {
			break
		}
	}
	reset(r.client)
	r.wait(t)
	if r.result.End != FrontFailed || r.err == nil {
		t.Errorf("got %+v, %v", r.result, r.err)
	}
}

func TestCutAndMoved(t *testing.T) {
	loopShapes(t, func(t *testing.T, k shape) {
		l := newLoop(t, LoopOptions{})
		r, s := open(t, l, k, Options{})
		say(t, r.client, "hello")
		hear(t, r.backend, "hello")
		until(t, "counted", func() bool { in, _ := s.Moved(); return in == 5 })
		s.Cut(errStop)
		r.wait(t)
		if r.result.End != Drained || r.err != errStop {
			t.Errorf("got %+v, %v", r.result, r.err)
		}
		s.Cut(errStop)
		s.Goodbye(errStop)
		until(t, "gone", func() bool { return l.Len() == 0 })
	})
}

func TestCloseOfTheLoop(t *testing.T) {
	l := newLoop(t, LoopOptions{Workers: 2})
	var rigs []*rig
	for i := range 20 {
		k := shape{loop: true, own: i%4 < 2, frontTLS: i%2 == 0, backTLS: i%3 == 0}
		r, _ := open(t, l, k, Options{Grace: 100 * time.Millisecond})
		rigs = append(rigs, r)
	}
	x, front := net.Pipe() // served by goroutines
	back, y := net.Pipe()
	defer x.Close()
	defer y.Close()
	ended := make(chan error, 1)
	l.Join(front, back, Options{Grace: 100 * time.Millisecond}, func(_ Result, err error) { ended <- err })
	l.Close(errStop)
	for _, r := range rigs {
		r.wait(t)
		if r.result.End != Drained || r.err != errStop {
			t.Errorf("got %+v, %v", r.result, r.err)
		}
	}
	if err := <-ended; err != errStop {
		t.Errorf("got %v", err)
	}
	r, _ := open(t, l, shape{loop: true}, Options{})
	r.wait(t)
	if r.result.End != Drained || r.err != errStop {
		t.Errorf("joined behind Close: got %+v, %v", r.result, r.err)
	}
	l.Close(nil) // again
}

// TestUnreadTLSChatterIsBounded: what TLS sends by itself to a peer that does
// not read it does not pile up.
func TestUnreadTLSChatterIsBounded(t *testing.T) {
	c, f := pair(t)
	fd, err := duplicate(f)
	if err != nil {
		t.Fatal(err)
	}
	defer closeNow(int32(fd))
	_ = c
	g := &leg{fd: int32(fd), writable: true}
	u := &under{worker: &worker{}, leg: g}
	for range 100_000 {
		if _, err = u.Write(make([]byte, 1<<10)); err != nil {
			break
		}
	}
	if err != errOwed || g.owed() > maxOwed {
		t.Errorf("got %v with %d bytes owed", err, g.owed())
	}
}

// TestPanicEndsOneSession and no other.
func TestPanicEndsOneSession(t *testing.T) {
	l := newLoop(t, LoopOptions{Workers: 1})
	good, _ := open(t, l, shape{loop: true}, Options{})
	bad, s := open(t, l, shape{loop: true}, Options{})
	echo(t, bad, 1024)
	w := l.system.workers[0]
	until(t, "asleep", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.asleep {
			s.(*parked).legs[1].out = &chunk{sent: 1} // out of bounds
		}
		return w.asleep
	})
	say(t, bad.client, "x")
	bad.wait(t)
	if bad.err == nil || !strings.Contains(bad.err.Error(), "panic") {
		t.Errorf("got %v", bad.err)
	}
	echo(t, good, 1024)
}

// TestRandomEnds: whatever the two sides do, and in whatever order, a session
// ends once, and nothing of it stays.
func TestRandomEnds(t *testing.T) {
	sessions := 400
	if testing.Short() || raceEnabled {
		sessions = 80
	}
	before := descriptors(t)
	l := newLoop(t, LoopOptions{Workers: 2, Pipes: 4})
	var wg sync.WaitGroup
	room := make(chan struct{}, 16)
	for i := range sessions {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			if err := randomSession(t, l, uint64(i)); err != nil {
				t.Errorf("seed %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	until(t, "empty", func() bool { return l.Len() == 0 })
	until(t, "without sockets", func() bool { return descriptors(t)["socket"] == before["socket"] })
	until(t, "without pipes", func() bool { return descriptors(t)["pipe"] == before["pipe"] })
}

func randomSession(t *testing.T, l *Loop, seed uint64) error {
	random := mrand.New(mrand.NewPCG(seed, 3))
	k := shape{loop: true, own: random.IntN(2) == 0, frontTLS: random.IntN(2) == 0, backTLS: random.IntN(2) == 0}
	r, s := open(t, l, k, Options{
		Grace:  time.Duration(1+random.IntN(50)) * time.Millisecond,
		Linger: time.Duration(1+random.IntN(200)) * time.Millisecond,
		Idle:   time.Duration(random.IntN(2)) * 500 * time.Millisecond,
	})
	var wg sync.WaitGroup
	for i, c := range []net.Conn{r.client, r.backend} {
		random := mrand.New(mrand.NewPCG(seed, uint64(4+i)))
		reads := random.IntN(3) > 0
		if reads {
			wg.Go(func() { io.Copy(io.Discard, struct{ io.Reader }{c}) })
		}
		wg.Go(func() {
			defer c.Close()
			buf := make([]byte, 1<<20)
			c.SetWriteDeadline(time.Now().Add(time.Second))
			for range random.IntN(6) {
				if _, err := c.Write(buf[:pieceSize(random, len(buf))]); err != nil {
					return
				}
			}
			switch random.IntN(5) {
			case 0:
				reset(c)
			case 1:
				c.(interface{ CloseWrite() error }).CloseWrite()
				<-r.done
			case 2:
				s.Goodbye(errStop)
				<-r.done
			case 3:
				s.Cut(errStop)
			}
		})
	}
	select {
	case <-r.done:
	case <-time.After(15 * time.Second):
		s.Cut(errors.New("stuck"))
		return fmt.Errorf("%+v does not end", k)
	}
	r.client.Close()
	r.backend.Close()
	wg.Wait()
	if r.result.End == 0 {
		return errors.New("it ended without a reason")
	}
	return nil
}

// TestBothSidesEndAtOnce: a backend that has closed before it could hear of its
// client's end has closed by itself. A client that says QUIT and closes behind the
// goodbye was logged out, and has not gone away.
func TestBothSidesEndAtOnce(t *testing.T) {
	l := newLoop(t, LoopOptions{Workers: 1})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, front := connected(t, ln)
	back, backend := connected(t, ln)
	backend.Close()
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	done := make(chan Result, 1)
	l.Join(front, back, Options{}, func(r Result, _ error) { done <- r })
	client.SetDeadline(time.Now().Add(20 * time.Second))
	if said, err := io.ReadAll(client); err != nil || len(said) > 0 {
		t.Errorf("the client reads %q, %v", said, err)
	}
	client.Close()
	if r := <-done; r.End != BackClosed {
		t.Errorf("got %+v, want BackClosed", r)
	}
}
