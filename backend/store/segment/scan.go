package segment

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/zeebo/xxh3"
)

const (
	sealMagic = "\xf5SWE"
	sealLen   = 4 + 8 + sumLen
)

// sealMark is what stands behind the last record of a sealed segment.
func sealMark(end int64) []byte {
	b := binary.LittleEndian.AppendUint64([]byte(sealMagic), uint64(end))
	sum := xxh3.Hash128(b).Bytes()
	return append(b, sum[:]...)
}

// isSealed reports whether a segment of this size ends in its seal.
func isSealed(r io.ReaderAt, size int64) bool {
	if size < sealLen {
		return false
	}
	var b [sealLen]byte
	if err := readFull(r, b[:], size-sealLen); err != nil {
		return false
	}
	return string(b[:]) == string(sealMark(size-sealLen))
}

// Scan reads a segment from its beginning and calls each, which may be nil, for
// every record. It returns the end of the last whole record; bytes behind it
// are no record. The error is the disk's or each's. Memory is bounded by a
// frame and the tail of one record (16 bytes for each megabyte of its body).
func Scan(r io.ReaderAt, size int64, each func(Info, Place) error) (end int64, err error) {
	sc := &scanner{r: r, size: size}
	for {
		info, p, err := sc.next(end)
		if err != nil {
			return end, err
		}
		if p.Length == 0 {
			return end, nil
		}
		if each != nil {
			if err := each(info, p); err != nil {
				return end, err
			}
		}
		end = p.Offset + p.Length
	}
}

type scanner struct {
	r    io.ReaderAt
	size int64
	buf  []byte
}

// read reads n bytes at off; ok is false when they are not there.
func (sc *scanner) read(off, n int64) (b []byte, ok bool, err error) {
	if n < 0 || off > sc.size-n {
		return nil, false, nil
	}
	if int64(cap(sc.buf)) < n {
		sc.buf = make([]byte, n)
	}
	b = sc.buf[:n]
	if err := readFull(sc.r, b, off); err != nil {
		return nil, false, fmt.Errorf("read at %d: %w", off, err)
	}
	return b, true, nil
}

// next reads the record at off. A zero Place says that there is none.
func (sc *scanner) next(off int64) (info Info, p Place, err error) {
	head, ok, err := sc.read(off, headLen)
	if !ok {
		return info, p, err
	}
	metaLen, size, bad := parseHead(head)
	if bad != nil || frames(size) > sc.size/frameLen {
		return info, p, nil
	}
	head, ok, err = sc.read(off, headLen+int64(metaLen))
	if !ok {
		return info, p, err
	}
	if info, bad = parseInfo(head); bad != nil {
		return info, p, nil
	}
	at := off + headLen + int64(metaLen)
	var words []byte
	for n := range frames(size) {
		front, ok, err := sc.read(at, frameLen)
		if !ok {
			return info, p, err
		}
		word := binary.LittleEndian.Uint32(front)
		length, _ := stored(word)
		if length > FrameSize {
			return info, p, nil
		}
		frame, ok, err := sc.read(at, frameLen+length)
		if !ok {
			return info, p, err
		}
		if sum := frameSum(info.GUID, n, word, frame[frameLen:]); string(sum[:]) != string(frame[4:frameLen]) {
			return info, p, nil
		}
		words = binary.LittleEndian.AppendUint32(words, word)
		at += frameLen + length
	}
	tail, ok, err := sc.read(at, tailLen(size))
	if !ok {
		return info, p, err
	}
	sum := tailSum(info.GUID, words)
	if string(tail) != string(words)+string(sum[:]) {
		return info, p, nil
	}
	return info, Place{Offset: off, Length: at + int64(len(tail)) - off, Size: size}, nil
}
