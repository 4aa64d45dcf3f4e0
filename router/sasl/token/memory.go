package token

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"

	"switchyard/lookup"
)

// digest stands for a token in memory: its HMAC under a key of this process's own.
type digest [sha256.Size]byte

// verdict is what is known about a token.
type verdict struct {
	user  string
	err   error // sasl.ErrToken: refused
	until time.Time
}

// memory remembers verdicts for a while, so that a client that logs in every
// minute does not cost its issuer a question each time; and it lets those who ask
// about one token at the same time share a question. What could not be found out
// is not remembered. It holds no token.
type memory struct {
	now  func() time.Time
	most int // verdicts of each kind
	key  []byte

	mu       sync.Mutex
	believed map[digest]verdict
	refused  map[digest]verdict // apart, so that rubbish pushes out nothing but rubbish
	asking   map[digest]*asking
}

// asking is a question under way.
type asking struct {
	done      chan struct{}
	verdict   verdict
	err       error
	abandoned bool // who asked ran out of time, which says nothing to the others
}

// mostVerdicts is how many verdicts of each kind are remembered.
const mostVerdicts = 20_000

func newMemory(now func() time.Time) *memory {
	m := &memory{
		now: now, most: mostVerdicts, key: make([]byte, sha256.Size),
		believed: make(map[digest]verdict), refused: make(map[digest]verdict), asking: make(map[digest]*asking),
	}
	rand.Read(m.key) // never fails
	return m
}

func (m *memory) digest(token string) (d digest) {
	mac := hmac.New(sha256.New, m.key)
	mac.Write([]byte(token))
	mac.Sum(d[:0])
	return d
}

// recall returns a verdict, from memory or by asking. It blocks until ctx ends at
// most. Errors: what ask returned, lookup.ErrUnavailable.
func (m *memory) recall(ctx context.Context, token string, ask func(context.Context) (verdict, error)) (verdict, error) {
	d := m.digest(token)
	for {
		m.mu.Lock()
		if v, found := m.fresh(d); found {
			m.mu.Unlock()
			return v, nil
		}
		other := m.asking[d]
		if other == nil {
			own := &asking{done: make(chan struct{}), abandoned: true}
			m.asking[d] = own
			m.mu.Unlock()
			return m.lead(ctx, d, own, ask)
		}
		m.mu.Unlock()
		select {
		case <-other.done:
			if !other.abandoned {
				return other.verdict, other.err
			}
		case <-ctx.Done():
			return verdict{}, lookup.Unavailable("wait for a question about a token", ctx.Err())
		}
	}
}

// lead asks for all who wait.
func (m *memory) lead(ctx context.Context, d digest, own *asking, ask func(context.Context) (verdict, error)) (verdict, error) {
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.asking, d)
		close(own.done)
	}()
	v, err := ask(ctx)
	own.verdict, own.err, own.abandoned = v, err, err != nil && ctx.Err() != nil
	if err == nil {
		m.remember(d, v)
	}
	return v, err
}

// fresh finds a verdict that still holds. The caller holds mu.
func (m *memory) fresh(d digest) (verdict, bool) {
	v, found := m.believed[d]
	if !found {
		v, found = m.refused[d]
	}
	return v, found && m.now().Before(v.until)
}

func (m *memory) remember(d digest, v verdict) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.believed, d)
	delete(m.refused, d)
	now := m.now()
	if !now.Before(v.until) {
		return
	}
	kind := m.believed
	if v.err != nil {
		kind = m.refused
	}
	if len(kind) >= m.most {
		m.makeRoom(kind, now)
	}
	kind[d] = v
}

// makeRoom takes out what holds no more, and then, until an eighth is free, whatever
// comes: a verdict that is missed costs one question.
func (m *memory) makeRoom(kind map[digest]verdict, now time.Time) {
	for d, v := range kind {
		if !now.Before(v.until) {
			delete(kind, d)
		}
	}
	for d := range kind {
		if len(kind) <= m.most-max(m.most/8, 1) {
			return
		}
		delete(kind, d)
	}
}
