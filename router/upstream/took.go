package upstream

import (
	"sync/atomic"
	"time"
)

// TookBounds are the upper bounds of a Took's classes; the last class has none.
var TookBounds = [...]time.Duration{
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Took counts how long something took, by classes.
type Took struct {
	Classes [len(TookBounds) + 1]uint64 // each by itself
	Sum     time.Duration
}

// took is a Took that is being counted. It is safe for concurrent use.
type took struct {
	classes [len(TookBounds) + 1]atomic.Uint64
	sum     atomic.Int64
}

func (t *took) add(d time.Duration) {
	class := 0
	for class < len(TookBounds) && d > TookBounds[class] {
		class++
	}
	t.classes[class].Add(1)
	t.sum.Add(int64(d))
}

func (t *took) read() (out Took) {
	for i := range t.classes {
		out.Classes[i] = t.classes[i].Load()
	}
	out.Sum = time.Duration(t.sum.Load())
	return out
}
