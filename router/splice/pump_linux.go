package splice

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// bulkSize is how much is read at once where much moves; copySize elsewhere.
	bulkSize = 128 << 10

	// sealedSize is bulkSize as TLS records, of which the first may be small.
	sealedSize = bulkSize + 8<<10

	// pipeSize is how much the kernel moves at once.
	pipeSize = 1 << 20

	// The most that one direction of a session moves in a turn: roughly a tenth
	// of a millisecond, for which the other sessions of the worker wait.
	turn    = 1 << 20
	tlsTurn = 128 << 10
)

// serve gives a session its turn. The way to the client is first: where both sides
// have ended in one round, the backend has not heard of its client's end yet, and
// has closed by itself.
func (w *worker) serve(s *parked) {
	defer w.rescue(s)
	again := w.pump(s, 1)
	if !s.over {
		again = w.pump(s, 0) || again
	}
	switch {
	case s.over:
	case s.ways[0].over(&s.legs[1]) && s.ways[1].over(&s.legs[0]):
		w.finish(s)
	case again:
		w.enqueue(s)
	}
}

// pump moves what can be moved one way, up to a turn. It reports whether there
// may be more.
func (w *worker) pump(s *parked, i int) bool {
	y, src, dst := &s.ways[i], &s.legs[i], &s.legs[1-i]
	left := turn
	if src.tls != nil || dst.tls != nil {
		left = tlsTurn
		if src.readable || src.more {
			w.warmed(s)
		}
	}
	total := 0
	for !s.over {
		if !y.broken && dst.owes() && dst.writable {
			w.settle(s, i)
			continue
		}
		stuck := dst.owes() && !y.broken
		if y.fin && !y.finSent && !y.broken && !stuck {
			y.finSent = true
			if !s.closing(i) {
				dst.halfClose()
			}
			continue
		}
		if y.ended || !src.readable && !src.more || stuck && !y.discards {
			break
		}
		if total >= left {
			return true
		}
		n := w.move(s, i)
		total += n
	}
	if total < copySize && !src.readable {
		y.bulk = false
	}
	return false
}

// closing reports whether both ways have ended, so that the socket of way i's
// destination is closed in this very turn, which says the same as a half-close. A
// way that was only told to end (drain) has not.
func (s *parked) closing(i int) bool {
	src, dst := &s.legs[i], &s.legs[1-i]
	return dst.tls == nil && s.ways[i].ended && s.ways[1-i].ended && !src.owes()
}

// settle sends what the destination is owed.
func (w *worker) settle(s *parked, i int) {
	dst := &s.legs[1-i]
	before := dst.owed()
	if err := w.flush(dst); err != nil {
		w.writeFailed(s, i, err)
	} else if dst.owed() < before {
		s.moved = w.now
	}
}

// move moves one buffer, and returns how much that was.
func (w *worker) move(s *parked, i int) int {
	y, src, dst := &s.ways[i], &s.legs[i], &s.legs[1-i]
	if y.bulk && !y.discards && src.tls == nil && dst.tls == nil {
		w.sweepSoon()
		if p := w.pipes.get(); p != nil {
			return w.moveByPipe(s, i, p)
		}
	}
	size := copySize
	if y.bulk {
		size = bulkSize
	}
	n, err := src.read(w.buf[:size])
	if n > 0 {
		if n == size {
			y.bulk = true
		}
		w.deliver(s, i, w.buf[:n])
	}
	if err != nil && err != errBlocked && !s.over {
		w.readEnded(s, i, err)
	}
	return n
}

// deliver sends bytes on their way.
func (w *worker) deliver(s *parked, i int, b []byte) {
	y := &s.ways[i]
	if y.discards {
		return
	}
	if err := w.send(&s.legs[1-i], b); err != nil {
		w.writeFailed(s, i, err)
		return
	}
	y.n.Add(int64(len(b)))
	s.moved = w.now
}

// moveByPipe lets the kernel move bytes through a pipe, which is given back
// unless the destination leaves something in it.
func (w *worker) moveByPipe(s *parked, i int, p *pipe) int {
	y, src, dst := &s.ways[i], &s.legs[i], &s.legs[1-i]
	n, err := p.fill(src.fd)
	if n > 0 {
		y.n.Add(int64(n))
		s.moved = w.now
		dst.pipe = p // the next step is settle's
		if !dst.writable {
			return n
		}
		w.settle(s, i)
		return n
	}
	w.pipes.put(p)
	switch {
	case err == unix.EAGAIN:
		src.readable = false
	case err == unix.EINVAL:
		w.pipes.limit = -1 // sockets that cannot do it
	default:
		if err == nil {
			err = io.EOF
		} else {
			err = os.NewSyscallError("splice", err)
		}
		w.readEnded(s, i, err)
	}
	return 0
}

// pour empties a leg's pipe, as far as the socket takes it.
func (w *worker) pour(l *leg) error {
	err := l.pipe.drain(l.fd)
	if err == unix.EAGAIN {
		l.writable = false
		return nil
	}
	if err == nil {
		w.pipes.put(l.pipe)
		l.pipe = nil
	}
	return err
}

// readEnded is called once for each direction, when its source has ended.
func (w *worker) readEnded(s *parked, i int, err error) {
	y := &s.ways[i]
	y.ended, y.fin = true, true
	s.legs[i].more = false
	err = orderly(err)
	switch {
	case i == 0 && err != nil:
		w.ends(s, FrontFailed, err)
		w.finish(s)
	case i == 0:
		w.ends(s, FrontClosed, nil)
		w.limitSilence(s, s.linger)
	case err != nil:
		w.ends(s, BackFailed, err)
		w.limitSilence(s, min(s.linger, farewell))
	default:
		w.ends(s, BackClosed, nil)
		w.limitSilence(s, min(s.linger, farewell))
	}
}

// writeFailed ends the way to a side that takes no more. What the backend still
// has to say is delivered; the client is read on, and not heard, since closing
// over unread bytes would take the last words from it.
func (w *worker) writeFailed(s *parked, i int, err error) {
	y, dst := &s.ways[i], &s.legs[1-i]
	y.broken = true
	w.drop(dst)
	if i == 1 {
		w.ends(s, FrontFailed, err)
		w.finish(s)
		return
	}
	y.discards = true
	w.ends(s, BackFailed, err)
	w.limitSilence(s, farewell)
}
