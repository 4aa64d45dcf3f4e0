package routertest

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
)

// Pipes is a net.Listener in memory, for fuzzing. It is a Config's Net.
type Pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// NewPipes makes one.
func NewPipes() *Pipes {
	return &Pipes{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (p *Pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *Pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

// Addr implements net.Listener.
func (p *Pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// Dial connects.
func (p *Pipes) Dial() (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Say connects, sends all of in, closes behind it if hangUp, and returns all
// that is answered.
func (p *Pipes) Say(in []byte, hangUp bool) []byte {
	client, server := net.Pipe()
	p.conns <- server
	return Exchange(client, in, hangUp)
}

// Exchange sends all of in on a pipe, closes behind it if hangUp, and returns
// all that is answered.
func Exchange(conn net.Conn, in []byte, hangUp bool) []byte {
	var out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(&out, conn)
	}()
	conn.Write(in)
	if !hangUp {
		<-read
	}
	conn.Close()
	<-read
	return out.Bytes()
}

// Talk returns an upstream.Options.Dial whose connections say what say returns,
// whatever they hear, and hang up.
func Talk(say func() []byte) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		proxy, backend := net.Pipe()
		go Exchange(backend, say(), true)
		return proxy, nil
	}
}
