package deflate

import "math/bits"

// code is a prefix code (RFC 1951 §3.2.2).
type code struct {
	fast   [1 << fastBits]uint16 // by the next bits: symbol<<4 | length; zero for longer ones
	count  [maxBits + 1]uint16   // symbols of each length
	symbol [288]uint16           // in the order of their codes
}

const (
	fastBits = 9
	maxBits  = 15
)

// set makes the code of the symbols' lengths; zero is for a symbol that does not
// occur. It reports whether the lengths are those of a code: one that leaves
// codes unused only when it has one symbol or none.
func (c *code) set(lengths []uint8) bool {
	*c = code{}
	for _, n := range lengths {
		c.count[n]++
	}
	c.count[0] = 0
	var start, next [maxBits + 1]uint16 // indices of symbols, codes
	left, used := 1, 0
	for n := 1; n <= maxBits; n++ {
		left = left<<1 - int(c.count[n])
		if left < 0 {
			return false
		}
		start[n] = uint16(used)
		used += int(c.count[n])
		next[n] = (next[n-1] + c.count[n-1]) << 1
	}
	if left > 0 && used > 0 && (used > 1 || c.count[1] != 1) {
		return false
	}
	for s, n := range lengths {
		if n == 0 {
			continue
		}
		c.symbol[start[n]] = uint16(s)
		start[n]++
		if n <= fastBits {
			first := bits.Reverse16(next[n]) >> (16 - n)
			for i := int(first); i < len(c.fast); i += 1 << n {
				c.fast[i] = uint16(s)<<4 | uint16(n)
			}
		}
		next[n]++
	}
	return true
}

// find reads a symbol from n bits, the first lowest, and returns how many it
// has: none when they are not all there, less than none when no symbol begins
// like that.
func (c *code) find(b uint64, n uint) (symbol, used int) {
	if e := c.fast[b&(1<<fastBits-1)]; e != 0 && uint(e&15) <= n {
		return int(e >> 4), int(e & 15)
	}
	at, first, index := 0, 0, 0
	for k := 1; k <= maxBits; k++ {
		if uint(k) > n {
			return 0, 0
		}
		at |= int(b & 1)
		b >>= 1
		count := int(c.count[k])
		if at-first < count {
			return int(c.symbol[index+at-first]), k
		}
		index += count
		first = (first + count) << 1
		at <<= 1
	}
	return 0, -1
}

// extra says what a symbol stands for: base and the value of some bits behind.
type extra struct {
	base uint16
	bits uint
}

// The lengths of symbols 257 to 285, and the distances (RFC 1951 §3.2.5).
var (
	lengths = [...]extra{
		{3, 0}, {4, 0}, {5, 0}, {6, 0}, {7, 0}, {8, 0}, {9, 0}, {10, 0},
		{11, 1}, {13, 1}, {15, 1}, {17, 1}, {19, 2}, {23, 2}, {27, 2}, {31, 2},
		{35, 3}, {43, 3}, {51, 3}, {59, 3}, {67, 4}, {83, 4}, {99, 4}, {115, 4},
		{131, 5}, {163, 5}, {195, 5}, {227, 5}, {258, 0},
	}
	distances = [...]extra{
		{1, 0}, {2, 0}, {3, 0}, {4, 0}, {5, 1}, {7, 1}, {9, 2}, {13, 2},
		{17, 3}, {25, 3}, {33, 4}, {49, 4}, {65, 5}, {97, 5}, {129, 6}, {193, 6},
		{257, 7}, {385, 7}, {513, 8}, {769, 8}, {1025, 9}, {1537, 9}, {2049, 10}, {3073, 10},
		{4097, 11}, {6145, 11}, {8193, 12}, {12289, 12}, {16385, 13}, {24577, 13},
	}
)

// The codes of blocks without their own (RFC 1951 §3.2.6).
var fixedLit, fixedDist = fixedCodes()

func fixedCodes() (lit, dist code) {
	var n [288]uint8
	for s := range n {
		switch {
		case s < 144, s >= 280:
			n[s] = 8
		case s < 256:
			n[s] = 9
		default:
			n[s] = 7
		}
	}
	lit.set(n[:])
	for s := range 32 {
		n[s] = 5
	}
	dist.set(n[:32])
	return lit, dist
}

// order is how the lengths of the code of lengths stand (RFC 1951 §3.2.7).
var order = [...]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// readCodes reads a block's own codes (RFC 1951 §3.2.7). It waits for them.
func (d *inflater) readCodes() error {
	head, err := d.take(14)
	if err != nil {
		return err
	}
	lits, dists, coded := head&31+257, head>>5&31+1, head>>10+4
	if lits > 286 || dists > 30 {
		return ErrDamaged
	}
	var all [286 + 30]uint8
	for _, s := range order[:coded] {
		n, err := d.take(3)
		if err != nil {
			return err
		}
		all[s] = uint8(n)
	}
	if !d.own[0].set(all[:19]) {
		return ErrDamaged
	}
	clear(all[:19])
	for i := 0; i < lits+dists; {
		some, n, err := d.readLength(all[max(i-1, 0)], i == 0)
		if err != nil {
			return err
		}
		if i+some > lits+dists {
			return ErrDamaged
		}
		for ; some > 0; some-- {
			all[i] = n
			i++
		}
	}
	if !d.own[0].set(all[:lits]) || !d.own[1].set(all[lits:lits+dists]) {
		return ErrDamaged
	}
	return nil
}

// readLength reads one length, and how often it occurs in a row.
func (d *inflater) readLength(before uint8, first bool) (times int, length uint8, err error) {
	s, used := d.own[0].find(d.bits, d.n)
	for ; used == 0; s, used = d.own[0].find(d.bits, d.n) {
		if err := d.more(); err != nil {
			return 0, 0, err
		}
	}
	if used < 0 || s == 16 && first {
		return 0, 0, ErrDamaged
	}
	d.bits >>= uint(used)
	d.n -= uint(used)
	switch s {
	case 16:
		times, err = d.take(2)
		return times + 3, before, err
	case 17:
		times, err = d.take(3)
		return times + 3, 0, err
	case 18:
		times, err = d.take(7)
		return times + 11, 0, err
	}
	return 1, uint8(s), nil
}
