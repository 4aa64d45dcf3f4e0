package tcpauth

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"switchyard/internal/wire"

	"switchyard/lookup/internal/authent"
)

// lane is a connection with many questions under way, each with a tag. It
// needs a server that knows tags. Lookups have one, and everything else another,
// so that no lookup waits behind passwords that are being hashed.
type lane struct {
	u    *upstream
	conn *conn
	out  *outlet

	mu      sync.Mutex
	pending map[uint64]*call
	next    uint64
	quiet   time.Time // since when an answer is owed and none has come
	used    bool      // has answered a question
	err     error     // why it ended

	wake chan struct{} // there is something to write
	done chan struct{} // closed when it has ended
	wg   sync.WaitGroup
}

// call is a question under way. When its caller has given up it stays pending,
// so that its answer is known when it comes.
type call struct {
	sum     sum
	most    int // lines that its answer may have
	replies []authent.Reply
	answer  chan error // receives one
	started time.Time
}

// errLane says that a connection ended with questions under way.
type errLane struct {
	cause error
	again bool // it may be asked again at once: the server was restarted, most likely
}

func (e *errLane) Error() string { return e.cause.Error() }
func (e *errLane) Unwrap() error { return e.cause }

// newLane takes over a connection whose server knows tags.
func newLane(u *upstream, c *conn) *lane {
	l := &lane{
		u: u, conn: c, out: newOutlet(c.wire, u.opts.Attempt),
		pending: make(map[uint64]*call), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	c.wire.SetDeadline(time.Time{})
	c.wire.SetIdle(u.opts.Idle) // of the reader: an unused lane ends by it
	l.wg.Go(l.read)
	l.wg.Go(l.write)
	return l
}

// ended reports whether a lane is of no use.
func (l *lane) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// ask sends a command and waits for its answer. The replies are the caller's.
// sent says that the command may have reached the server. Errors: errLane, that
// of ctx, and errWaiting.
func (l *lane) ask(ctx context.Context, command string, most int) (replies []authent.Reply, sent bool, err error) {
	c := &call{sum: sumOf([]byte(command)), most: most, answer: make(chan error, 1), started: time.Now()}
	id, alone, err := l.start(c)
	if err != nil {
		return nil, false, err
	}
	line := make([]byte, 0, len(command)+maxTag+3)
	line = appendTag(append(line, '#'), id)
	line = append(append(append(line, ' '), command...), '\n')
	l.out.add(line)
	if alone {
		// Nobody to share a write with.
		l.out.flush()
	} else {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	select {
	case err := <-c.answer:
		return c.replies, true, err
	case <-ctx.Done():
		l.silent()
		return nil, true, ctx.Err()
	}
}

// start makes a call pending. alone says that no other call is.
func (l *lane) start(c *call) (id uint64, alone bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return 0, false, l.err
	case len(l.pending) >= l.u.opts.MaxWaiting:
		return 0, false, errWaiting
	}
	l.next++
	if len(l.pending) == 0 {
		l.quiet = c.started
	}
	l.pending[l.next] = c
	return l.next, len(l.pending) == 1, nil
}

// silent ends the lane when its server owes answers and has been silent for too
// long. It is called by who gave up waiting.
func (l *lane) silent() {
	l.mu.Lock()
	since := time.Since(l.quiet)
	owed := len(l.pending) > 0
	l.mu.Unlock()
	if owed && since >= min(fairTime, l.u.opts.Attempt) {
		l.fail(errSilent)
	}
}

var errSilent = fmt.Errorf("the server does not answer: %w", context.DeadlineExceeded)

// write writes what is ready whenever there is something.
func (l *lane) write() {
	for {
		select {
		case <-l.wake:
		case <-l.done:
			return
		}
		// Those who are about to ask may share the write.
		runtime.Gosched()
		if err := l.out.flush(); err != nil {
			l.fail(err)
			return
		}
	}
}

// read takes the answers until the connection ends.
func (l *lane) read() {
	for {
		_, err := l.conn.wire.Peek(1)
		if wire.IsTimeout(err) {
			if l.unused() {
				return
			}
			continue // the callers have time limits of their own
		}
		var line []byte
		if err == nil {
			line, _, err = readLine(l.conn.wire.Reader(), maxLine+taggedOverhead)
		}
		if err == nil {
			err = l.take(line)
		}
		if err != nil {
			if errors.Is(err, errLineTooLong) {
				err = fmt.Errorf("%w: %v", authent.ErrGarbage, err)
			}
			l.fail(err)
			return
		}
	}
}

// take gives a line to who asked. An error means that nothing on this
// connection can be trusted any more.
func (l *lane) take(line []byte) error {
	tag, s, rest, err := parseTagged(line)
	if err != nil {
		return err
	}
	id, ok := parseTag(tag)
	if !ok {
		return fmt.Errorf("%w: a tag that was never given", authent.ErrGarbage)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.pending[id]
	if c == nil {
		return fmt.Errorf("%w: an answer that nobody waits for", authent.ErrGarbage)
	}
	if c.sum = c.sum.add(rest); c.sum != s {
		return fmt.Errorf("%w: an answer that is not to what was asked", authent.ErrGarbage)
	}
	reply, err := authent.ParseReply(string(rest))
	if err != nil {
		return err
	}
	c.replies = append(c.replies, reply)
	l.used, l.quiet = true, time.Now()
	if reply.Kind == authent.Data && len(c.replies) < c.most {
		return nil
	}
	if reply.Kind == authent.Data {
		return fmt.Errorf("%w: more lines than asked for", authent.ErrGarbage)
	}
	delete(l.pending, id)
	c.answer <- nil
	return nil
}

// unused ends the lane if no answer is owed.
func (l *lane) unused() bool {
	l.mu.Lock()
	if len(l.pending) > 0 || l.err != nil {
		ended := l.err != nil
		l.mu.Unlock()
		return ended
	}
	l.err = &errLane{cause: errIdle, again: true}
	l.mu.Unlock()
	close(l.done)
	l.conn.close()
	return true
}

var errIdle = errors.New("the connection was not used for long")

// fail ends the lane: everybody who waits gets the error.
func (l *lane) fail(cause error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	timedOut := wire.IsTimeout(cause) || errors.Is(cause, context.DeadlineExceeded)
	waiting := l.pending
	l.pending = nil
	l.err = &errLane{cause: cause, again: l.used && !timedOut && !errors.Is(cause, authent.ErrGarbage)}
	guilty := len(waiting) > 0 && !l.err.(*errLane).again && !errors.Is(cause, errClosed)
	l.mu.Unlock()
	if guilty {
		l.u.blame(cause)
	}
	for _, c := range waiting {
		c.answer <- l.err
	}
	close(l.done)
	l.conn.close()
}

// close ends the lane and waits for its goroutines.
func (l *lane) close() {
	l.fail(errClosed)
	l.wg.Wait()
}
