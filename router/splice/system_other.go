//go:build !linux

package splice

import (
	"context"
	"net"
)

// system is what Linux alone can do: elsewhere goroutines serve all sessions.
type system struct{}

func (*system) start(*Loop) error { return nil }

func (*system) park(front, back net.Conn, o Options, done func(Result, error)) Session { return nil }

func (*system) goodbye(cause error) {}

func (*system) close() {}

func (*system) listen(ln net.Listener) (net.Listener, error) { return ln, nil }

func (*system) dial(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}
