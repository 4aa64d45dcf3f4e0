package rows

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// Live counts the live bodies of a segment. It is written as differences
// that Pebble adds up.
type Live struct{ Bodies, Bytes int64 }

func (r Live) Append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(r.Bodies)), uint64(r.Bytes))
}

// Add adds a row, or a difference.
func (r *Live) Add(b []byte) error {
	if len(b) != 16 {
		return errors.New("live row of wrong length")
	}
	r.Bodies += int64(binary.BigEndian.Uint64(b))
	r.Bytes += int64(binary.BigEndian.Uint64(b[8:]))
	return nil
}

// liveSum adds live rows for Pebble.
type liveSum struct{ Live }

func (s *liveSum) MergeNewer(value []byte) error { return s.Add(value) }
func (s *liveSum) MergeOlder(value []byte) error { return s.Add(value) }

func (s *liveSum) Finish(bool) ([]byte, io.Closer, error) { return s.Append(nil), nil, nil }

// LiveMerger adds up the rows of KeySegment; a database that has such rows
// opens with it alone.
func LiveMerger() *pebble.Merger {
	return &pebble.Merger{
		Name: "switchyard.live.1",
		Merge: func(_, value []byte) (pebble.ValueMerger, error) {
			s := &liveSum{}
			return s, s.Add(value)
		},
	}
}
