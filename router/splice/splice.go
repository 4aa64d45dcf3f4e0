package splice

import "time"

// Options for both Joins. The zero value works.
type Options struct {
	// FrontRest and BackRest are bytes that were received from either side
	// before it was joined. They are delivered first. They are Join's until the
	// session ends.
	FrontRest, BackRest []byte

	// Idle ends the session when nothing moved for so long, in either
	// direction. Zero means never: TCP keepalive, which net.Listen and
	// net.Dialer turn on, finds dead peers.
	Idle time.Duration

	// Linger is how long one side may be silent once the other has ended its
	// half. Zero means a minute.
	Linger time.Duration

	// Grace is how long the two sides may take to say goodbye once ctx has
	// ended, or Session.Goodbye was called. Zero means 3 seconds.
	Grace time.Duration
}

func (o *Options) fill() {
	if o.Linger == 0 {
		o.Linger = time.Minute
	}
	if o.Grace == 0 {
		o.Grace = 3 * time.Second
	}
}

// End says why a splice ended.
type End int

// The ends. The side that ended first counts.
const (
	FrontClosed End = iota + 1 // the client closed, or half-closed, in order
	BackClosed                 // the backend did
	FrontFailed                // the client's connection broke
	BackFailed                 // the backend's did
	Idled                      // nothing moved for too long
	Drained                    // the context ended; Goodbye or Cut
)

func (e End) String() string {
	switch e {
	case FrontClosed:
		return "client closed"
	case BackClosed:
		return "backend closed"
	case FrontFailed:
		return "client's connection broke"
	case BackFailed:
		return "backend's connection broke"
	case Idled:
		return "idle"
	case Drained:
		return "drained"
	default:
		return "running"
	}
}

// ErrIdle is Join's error when nothing moved for too long. It counts as a
// time-out.
var ErrIdle error = idleError{}

type idleError struct{}

func (idleError) Error() string   { return "nothing moved for too long" }
func (idleError) Timeout() bool   { return true }
func (idleError) Temporary() bool { return false }

// Result is what passed, and why it ended.
type Result struct {
	In  int64 // bytes from front to back, rests included
	Out int64 // bytes from back to front
	End End
}
