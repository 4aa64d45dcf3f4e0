package lookuptest

import (
	"context"
	"sync"
	"time"

	"switchyard/lookup"
)

// Scripted is a directory in memory whose answers, failures and delays the
// test sets, and which counts its questions. The zero value is an empty
// directory that answers at once. It is safe for concurrent use and may be
// changed while questions are under way: an answer is what holds when the
// delay is over.
type Scripted struct {
	mu      sync.Mutex
	records map[string]Record
	fail    error
	failing map[string]error
	delay   time.Duration
	gate    chan struct{} // closed when a Hold ends; nil when nothing is held

	lookups, checks int
	asked           map[string]int
	waiting         int
	changed         chan struct{} // closed and replaced when waiting grows
}

// NewScripted returns a directory that holds these records.
func NewScripted(records ...Record) *Scripted {
	s := &Scripted{}
	for _, r := range records {
		s.Set(r)
	}
	return s
}

// Set adds or replaces an account.
func (s *Scripted) Set(r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records == nil {
		s.records = make(map[string]Record)
	}
	s.records[r.Name] = r
}

// Delete removes an account.
func (s *Scripted) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, name)
}

// Fail makes err the answer to every question, until Fail(nil).
func (s *Scripted) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// FailName makes err the answer to every question about name, until
// FailName(name, nil).
func (s *Scripted) FailName(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing == nil {
		s.failing = make(map[string]error)
	}
	s.failing[name] = err
}

// Delay makes each question take d. A question whose context ends first is
// answered with unavailable then.
func (s *Scripted) Delay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

// Hold makes questions wait until release is called (once) or their context
// ends.
func (s *Scripted) Hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.gate = gate
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.gate == gate {
			s.gate = nil
		}
		close(gate)
	}
}

// WaitHeld blocks until n questions wait in a Hold at the same time, or ctx
// ends.
func (s *Scripted) WaitHeld(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		if s.waiting >= n {
			s.mu.Unlock()
			return nil
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Lookups counts the calls of Lookup so far.
func (s *Scripted) Lookups() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookups
}

// Checks counts the calls of Check so far.
func (s *Scripted) Checks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checks
}

// Asked counts the calls of both kinds about name so far.
func (s *Scripted) Asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

// Lookup implements lookup.Directory.
func (s *Scripted) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	r, found, err := s.ask(ctx, name, &s.lookups)
	switch {
	case err != nil:
		return lookup.Account{}, err
	case !found:
		return lookup.Account{}, lookup.ErrAbsent
	}
	return r.Account.Clone(), nil
}

// Check implements lookup.Directory.
func (s *Scripted) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	r, found, err := s.ask(ctx, c.Name, &s.checks)
	switch {
	case err != nil:
		return lookup.Account{}, err
	case !found || c.Password == "" || c.Password != r.Password:
		return lookup.Account{}, lookup.ErrRejected
	}
	return r.Account.Clone(), nil
}

// ask counts a question, waits as told and reads the answer.
func (s *Scripted) ask(ctx context.Context, name string, counter *int) (Record, bool, error) {
	s.mu.Lock()
	*counter++
	if s.asked == nil {
		s.asked = make(map[string]int)
	}
	s.asked[name]++
	delay, gate := s.delay, s.gate
	s.mu.Unlock()
	if err := s.wait(ctx, delay, gate); err != nil {
		return Record{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return Record{}, false, s.fail
	}
	if err := s.failing[name]; err != nil {
		return Record{}, false, err
	}
	r, found := s.records[name]
	return r, found, nil
}

func (s *Scripted) wait(ctx context.Context, delay time.Duration, gate chan struct{}) error {
	if gate != nil {
		s.held(+1)
		defer s.held(-1)
		select {
		case <-gate:
		case <-ctx.Done():
			return lookup.Unavailable("wait for the script", ctx.Err())
		}
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return lookup.Unavailable("wait for the script", ctx.Err())
		}
	}
	if err := ctx.Err(); err != nil {
		return lookup.Unavailable("wait for the script", err)
	}
	return nil
}

func (s *Scripted) held(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting += n
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}
