package lookuptest

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Wire stands between a directory and its server and does to the bytes what
// networks do: it stops, hangs, slows, truncates and garbles. It begins as a
// plain relay and ends with the test.
type Wire struct {
	network, target string
	addr            string

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when the fault changes
	fault    fault
	listener net.Listener
	conns    map[net.Conn]bool
	closed   bool
	wg       sync.WaitGroup
}

// fault is what the wire does now. Those of bytes are for what the server says
// on a connection, old or new.
type fault struct {
	stopped, hanging bool
	delay            time.Duration
	truncate         int // bytes, after which the connection ends
	garble           int // every nth byte is another one
}

// NewWire returns a wire to a server; its own end is on loopback.
func NewWire(t testing.TB, network, target string) *Wire {
	t.Helper()
	w := &Wire{network: network, target: target, changed: make(chan struct{}), conns: make(map[net.Conn]bool)}
	if err := w.listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	w.addr = w.listener.Addr().String()
	t.Cleanup(func() {
		w.mu.Lock()
		w.closed = true
		w.mu.Unlock()
		w.set(fault{stopped: true})
		w.wg.Wait()
	})
	return w
}

// Addr is where the wire listens.
func (w *Wire) Addr() string { return w.addr }

// Stop closes all connections and refuses new ones.
func (w *Wire) Stop() { w.set(fault{stopped: true}) }

// Hang accepts connections and bytes and passes none on.
func (w *Wire) Hang() { w.set(fault{hanging: true}) }

// Slow delays each piece of what the server says.
func (w *Wire) Slow(d time.Duration) { w.set(fault{delay: d}) }

// Truncate ends each connection after n more bytes from the server.
func (w *Wire) Truncate(n int) { w.set(fault{truncate: n}) }

// Garble changes every nth byte that the server says. Without TLS a changed
// byte can be a different answer in good form: no directory can tell.
func (w *Wire) Garble(nth int) { w.set(fault{garble: nth}) }

// Mend makes the wire a plain relay again.
func (w *Wire) Mend(t testing.TB) {
	t.Helper()
	w.mu.Lock()
	down := w.listener == nil
	w.mu.Unlock()
	if down {
		if err := w.listen(w.addr); err != nil {
			t.Fatal(err)
		}
	}
	w.set(fault{})
}

func (w *Wire) set(f fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
	close(w.changed)
	w.changed = make(chan struct{})
	if !f.stopped {
		return
	}
	if w.listener != nil {
		w.listener.Close()
		w.listener = nil
	}
	for c := range w.conns {
		c.Close()
	}
}

func (w *Wire) now() (fault, chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault, w.changed
}

func (w *Wire) listen(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.listener = l
	w.mu.Unlock()
	w.wg.Go(func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() { w.join(front) })
		}
	})
	return nil
}

// join relays between a client and the server until either ends.
func (w *Wire) join(front net.Conn) {
	defer front.Close()
	if !w.add(front) {
		return
	}
	defer w.remove(front)
	back, err := net.Dial(w.network, w.target)
	if err != nil {
		return
	}
	defer back.Close()
	if !w.add(back) {
		return
	}
	defer w.remove(back)
	var wg sync.WaitGroup
	wg.Go(func() { w.relay(back, front, false); back.Close(); front.Close() })
	wg.Go(func() { w.relay(front, back, true); back.Close(); front.Close() })
	wg.Wait()
}

func (w *Wire) add(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.fault.stopped {
		return false
	}
	w.conns[c] = true
	return true
}

func (w *Wire) remove(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

// relay copies one direction.
func (w *Wire) relay(to io.Writer, from io.Reader, server bool) {
	buf := make([]byte, 4096)
	said := 0
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		piece, err := w.spoil(buf[:n], server, &said)
		if len(piece) > 0 {
			if _, err := to.Write(piece); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

var errCut = errors.New("cut")

// spoil does to a piece what the fault says, once it does not hang.
func (w *Wire) spoil(piece []byte, server bool, said *int) ([]byte, error) {
	f, changed := w.now()
	for f.hanging {
		<-changed
		f, changed = w.now()
	}
	if f.stopped {
		return nil, errCut
	}
	if !server {
		return piece, nil
	}
	if f.delay > 0 {
		timer := time.NewTimer(f.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-changed:
		}
	}
	if f.truncate > 0 {
		if *said += len(piece); *said >= f.truncate {
			return piece[:max(0, len(piece)-(*said-f.truncate))], errCut
		}
		return piece, nil
	}
	for i := range piece {
		if *said++; f.garble > 0 && *said%f.garble == 0 {
			piece[i] ^= 0x55
		}
	}
	return piece, nil
}
