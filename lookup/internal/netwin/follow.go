package netwin

import (
	"fmt"
	"hash/crc64"
	"strconv"
	"strings"
)

// Mark is a place in the history of a user database: how many changes came
// before it, and a sum over all of them. Two databases that have the same mark
// hold the same, and one that has the other's mark in its history can be
// brought up to date with the changes since.
type Mark struct {
	Position uint64
	Sum      uint64
}

// Next is the mark behind one more change, given as its line in the log,
// without the line end.
func (m Mark) Next(line string) Mark {
	table := crc64.MakeTable(crc64.ECMA)
	sum := crc64.Update(m.Sum, table, []byte(line))
	return Mark{Position: m.Position + 1, Sum: crc64.Update(sum, table, []byte{'\n'})}
}

// String writes a mark as one word: position, a hyphen, the sum in hexadecimal.
func (m Mark) String() string { return fmt.Sprintf("%d-%016x", m.Position, m.Sum) }

// ParseMark reads what String writes. Errors: RefusedError.
func ParseMark(s string) (Mark, error) {
	digits, sum, found := strings.Cut(s, "-")
	position, err := strconv.ParseUint(digits, 10, 64)
	if !found || err != nil || len(sum) != 16 {
		return Mark{}, Refuse("a mark is a position, a hyphen and 16 hexadecimal digits")
	}
	m := Mark{Position: position}
	if m.Sum, err = strconv.ParseUint(sum, 16, 64); err != nil {
		return Mark{}, Refuse("a mark is a position, a hyphen and 16 hexadecimal digits")
	}
	return m, nil
}

// Follower takes what a database streams to its replicas: Continue, or Copy,
// lines and Copied; then changes for ever. Its methods are called one at a
// time. After an error the stream ends.
type Follower interface {
	// Continue says that what the replica has is good as of at, the mark that
	// it asked from.
	Continue(at Mark) error

	// Copy begins a full copy of about n lines. The changes that follow the
	// copy are those since at.
	Copy(at Mark, n int) error

	// Line is one line of a full copy, in the form of the base file. Lines are
	// in no order. They may be newer than the copy's mark.
	Line(line string) error

	// Copied ends a full copy: it is a whole once the changes up to until have
	// been put on top.
	Copied(until Mark) error

	// Change is one change, in the form of the log, and the mark behind it.
	// sessions is that of lookup.Change.
	Change(line string, at Mark, sessions bool) error

	// Head tells the newest mark that there is. It comes after each batch of
	// changes, and every few seconds.
	Head(newest Mark) error
}
