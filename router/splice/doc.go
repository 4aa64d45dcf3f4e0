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
// in Go's own poller and so holds no thread. Each session that can move something
// gets its turn in each round; a turn moves at most 1 MB, or 128 kB and a record
// where TLS has to be put on or taken off, so that a busy session delays the others
// of its worker by a fraction of a millisecond. No call blocks, and all are made
// past Go's scheduler.
//
// Loop.Listen and Loop.Dial make connections whose sockets are in a worker's epoll
// from the beginning and never in Go's poller: a Conn each, on which a goroutine
// talks as on any net.Conn up to the login. Join then takes the socket over without
// a system call. Of a *net.TCPConn the descriptor is duplicated, and the connection
// closed.
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
// # What a router has to know
//
//   - There is one Loop for the process; it is closed behind the last session.
//   - done runs on a worker. It must not wait for a lock that is held for long, nor
//     for a network or a log.
//   - What done captures is most of what an idle session costs: neither the
//     goroutine's Session nor its Conn.
//   - With TLS, wire.Conn goes on counting what passes the socket; done may keep
//     that Conn (it is small behind Detach) for BytesRead and BytesWritten.
//   - Behind a Join both wire.Conns may still be closed, by defers: that does
//     nothing to the session. All other use of them is over; in particular
//     neither Bind nor SetDeadline may be in effect.
//   - drain and kick keep the Session that Join returned: Goodbye and Cut. Moved
//     is for "who".
package splice
