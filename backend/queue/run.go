package queue

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// job is one entry's next attempt in one lane, waiting or running. An entry has
// at most one in each lane, so that a recipient is never tried twice at a time.
// All of it is guarded by Queue.mu.
type job struct {
	e       *entry
	lane    Lane
	when    time.Time
	place   int // in the lane's heap, while it waits
	running bool
	more    *time.Time // something came up while it ran
}

// jobs are one lane's attempts that wait, earliest first, and how many run.
// They are guarded by Queue.mu.
type jobs struct {
	waiting jobHeap
	running int
}

type jobHeap []*job

func (h jobHeap) Len() int           { return len(h) }
func (h jobHeap) Less(i, j int) bool { return h[i].when.Before(h[j].when) }
func (h jobHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *jobHeap) Push(x any) {
	j := x.(*job)
	j.place = len(*h)
	*h = append(*h, j)
}

func (h *jobHeap) Pop() any {
	last := len(*h) - 1
	j := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return j
}

// schedule makes an entry's jobs: one in each lane where it has recipients
// that wait. The caller holds q.mu, and nobody else has the entry yet.
func (q *Queue) schedule(e *entry) {
	when, any := e.next()
	for lane := range laneCount {
		if any[lane] {
			q.plan(e, lane, when[lane])
		}
	}
	if any == [laneCount]bool{} { // nothing to deliver: something to finish
		q.plan(e, LaneLocal, time.Now())
	}
}

// plan makes sure that a lane looks at an entry at that time. The caller holds
// q.mu.
func (q *Queue) plan(e *entry, lane Lane, when time.Time) {
	j := e.jobs[lane]
	switch {
	case j == nil:
		e.jobs[lane] = &job{e: e, lane: lane, when: when}
		heap.Push(&q.lanes[lane].waiting, e.jobs[lane])
	case j.running:
		if j.more == nil || when.Before(*j.more) {
			j.more = &when
		}
	case when.Before(j.when):
		j.when = when
		heap.Fix(&q.lanes[lane].waiting, j.place)
	}
	q.nudge()
}

// nudge makes Run look again.
func (q *Queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Run delivers until ctx ends. When it returns, no delivery is under way; those
// that were cut off are tried again after the next start. It is called once.
func (q *Queue) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for ctx.Err() == nil {
		wait := q.start(ctx, &running)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-q.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// longWait is how long Run sleeps when nothing is due.
const longWait = time.Hour

// start starts what is due and there is room for, and returns how long to
// wait for the next that is not due yet. A lane that is full is looked at again
// when one of its deliveries ends.
func (q *Queue) start(ctx context.Context, running *sync.WaitGroup) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	wait := longWait
	now := time.Now()
	for lane := range laneCount {
		l := &q.lanes[lane]
		for len(l.waiting) > 0 && l.running < q.o.Concurrency {
			if until := l.waiting[0].when.Sub(now); until > 0 {
				wait = min(wait, until)
				break
			}
			j := heap.Pop(&l.waiting).(*job)
			j.running = true
			l.running++
			running.Go(func() { q.run(ctx, j) })
		}
	}
	return wait
}

// run makes one attempt and plans the next.
func (q *Queue) run(ctx context.Context, j *job) {
	again, others := q.attempt(ctx, j.lane, j.e)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lanes[j.lane].running--
	j.e.jobs[j.lane] = nil
	for _, when := range []*time.Time{again, j.more} {
		if when != nil {
			q.plan(j.e, j.lane, *when)
		}
	}
	for _, lane := range others {
		q.plan(j.e, lane, time.Now())
	}
	q.nudge() // there is room in the lane now
}
