package upstream

import (
	"testing"
	"time"
)

// TestTook: each duration is in the first class that it fits into.
func TestTook(t *testing.T) {
	var one took
	for _, d := range []time.Duration{0, 5 * time.Millisecond, 6 * time.Millisecond, time.Second, time.Hour} {
		one.add(d)
	}
	got := one.read()
	want := Took{Sum: time.Hour + 1011*time.Millisecond}
	want.Classes[0], want.Classes[1], want.Classes[7], want.Classes[len(TookBounds)] = 2, 1, 1, 1
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
