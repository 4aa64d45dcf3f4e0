// Package splice joins two connections: what either side sends reaches the
// other, until one of them ends. It reads nothing of what passes.
//
// There are two ways to the same contract. Join blocks, on any net.Conn, and
// costs goroutines and buffers while a session is idle. Loop.Join returns at
// once and, on Linux, parks the session: nothing is left of it but a struct of
// some 200 bytes, the two sockets, and the *tls.Conn where there is one.
//
// # How a loop works
//
// A worker is one edge-triggered epoll descriptor and one goroutine, which waits
// in Go's own poller and so holds no thread. Both sockets of a session leave Go's
// poller (the descriptor is duplicated, the *net.TCPConn closed) and are never
// blocked upon. Each session that can move something gets its turn in each
// round; a turn moves at most 1 MB, or 128 kB and a record where TLS has to be
// put on or taken off, so that a busy session delays the others of its worker by
// a fraction of a millisecond.
//
// Bytes are copied through one buffer of the worker. What a destination does not
// take stays in a pooled buffer (at most 136 kB a direction), and nothing more
// is read from the source until it has gone. Between two plain sockets, once a
// direction has moved more than 16 kB without falling idle, the kernel moves the
// bytes by splice(2), through a pipe that is attached to a session only while it
// holds bytes. There is a bounded number of pipes, and those that are not used
// for a second are closed.
//
// TLS is crypto/tls's own. Under a parked *tls.Conn lies a connection whose Read
// says "not now" (a temporary net.Error, which crypto/tls survives) and whose
// Write takes all. Its read buffers, which crypto/tls keeps for ever, are taken
// from it by unsafe when a session has been idle for a second; where they lie is
// looked up by name and type, and where that fails they stay. A test fails then.
//
// # How a router adopts it
//
// One Loop for the process: NewLoop where the Router is made, Loop.Close(cause)
// behind the last session before login when it stops. Session.Join becomes the
// end of the session's goroutine:
//
//	if !s.release() { say goodbye: the daemon is stopping }  // before Detach
//	front, frontRest, err := s.Conn.Detach()
//	back, backRest, err := b.Detach()
//	joined := loop.Join(front, back, splice.Options{...}, func(r splice.Result, err error) {
//		summary.report(r, err)
//	})
//
// In detail:
//
//   - done runs on a worker. It writes the session's line and gives counters
//     back; it must not wait for a lock that is held for long, nor for a network.
//   - done must capture a small struct of its own (id, user, home, node, client,
//     started, byte counts before, the reason's translation) and neither the
//     Session nor its Conn: a plain Conn keeps its closed *net.TCPConn alive, the
//     Session its logger with fields. What done captures is most of what an idle
//     session costs.
//   - With TLS, wire.Conn goes on counting what passes the socket; done may keep
//     that Conn (it is small behind Detach) for BytesRead and BytesWritten.
//   - Behind a Join both wire.Conns may still be closed, by defers: that does
//     nothing to the session. All other use of them is over; in particular
//     neither Bind nor SetDeadline may be in effect.
//   - If the second Detach fails, the first connection is still the caller's:
//     close it.
//   - The goroutine that accepted the connection ends with Join, but the session
//     goes on: server.Run's bound on sessions and its wait at the end must count
//     joined sessions by other means (Loop.Len; Loop.Close waits for them), and
//     Serve has to report nothing for a session that was joined, since done does.
//   - drain and kick keep the Session that Join returned: Goodbye and Cut. Moved
//     is for "who". When the daemon stops, Loop.Close says goodbye to all at once;
//     for a paced drain call Goodbye one by one before.
package splice
