//go:build !linux

package splice

import "net"

// system is what Linux alone can do: elsewhere goroutines serve all sessions.
type system struct{}

func (*system) start(*Loop) error { return nil }

func (*system) park(front, back net.Conn, o Options, done func(Result, error)) Session { return nil }

func (*system) goodbye(cause error) {}

func (*system) close() {}
