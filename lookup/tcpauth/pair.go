package tcpauth

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pair is two streams that look like one connection. Reads can be interrupted,
// though the stream itself cannot: what it gives later is lost. Streams of this
// machine have no deadlines.
type pair struct {
	out    io.Writer
	chunks chan []byte
	failed error // why chunks was closed
	rest   []byte

	mu      sync.Mutex
	stopped chan struct{}
	once    sync.Once
	dead    chan struct{} // closed while a deadline in the past is set
}

func newPair(in io.Reader, out io.Writer) *pair {
	p := &pair{out: out, chunks: make(chan []byte), stopped: make(chan struct{}), dead: make(chan struct{})}
	go func() {
		defer close(p.chunks)
		for {
			buf := make([]byte, 4096)
			n, err := in.Read(buf)
			if n > 0 {
				select {
				case p.chunks <- buf[:n]:
				case <-p.stopped:
					return
				}
			}
			if err != nil {
				p.failed = err
				return
			}
		}
	}()
	return p
}

func (p *pair) Read(b []byte) (int, error) {
	p.mu.Lock()
	dead := p.dead
	p.mu.Unlock()
	if len(p.rest) == 0 {
		select {
		case chunk, ok := <-p.chunks:
			if !ok {
				return 0, p.failed
			}
			p.rest = chunk
		case <-dead:
			return 0, os.ErrDeadlineExceeded
		case <-p.stopped:
			return 0, net.ErrClosed
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pair) Write(b []byte) (int, error) { return p.out.Write(b) }

func (p *pair) Close() error {
	p.once.Do(func() { close(p.stopped) })
	return nil
}

// setDeadline only knows the past: an interruption.
func (p *pair) setDeadline(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	past := !t.IsZero() && !t.After(time.Now())
	select {
	case <-p.dead:
		if !past {
			p.dead = make(chan struct{})
		}
	default:
		if past {
			close(p.dead)
		}
	}
}

func (p *pair) SetDeadline(t time.Time) error     { p.setDeadline(t); return nil }
func (p *pair) SetReadDeadline(t time.Time) error { p.setDeadline(t); return nil }
func (p *pair) SetWriteDeadline(time.Time) error  { return nil }

func (p *pair) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "stdio", Net: "unix"} }
func (p *pair) RemoteAddr() net.Addr { return p.LocalAddr() }
