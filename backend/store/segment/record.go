package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"switchyard/backend"
	"switchyard/backend/effect/pack"
)

// A record on disk, numbers little-endian:
//
//	head   magic 4 | length of meta 4 | size of body 8 | xxh3-128 of head and meta 16
//	meta   guid 16 | mailbox 16 | internal date | user | flags
//	frames one for each FrameSize bytes of the body:
//	       word 4 (stored length, top bit: compressed) | xxh3-128 16 | stored bytes
//	tail   word of each frame, 4 each | xxh3-128 of the words 16
//
// Every checksum begins with the GUID (a frame's also with its number), so
// that bytes of another record are never taken for this one's.
const (
	// FrameSize is how much of a body is compressed and checked as one: what
	// reading one byte costs in memory.
	FrameSize = 256 << 10

	headLen  = 32
	sumLen   = 16
	frameLen = 4 + sumLen // in front of a frame's bytes
	maxMeta  = 64 << 10   // bounds what a damaged head can ask for
	packed   = 1 << 31    // in a frame's word: zstd
)

const magic = "\xf5SW1"

// ErrDamaged says that bytes on disk are not what was written.
var ErrDamaged = errors.New("damaged body record")

// Info is what a record says about its body, enough to find a home for it if
// all else were lost.
type Info struct {
	GUID         backend.GUID
	Mailbox      backend.GUID // at delivery
	User         string
	InternalDate time.Time
	Flags        []string
}

func frames(size int64) int64 { return (size + FrameSize - 1) / FrameSize }

func tailLen(size int64) int64 { return 4*frames(size) + sumLen }

// rawLen is the length of frame n's bytes before compression.
func rawLen(size, n int64) int { return int(min(size-n*FrameSize, FrameSize)) }

// appendHead appends head and meta of a record.
func appendHead(b []byte, info *Info, size int64) []byte {
	start := len(b)
	b = append(b, magic...)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(size))
	b = append(b, make([]byte, sumLen)...)
	b = append(b, info.GUID[:]...)
	b = append(b, info.Mailbox[:]...)
	b = pack.Int(b, info.InternalDate.Unix())
	b = pack.String(b, info.User)
	b = pack.Strings(b, info.Flags)
	head := b[start:]
	binary.LittleEndian.PutUint32(head[4:], uint32(len(head)-headLen))
	sum := headSum(head)
	copy(head[16:], sum[:])
	return b
}

func headSum(head []byte) [sumLen]byte {
	h := xxh3.New()
	h.Write(head[:16])
	h.Write(head[headLen:])
	return h.Sum128().Bytes()
}

// parseHead reads the fixed part of a head.
func parseHead(head []byte) (metaLen int, size int64, err error) {
	if len(head) < headLen || string(head[:4]) != magic {
		return 0, 0, fmt.Errorf("%w: no head", ErrDamaged)
	}
	metaLen = int(binary.LittleEndian.Uint32(head[4:]))
	n := binary.LittleEndian.Uint64(head[8:])
	if metaLen > maxMeta || n > 1<<62 {
		return 0, 0, fmt.Errorf("%w: head out of range", ErrDamaged)
	}
	return metaLen, int64(n), nil
}

// parseInfo reads head and meta, whole, and checks them.
func parseInfo(head []byte) (Info, error) {
	var info Info
	if sum := headSum(head); string(sum[:]) != string(head[16:headLen]) {
		return info, fmt.Errorf("%w: checksum of head", ErrDamaged)
	}
	in := pack.NewReader(head[headLen:])
	in.Fill(info.GUID[:])
	in.Fill(info.Mailbox[:])
	info.InternalDate = time.Unix(in.Int(), 0).UTC()
	info.User = in.String()
	info.Flags = in.Strings()
	if err := in.End(); err != nil {
		return info, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	return info, nil
}

func frameSum(guid backend.GUID, n int64, word uint32, stored []byte) [sumLen]byte {
	var pre [28]byte
	copy(pre[:], guid[:])
	binary.LittleEndian.PutUint64(pre[16:], uint64(n))
	binary.LittleEndian.PutUint32(pre[24:], word)
	h := xxh3.New()
	h.Write(pre[:])
	h.Write(stored)
	return h.Sum128().Bytes()
}

func tailSum(guid backend.GUID, words []byte) [sumLen]byte {
	h := xxh3.New()
	h.Write(guid[:])
	h.Write(words)
	return h.Sum128().Bytes()
}

// appendFrame appends frame n of a body, compressed where that gains at least
// a twentieth, and returns its word.
func appendFrame(b []byte, enc *zstd.Encoder, guid backend.GUID, n int64, raw []byte) ([]byte, uint32) {
	start := len(b)
	b = append(b, make([]byte, frameLen)...)
	b = enc.EncodeAll(raw, b)
	word := uint32(len(b)-start-frameLen) | packed
	if stored := len(b) - start - frameLen; stored > len(raw)-len(raw)/20 {
		b = append(b[:start+frameLen], raw...)
		word = uint32(len(raw))
	}
	binary.LittleEndian.PutUint32(b[start:], word)
	sum := frameSum(guid, n, word, b[start+frameLen:])
	copy(b[start+4:], sum[:])
	return b, word
}

func appendTail(b []byte, guid backend.GUID, words []uint32) []byte {
	start := len(b)
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	sum := tailSum(guid, b[start:])
	return append(b, sum[:]...)
}

// stored splits a word.
func stored(word uint32) (length int64, compressed bool) {
	return int64(word &^ packed), word&packed != 0
}

// openFrame checks a frame as it is on disk (with its word and checksum) and
// returns its bytes in their first form, in into's space where that suffices.
func openFrame(dec *zstd.Decoder, into []byte, guid backend.GUID, n int64, want int, disk []byte) ([]byte, error) {
	if len(disk) < frameLen {
		return nil, fmt.Errorf("%w: short frame", ErrDamaged)
	}
	word := binary.LittleEndian.Uint32(disk)
	body := disk[frameLen:]
	length, compressed := stored(word)
	sum := frameSum(guid, n, word, body)
	if length != int64(len(body)) || string(sum[:]) != string(disk[4:frameLen]) {
		return nil, fmt.Errorf("%w: checksum of frame %d", ErrDamaged, n)
	}
	if !compressed {
		body = append(into[:0], body...)
	} else {
		var err error
		if body, err = dec.DecodeAll(body, into[:0]); err != nil {
			return nil, fmt.Errorf("%w: frame %d: %v", ErrDamaged, n, err)
		}
	}
	if len(body) != want {
		return nil, fmt.Errorf("%w: frame %d has %d bytes, want %d", ErrDamaged, n, len(body), want)
	}
	return body, nil
}
