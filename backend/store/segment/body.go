package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"switchyard/backend"
)

// Body is one record opened for reading. It keeps at most one frame of the
// body and one as it is on disk in memory. Safe for concurrent use.
type Body struct {
	set   *Set
	h     *handle
	place Place
	info  Info

	mu    sync.Mutex
	at    int64    // where the frames begin
	words []uint32 // of the frames
	offs  []int64  // of the frames, from at
	frame int64    // the one in raw; -1: none
	raw   []byte
	disk  []byte
}

// Body opens the record at a place, which must be that of guid. Errors:
// ErrDamaged; one for which errors.Is(err, os.ErrNotExist) when the segment is
// gone.
func (s *Set) Body(p Place, guid backend.GUID) (*Body, error) {
	if p.Length < headLen+tailLen(p.Size) || p.Offset < 0 {
		return nil, fmt.Errorf("%w: impossible place", ErrDamaged)
	}
	h, err := s.files.get(p.Segment)
	if err != nil {
		return nil, err
	}
	b := &Body{set: s, h: h, place: p, frame: -1}
	if err := b.load(guid); err != nil {
		b.Close()
		return nil, fmt.Errorf("segment %d at %d: %w", p.Segment, p.Offset, err)
	}
	return b, nil
}

// load reads and checks what surrounds the frames. A record of one frame is
// read whole, so that a small body costs one read.
func (b *Body) load(guid backend.GUID) error {
	p := b.place
	var front []byte
	if frames(p.Size) <= 1 && p.Length <= headLen+maxMeta+frameLen+FrameSize+tailLen(p.Size) {
		front = make([]byte, p.Length)
	} else {
		front = make([]byte, min(headLen+512, p.Length))
	}
	if err := b.read(front, 0); err != nil {
		return err
	}
	metaLen, size, err := parseHead(front)
	if err != nil {
		return err
	}
	b.at = headLen + int64(metaLen)
	if size != p.Size || b.at+tailLen(size) > p.Length {
		return fmt.Errorf("%w: another record", ErrDamaged)
	}
	head := front
	if int64(len(head)) < b.at {
		head = make([]byte, b.at)
		if err := b.read(head, 0); err != nil {
			return err
		}
	}
	if b.info, err = parseInfo(head[:b.at]); err != nil {
		return err
	}
	if b.info.GUID != guid {
		return fmt.Errorf("%w: another record", ErrDamaged)
	}
	var tail []byte
	if int64(len(front)) == p.Length {
		tail = front[p.Length-tailLen(size):]
	} else {
		tail = make([]byte, tailLen(size))
		if err := b.read(tail, p.Length-tailLen(size)); err != nil {
			return err
		}
	}
	if err := b.loadTail(tail); err != nil {
		return err
	}
	if int64(len(front)) == p.Length && len(b.words) == 1 {
		return b.open(0, front[b.at:p.Length-int64(len(tail))])
	}
	return nil
}

// loadTail learns where the frames are.
func (b *Body) loadTail(tail []byte) error {
	words := tail[:len(tail)-sumLen]
	if sum := tailSum(b.info.GUID, words); string(sum[:]) != string(tail[len(words):]) {
		return fmt.Errorf("%w: checksum of tail", ErrDamaged)
	}
	var off int64
	for ; len(words) > 0; words = words[4:] {
		w := binary.LittleEndian.Uint32(words)
		length, _ := stored(w)
		b.words, b.offs = append(b.words, w), append(b.offs, off)
		off += frameLen + length
	}
	if b.at+off+int64(len(tail)) != b.place.Length {
		return fmt.Errorf("%w: lengths disagree", ErrDamaged)
	}
	return nil
}

// read reads from an offset of the record.
func (b *Body) read(into []byte, off int64) error {
	err := readFull(b.h.f, into, b.place.Offset+off)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: segment is too short", ErrDamaged)
	}
	return err
}

// open puts frame n, as it is on disk, into raw.
func (b *Body) open(n int64, disk []byte) error {
	b.frame = -1
	raw, err := openFrame(b.set.dec, b.raw, b.info.GUID, n, rawLen(b.place.Size, n), disk)
	if err != nil {
		return err
	}
	b.raw, b.frame = raw, n
	return nil
}

// Size returns the length of the body.
func (b *Body) Size() int64 { return b.place.Size }

// Info returns what the record says about the body.
func (b *Body) Info() Info { return b.info }

// ReadAt implements io.ReaderAt. Damage is ErrDamaged, never wrong bytes.
func (b *Body) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for n < len(p) && off < b.place.Size {
		if err := b.seek(off / FrameSize); err != nil {
			return n, err
		}
		c := copy(p[n:], b.raw[off%FrameSize:])
		n, off = n+c, off+int64(c)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// seek makes frame n the one in memory.
func (b *Body) seek(n int64) error {
	if b.frame == n {
		return nil
	}
	if b.h == nil {
		return errors.New("body is closed")
	}
	length, _ := stored(b.words[n])
	if length > FrameSize {
		return fmt.Errorf("%w: frame %d too long", ErrDamaged, n)
	}
	if int64(cap(b.disk)) < frameLen+length {
		b.disk = make([]byte, frameLen+FrameSize)
	}
	b.disk = b.disk[:frameLen+length]
	if err := b.read(b.disk, b.at+b.offs[n]); err != nil {
		return err
	}
	return b.open(n, b.disk)
}

// Close lets go of the segment. It may be called more than once.
func (b *Body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.h != nil {
		b.h.release()
		b.h, b.frame, b.raw, b.disk = nil, -1, nil, nil
	}
	return nil
}
