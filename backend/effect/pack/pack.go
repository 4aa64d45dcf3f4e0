// Package pack writes and reads the fields of small binary records: the log of
// effects, the rows of the store and the heads of its segments.
//
// Writing is plain appending to a slice. Reading is bounded: a length is
// believed only as far as bytes are there, so that a damaged or hostile record
// costs no more memory than its own size.
package pack

import (
	"encoding/binary"
	"errors"
)

// ErrShort says that a record ends before its fields do, or that a length in
// it cannot be true.
var ErrShort = errors.New("record is cut short")

// Uint appends an unsigned number of variable length.
func Uint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

// Int appends a signed number of variable length.
func Int(b []byte, v int64) []byte { return binary.AppendVarint(b, v) }

// Bool appends a truth value.
func Bool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// String appends a string behind its length.
func String(b []byte, s string) []byte { return append(Uint(b, uint64(len(s))), s...) }

// Bytes appends bytes behind their length.
func Bytes(b, v []byte) []byte { return append(Uint(b, uint64(len(v))), v...) }

// Strings appends a list of strings behind its length.
func Strings(b []byte, list []string) []byte {
	b = Uint(b, uint64(len(list)))
	for _, s := range list {
		b = String(b, s)
	}
	return b
}

// Reader reads fields in the order in which they were written. After the
// first error every method returns zero values; ask Err once at the end.
type Reader struct {
	rest []byte
	err  error
}

// NewReader reads from b, which it keeps.
func NewReader(b []byte) *Reader { return &Reader{rest: b} }

// Reset makes the reader read from b, which it keeps.
func (r *Reader) Reset(b []byte) { r.rest, r.err = b, nil }

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// Fail records an error of the caller's own, unless there is one already.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err, r.rest = err, nil
	}
}

// Len returns how many bytes are left.
func (r *Reader) Len() int { return len(r.rest) }

// End returns the first error, and an error when bytes are left over.
func (r *Reader) End() error {
	if r.err == nil && len(r.rest) > 0 {
		r.err = errors.New("record has bytes behind its end")
	}
	return r.err
}

// Uint reads what Uint wrote.
func (r *Reader) Uint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.Fail(ErrShort)
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// Uint32 reads a number that must fit 32 bits.
func (r *Reader) Uint32() uint32 {
	v := r.Uint()
	if v > 1<<32-1 {
		r.Fail(errors.New("number does not fit 32 bits"))
		return 0
	}
	return uint32(v)
}

// Int reads what Int wrote.
func (r *Reader) Int() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.Fail(ErrShort)
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// Size reads an unsigned number that must fit a non-negative int64.
func (r *Reader) Size() int64 {
	v := r.Uint()
	if v > 1<<63-1 {
		r.Fail(errors.New("size out of range"))
		return 0
	}
	return int64(v)
}

// Byte reads one byte.
func (r *Reader) Byte() byte {
	if len(r.rest) == 0 {
		r.Fail(ErrShort)
		return 0
	}
	v := r.rest[0]
	r.rest = r.rest[1:]
	return v
}

// Bool reads what Bool wrote.
func (r *Reader) Bool() bool {
	switch r.Byte() {
	case 0:
		return false
	case 1:
		return true
	}
	r.Fail(errors.New("truth value is neither 0 nor 1"))
	return false
}

// Raw reads n bytes. The slice points into the record.
func (r *Reader) Raw(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.Fail(ErrShort)
		return nil
	}
	v := r.rest[:n:n]
	r.rest = r.rest[n:]
	return v
}

// Fill reads len(into) bytes.
func (r *Reader) Fill(into []byte) { copy(into, r.Raw(len(into))) }

// Count reads the length of a list whose entries take at least least bytes
// each.
func (r *Reader) Count(least int) int {
	n := r.Uint()
	if n > uint64(len(r.rest)/least) {
		r.Fail(ErrShort)
		return 0
	}
	return int(n)
}

// Bytes reads what Bytes wrote. The slice points into the record.
func (r *Reader) Bytes() []byte { return r.Raw(r.Count(1)) }

// String reads what String wrote.
func (r *Reader) String() string { return string(r.Bytes()) }

// Strings reads what Strings wrote.
func (r *Reader) Strings() []string {
	n := r.Count(1)
	if n == 0 {
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, r.String())
	}
	return list
}
