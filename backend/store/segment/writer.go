package segment

import (
	"errors"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// streamAbove is the size of a body above which its frames are not collected
// in memory: they go to the file one by one, alone, then a sync of their own.
const streamAbove = 1 << 20

// maxGroup bounds the bytes of one group commit.
const maxGroup = 16 << 20

// file is a segment that is written to. The goroutine that leads the writer
// owns it.
type file struct {
	id  uint32
	f   vfs.File
	end int64 // of the last whole record
}

// writer appends to one segment at a time. Appends that arrive while the disk
// is busy form a group, which one of them, the leader, writes and syncs for
// all.
type writer struct {
	set *Set

	mu      sync.Mutex
	pending []*entry
	led     bool // somebody leads
	closed  bool
	idle    sync.Cond // signalled when nobody leads any more

	// The leader's:
	cur    *file // nil: the next append makes one
	broken error // a sync failed
}

// entry is one append. Before wake receives, the leader owns it.
type entry struct {
	rec   []byte // a whole record, or nil:
	write func(*file) (int64, error)

	place Place
	err   error
	lead  bool // woken to lead, not because it is done
	wake  chan struct{}
}

// SourceError says that the body could not be read from where the caller has
// it; the disk is not to blame.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return "read the body: " + e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }

func newWriter(s *Set, f *file) *writer {
	w := &writer{set: s, cur: f}
	w.idle.L = &w.mu
	return w
}

// Append writes a body and returns its place when it is on disk. The caller
// calls Unpin once a durable reference to it exists or will never exist. shard
// spreads the load over the writers. An error has changed
// nothing; it is a *SourceError when it came from body.
func (s *Set) Append(shard uint8, info Info, body io.ReaderAt, size int64) (Place, error) {
	e := &entry{wake: make(chan struct{}, 1)}
	if size <= streamAbove {
		rec, err := s.encode(&info, body, size)
		if err != nil {
			return Place{}, err
		}
		e.rec = rec
	} else {
		e.write = func(f *file) (int64, error) { return s.stream(f, &info, body, size) }
	}
	w := s.writers[int(shard)%len(s.writers)]
	w.do(e)
	e.place.Size = size
	return e.place, e.err
}

// do queues an entry and returns when it has been written.
func (w *writer) do(e *entry) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		e.err = ErrClosed
		return
	}
	w.pending = append(w.pending, e)
	if w.led {
		w.mu.Unlock()
		<-e.wake
		if !e.lead {
			return
		}
		w.mu.Lock()
	}
	w.led = true
	group := w.takeGroup()
	w.mu.Unlock()

	w.commit(group)

	w.mu.Lock()
	for _, other := range group {
		if other != e {
			other.lead = false
			other.wake <- struct{}{}
		}
	}
	if len(w.pending) > 0 {
		w.pending[0].lead = true
		w.pending[0].wake <- struct{}{}
	} else {
		w.led = false
		w.idle.Broadcast()
	}
	w.mu.Unlock()
}

// takeGroup takes the entries that the next commit writes; the leader's is the
// first. A streamed body goes alone.
func (w *writer) takeGroup() []*entry {
	n, bytes := 0, 0
	for n < len(w.pending) && bytes < maxGroup && (n == 0 || w.pending[n].rec != nil) {
		bytes += len(w.pending[n].rec)
		n++
		if w.pending[0].rec == nil {
			break
		}
	}
	group := w.pending[:n:n]
	w.pending = append([]*entry(nil), w.pending[n:]...)
	return group
}

// commit writes and syncs a group.
func (w *writer) commit(group []*entry) {
	fail := func(err error) {
		for _, e := range group {
			e.err = err
		}
	}
	if w.cur != nil && w.cur.end >= w.set.opts.Limit && w.broken == nil {
		w.seal()
	}
	if w.broken != nil {
		fail(w.broken)
		return
	}
	if w.cur == nil {
		f, err := w.set.create()
		if err != nil {
			fail(err)
			return
		}
		w.cur = f
	}
	end, err := w.write(group)
	if err != nil {
		// What was written stays behind the end, and is written over.
		fail(err)
		return
	}
	if err := w.cur.f.SyncData(); err != nil {
		w.breakDown(err)
		fail(w.broken)
		return
	}
	w.cur.end = end
	w.set.mu.Lock()
	w.set.pins[w.cur.id] += len(group)
	w.set.mu.Unlock()
}

// write puts the group's records behind the end and gives them their places.
func (w *writer) write(group []*entry) (end int64, err error) {
	f := w.cur
	if group[0].rec == nil {
		length, err := group[0].write(f)
		group[0].place = Place{Segment: f.id, Offset: f.end, Length: length}
		return f.end + length, err
	}
	buf := group[0].rec
	off := f.end
	for i, e := range group {
		e.place = Place{Segment: f.id, Offset: off, Length: int64(len(e.rec))}
		off += int64(len(e.rec))
		if i > 0 {
			buf = append(buf, e.rec...)
		}
	}
	_, err = f.f.WriteAt(buf, f.end)
	return off, err
}

// seal marks the segment as complete and leaves it. It is the leader's to call.
// A seal that does not get to the disk costs a scan at the next start.
func (w *writer) seal() {
	f := w.cur
	w.cur = nil
	mark := sealMark(f.end)
	_, err := f.f.WriteAt(mark, f.end)
	if err == nil {
		err = f.f.SyncData()
		if err != nil {
			w.breakDown(err)
		}
	}
	f.f.Close()
	w.set.mu.Lock()
	w.set.sealed[f.id] = true
	w.set.sizes[f.id] = f.end + int64(len(mark))
	w.set.mu.Unlock()
}

// breakDown ends the process after a failed sync. Where the hook returns (in a
// test) the writer refuses everything from then on.
func (w *writer) breakDown(err error) {
	w.broken = errors.Join(ErrClosed, err)
	w.set.opts.Fatal(err)
}

// close waits for the appends under way, refuses later ones and closes the
// file.
func (w *writer) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for w.led {
		w.idle.Wait()
	}
	if w.cur == nil {
		return nil
	}
	f := w.cur.f
	w.cur = nil
	return f.Close()
}

// encode makes the record of a small body in memory.
func (s *Set) encode(info *Info, body io.ReaderAt, size int64) ([]byte, error) {
	raw := make([]byte, min(size, FrameSize))
	b := appendHead(make([]byte, 0, 512+size), info, size)
	var words []uint32
	for n := range frames(size) {
		part := raw[:rawLen(size, n)]
		if err := readFull(body, part, n*FrameSize); err != nil {
			return nil, &SourceError{err}
		}
		var word uint32
		b, word = appendFrame(b, s.enc, info.GUID, n, part)
		words = append(words, word)
	}
	return appendTail(b, info.GUID, words), nil
}

// stream writes the record of a big body frame by frame.
func (s *Set) stream(f *file, info *Info, body io.ReaderAt, size int64) (int64, error) {
	off := f.end
	put := func(b []byte) error {
		_, err := f.f.WriteAt(b, off)
		off += int64(len(b))
		return err
	}
	if err := put(appendHead(nil, info, size)); err != nil {
		return 0, err
	}
	raw := make([]byte, FrameSize)
	var out []byte
	var words []uint32
	for n := range frames(size) {
		part := raw[:rawLen(size, n)]
		if err := readFull(body, part, n*FrameSize); err != nil {
			return 0, &SourceError{err}
		}
		var word uint32
		out, word = appendFrame(out[:0], s.enc, info.GUID, n, part)
		words = append(words, word)
		if err := put(out); err != nil {
			return 0, err
		}
	}
	if err := put(appendTail(nil, info.GUID, words)); err != nil {
		return 0, err
	}
	return off - f.end, nil
}

// readFull reads part, whole, from an offset of the body.
func readFull(body io.ReaderAt, part []byte, off int64) error {
	n, err := body.ReadAt(part, off)
	if n == len(part) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
