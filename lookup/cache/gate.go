package cache

import (
	"context"
	"errors"
	"sync"

	"switchyard/lookup"
)

const (
	// maxPerName is how many passwords for one name are asked about at the same
	// time. Each is a question of its own, so that without a bound one name
	// could take all of MaxQuestions while the directory is slow.
	maxPerName = 4

	// waitingPerName is how many more passwords for a name may wait for those;
	// further ones are not asked now.
	waitingPerName = 16

	// waitingPerQuestion times MaxQuestions is how many questions may wait in
	// all, each with a goroutine: 4,096 and some 30 MB with the default.
	waitingPerQuestion = 64
)

var errBusy = errors.New("too many questions wait for the directory")

// gate bounds the questions that are asked at the same time.
type gate struct {
	slots chan struct{} // one for each question that is asked

	mu      sync.Mutex
	waiting int
	names   map[string]*nameGate // names with a password in question
}

// nameGate bounds the questions about the passwords of one name.
type nameGate struct {
	slots chan struct{}
	users int // those inside and those who wait; guarded by the gate's mu
}

func newGate(questions int) *gate {
	return &gate{slots: make(chan struct{}, questions), names: make(map[string]*nameGate)}
}

// enter waits until a question may be asked. It reports whether it had to
// wait, after which the memory may know the answer. Call leave when the answer
// is there. The error is lookup.ErrUnavailable.
func (g *gate) enter(ctx context.Context, q *question) (leave func(), waited bool, err error) {
	// A refresh of what is known yet takes no place from those who know
	// nothing.
	if q.ahead {
		select {
		case g.slots <- struct{}{}:
			return func() { <-g.slots }, false, nil
		default:
			return nil, false, lookup.Unavailable("ask the directory", errBusy)
		}
	}
	leaveName := func() {}
	if q.check {
		if leaveName, waited, err = g.enterName(ctx, q.name); err != nil {
			return nil, waited, err
		}
	}
	more, err := g.place(ctx, g.slots)
	if err != nil {
		leaveName()
		return nil, true, err
	}
	return func() { <-g.slots; leaveName() }, waited || more, nil
}

// enterName waits until one more password of a name may be asked about.
func (g *gate) enterName(ctx context.Context, name string) (leave func(), waited bool, err error) {
	g.mu.Lock()
	n := g.names[name]
	if n == nil {
		n = &nameGate{slots: make(chan struct{}, maxPerName)}
		g.names[name] = n
	}
	if n.users == maxPerName+waitingPerName {
		g.mu.Unlock()
		return nil, false, lookup.Unavailable("ask the directory", errBusy)
	}
	n.users++
	g.mu.Unlock()
	gone := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if n.users--; n.users == 0 {
			delete(g.names, name)
		}
	}
	if waited, err = g.place(ctx, n.slots); err != nil {
		gone()
		return nil, waited, err
	}
	return func() { <-n.slots; gone() }, waited, nil
}

// place takes one of the slots, and waits for it if it must and may.
func (g *gate) place(ctx context.Context, slots chan struct{}) (waited bool, err error) {
	select {
	case slots <- struct{}{}:
		return false, nil
	default:
	}
	g.mu.Lock()
	if g.waiting >= waitingPerQuestion*cap(g.slots) {
		g.mu.Unlock()
		return false, lookup.Unavailable("ask the directory", errBusy)
	}
	g.waiting++
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		g.waiting--
		g.mu.Unlock()
	}()
	select {
	case slots <- struct{}{}:
		return true, nil
	case <-ctx.Done():
		return true, lookup.Unavailable("wait to ask the directory", ctx.Err())
	}
}
