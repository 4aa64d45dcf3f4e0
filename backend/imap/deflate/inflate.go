package deflate

import (
	"bufio"
	"io"
)

// inflater decompresses (RFC 1951). It differs from the libraries' in one thing
// that a dialogue needs: whatever the peer has sent is given out before it waits
// for more. A peer may end its command in the middle of a byte (zlib's partial
// flush, which RFC 1979 §2.1 and many clients use): the end of a block is there
// then, but the block behind it is not, and a decompressor that looks ahead by
// as much as the shortest block waits for ever.
//
// One goroutine reads. Memory: the window and two codes, 36 KiB.
type inflater struct {
	in   *bufio.Reader
	bits uint64 // the next bits, the first lowest
	n    uint   // how many

	state  func(*inflater) error // reads on, until there is something to give out
	final  bool                  // the block is the last
	stored int                   // bytes left of a stored block
	lit    *code
	dist   *code
	own    [2]code // of a block with its own codes

	window [farthest]byte // the last bytes of what was decompressed
	pos    int            // where the next one goes
	back   int            // how many there are
	unread int            // how many of them were not given out
	err    error          // what ended it
}

// farthest is how far back a match may lie, and longest how long it may be
// (RFC 1951 §3.2.5).
const (
	farthest = 32 << 10
	longest  = 258
)

func newInflater(in *bufio.Reader) *inflater {
	return &inflater{in: in, state: (*inflater).block}
}

// Read implements io.Reader. It returns ErrDamaged for what is no compressed
// data, io.EOF behind a last block, and what the source returned otherwise.
func (d *inflater) Read(p []byte) (int, error) {
	for d.unread == 0 && d.err == nil {
		d.err = d.state(d)
	}
	if d.unread == 0 {
		return 0, d.err
	}
	n := 0
	for n < len(p) && d.unread > 0 {
		from := (d.pos - d.unread) & (farthest - 1)
		some := copy(p[n:], d.window[from:min(from+d.unread, farthest)])
		n += some
		d.unread -= some
	}
	return n, nil
}

// more waits for a byte of input.
func (d *inflater) more() error {
	c, err := d.in.ReadByte()
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	d.bits |= uint64(c) << d.n
	d.n += 8
	return nil
}

// take returns the next k bits, 16 at most, and waits for them.
func (d *inflater) take(k uint) (int, error) {
	for d.n < k {
		if err := d.more(); err != nil {
			return 0, err
		}
	}
	v := d.bits & (1<<k - 1)
	d.bits >>= k
	d.n -= k
	return int(v), nil
}

// room is how many bytes can be decompressed before some are given out.
func (d *inflater) room() int { return farthest - d.unread }

func (d *inflater) put(c byte) {
	d.window[d.pos] = c
	d.pos = (d.pos + 1) & (farthest - 1)
	d.back = min(d.back+1, farthest)
	d.unread++
}

// block reads the start of a block (RFC 1951 §3.2.3).
func (d *inflater) block() error {
	if d.final {
		return io.EOF
	}
	head, err := d.take(3)
	if err != nil {
		return err
	}
	d.final = head&1 == 1
	switch head >> 1 {
	case 0:
		return d.startStored()
	case 1:
		d.lit, d.dist = &fixedLit, &fixedDist
	case 2:
		if err := d.readCodes(); err != nil {
			return err
		}
		d.lit, d.dist = &d.own[0], &d.own[1]
	default:
		return ErrDamaged
	}
	d.state = (*inflater).symbols
	return nil
}

// startStored reads the length of a stored block (RFC 1951 §3.2.4).
func (d *inflater) startStored() error {
	if _, err := d.take(d.n & 7); err != nil {
		return err
	}
	length, err := d.take(16)
	if err != nil {
		return err
	}
	check, err := d.take(16)
	if err != nil {
		return err
	}
	if length != check^0xffff {
		return ErrDamaged
	}
	d.stored, d.state = length, (*inflater).copyStored
	return nil
}

func (d *inflater) copyStored() error {
	for ; d.stored > 0; d.stored-- {
		if d.room() == 0 || d.unread > 0 && d.n == 0 && d.in.Buffered() == 0 {
			return nil
		}
		c, err := d.take(8)
		if err != nil {
			return err
		}
		d.put(byte(c))
	}
	d.state = (*inflater).block
	return nil
}

// symbols decompresses a block with codes, as far as it goes without waiting
// once there is something to give out.
func (d *inflater) symbols() error {
	for d.room() >= longest {
		for d.n <= 56 && d.in.Buffered() > 0 {
			if err := d.more(); err != nil {
				return err
			}
		}
		s, used := d.next()
		switch {
		case used < 0:
			return ErrDamaged
		case used > 0:
			d.bits >>= uint(used)
			d.n -= uint(used)
		case d.unread > 0:
			return nil
		default:
			if err := d.more(); err != nil {
				return err
			}
			continue
		}
		switch {
		case s.length == 1:
			d.put(s.literal)
		case s.length == 0:
			d.state = (*inflater).block
			return nil
		case s.distance > d.back:
			return ErrDamaged
		default:
			for range s.length {
				d.put(d.window[(d.pos-s.distance)&(farthest-1)])
			}
		}
	}
	return nil
}

// symbol is a literal (length 1), a match, or the end of the block (length 0).
type symbol struct {
	literal  byte
	length   int
	distance int
}

// next reads the next symbol, with everything that belongs to it, and returns
// how many bits it has: none when they are not all there yet, less than none
// when there is no such symbol. It has 48 at most.
func (d *inflater) next() (symbol, int) {
	v, used := d.lit.find(d.bits, d.n)
	switch {
	case used <= 0:
		return symbol{}, used
	case v < 256:
		return symbol{literal: byte(v), length: 1}, used
	case v == 256:
		return symbol{}, used
	case v-257 >= len(lengths):
		return symbol{}, -1
	}
	at := uint(used)
	extra := lengths[v-257]
	length := int(extra.base) + int(d.bits>>at&(1<<extra.bits-1))
	at += extra.bits
	if at > d.n {
		return symbol{}, 0
	}
	v, used = d.dist.find(d.bits>>at, d.n-at)
	if used <= 0 {
		return symbol{}, used
	}
	if v >= len(distances) {
		return symbol{}, -1
	}
	at += uint(used)
	extra = distances[v]
	distance := int(extra.base) + int(d.bits>>at&(1<<extra.bits-1))
	at += extra.bits
	if at > d.n {
		return symbol{}, 0
	}
	return symbol{length: length, distance: distance}, int(at)
}
