package store

import (
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"switchyard/backend"
	"switchyard/backend/effect"
)

// TestLog reads the log as a mirror does: what a Replicator got, in order,
// from any number on, and an error when the beginning is forgotten.
func TestLog(t *testing.T) {
	r := &recorder{bodies: map[backend.GUID]string{}}
	s := openStore(t, vfs.NewMem(), Options{Replicator: r, LogKeep: 70})
	for _, st := range scenario() {
		if err := st.do(t, s); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
	}
	shard := shardOf(bob)
	var want [][]byte
	for _, rec := range r.records {
		if rec.Shard == shard {
			want = append(want, effect.AppendRecord(nil, rec))
		}
	}
	epoch, last := s.Applied(shard)
	if epoch != 1 || last != uint64(len(want)) || last < 10 {
		t.Fatalf("applied to %d of epoch %d, %d were shipped", last, epoch, len(want))
	}
	for from := uint64(0); from <= last+1; from++ {
		var got [][]byte
		for rec, err := range s.Log(shard, from) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, effect.AppendRecord(nil, rec))
		}
		if !slices.EqualFunc(got, want[max(from, 1)-1:], slices.Equal) {
			t.Fatalf("from %d: %d records, want %d", from, len(got), len(want)-int(max(from, 1))+1)
		}
	}
	for range s.Log(shard, 1) {
		break
	}
	u := userOf(t, s, bob)
	for n := range byte(140) {
		deliver(t, u, n+20, text(n))
	}
	forgotten := false
	for _, err := range s.Log(shard, 1) {
		forgotten = errors.Is(err, ErrForgotten)
	}
	if !forgotten {
		t.Error("the log's trimmed beginning is no error")
	}
	_, last = s.Applied(shard)
	n := 0
	for _, err := range s.Log(shard, last-69) {
		if n++; err != nil {
			t.Error(err)
		}
	}
	if n != 70 {
		t.Errorf("%d records of the 70 that are kept", n)
	}
	closeStore(t, s)
	for _, err := range s.Log(shard, 1) {
		if !errors.Is(err, backend.ErrBusy) {
			t.Errorf("of a closed store: %v", err)
		}
	}
}
