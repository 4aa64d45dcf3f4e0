package segment

import (
	"bytes"
	"fmt"
	"io"
)

// Size returns the length of a sealed segment, zero when there is none.
func (s *Set) Size(id uint32) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sizes[id]
}

// Records reads a sealed segment and calls each for every record, in their
// order. ErrDamaged says that some of it is not as it was written: each has
// been called for the records before that. It reads every byte.
func (s *Set) Records(id uint32, each func(Info, Place) error) error {
	h, err := s.files.get(id)
	if err != nil {
		return err
	}
	defer h.release()
	want := s.Size(id) - sealLen
	end, err := Scan(h.f, want, func(info Info, p Place) error {
		p.Segment = id
		return each(info, p)
	})
	if err != nil {
		return err
	}
	if end != want {
		return fmt.Errorf("segment %d at %d: %w", id, end, ErrDamaged)
	}
	return nil
}

// Copy copies records of sealed segments, byte for byte, into a segment that
// nothing else is written to, and returns their new places when they are on
// disk, pinned like those of Append. Records that are damaged are not copied
// but an error, and so is everything with them. One call works at a time. It
// keeps the records in memory that are no longer than a megabyte: the caller
// bounds their sum.
func (s *Set) Copy(from []Place) ([]Place, error) {
	s.copying.Lock()
	defer s.copying.Unlock()
	entries := make([]*entry, 0, len(from))
	for _, p := range from {
		h, err := s.files.get(p.Segment)
		if err != nil {
			return nil, err
		}
		defer h.release()
		e := &entry{}
		if p.Length > streamAbove {
			e.write = func(f *file) (int64, error) { return copyRecord(f, h, p) }
		} else {
			e.rec = make([]byte, p.Length)
			if err := readFull(h.f, e.rec, p.Offset); err != nil {
				return nil, err
			}
			if err := whole(bytes.NewReader(e.rec), 0, p.Length); err != nil {
				return nil, err
			}
		}
		entries = append(entries, e)
	}
	s.copier.doAll(entries)
	to := make([]Place, len(entries))
	var failed error
	for i, e := range entries {
		e.place.Size = from[i].Size
		to[i] = e.place
		if e.err != nil {
			failed = e.err
		}
	}
	if failed == nil {
		return to, nil
	}
	for i, e := range entries {
		if e.err == nil {
			s.Unpin(to[i])
		}
	}
	return nil, failed
}

// whole checks that there is one record of this length at a place.
func whole(r io.ReaderAt, off, length int64) error {
	sc := &scanner{r: r, size: off + length}
	_, p, err := sc.next(off)
	if err == nil && p.Length != length {
		err = fmt.Errorf("record at %d: %w", off, ErrDamaged)
	}
	return err
}

// copyRecord writes a record behind the end of a file, and reads it again there
// to check it.
func copyRecord(f *file, h *handle, p Place) (int64, error) {
	buf := make([]byte, FrameSize)
	for done := int64(0); done < p.Length; {
		part := buf[:min(p.Length-done, FrameSize)]
		if err := readFull(h.f, part, p.Offset+done); err != nil {
			return 0, err
		}
		if _, err := f.f.WriteAt(part, f.end+done); err != nil {
			return 0, err
		}
		done += int64(len(part))
	}
	return p.Length, whole(f.f, f.end, p.Length)
}

// doAll writes entries in groups. Nobody else uses the writer meanwhile.
func (w *writer) doAll(entries []*entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		for _, e := range entries {
			e.err = ErrClosed
		}
		return
	}
	w.led = true
	w.pending = entries
	for len(w.pending) > 0 {
		group := w.takeGroup()
		w.mu.Unlock()
		w.commit(group)
		w.mu.Lock()
	}
	w.led = false
	w.idle.Broadcast()
}
