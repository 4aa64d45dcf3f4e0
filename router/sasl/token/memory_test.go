package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/router/sasl"
)

// clock is one that a test sets.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Now().Truncate(time.Second).UnixNano())
	return c
}

func (c *clock) now() time.Time           { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration)  { c.at.Add(int64(d)) }
func (c *clock) in(d time.Duration) int64 { return c.now().Add(d).Unix() }
func (s *issuerServer) wantAsked(t *testing.T, what string, n int64) {
	t.Helper()
	if got := s.asked.Load(); got != n {
		t.Errorf("%s: the issuer was asked %d times, want %d", what, got, n)
	}
}

func (s *issuerServer) say(t *testing.T, change map[string]any) {
	t.Helper()
	claims := with(change)
	if _, told := claims["active"]; !told {
		claims["active"] = true
	}
	answer, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	s.answer.Store(string(answer))
}

// TestAnswersAreRemembered: an answer is believed for a while and never past the
// token's expiry, one against a token for less, and what could not be found out
// not at all.
func TestAnswersAreRemembered(t *testing.T) {
	s, c := newIssuer(t), newClock()
	o := options()
	o.Now = c.now
	i, err := NewIntrospection(s.URL+"/introspect", o)
	if err != nil {
		t.Fatal(err)
	}
	want := func(what, token string, ok bool, asked int64) {
		t.Helper()
		user, err := i.Verify(t.Context(), token)
		judge(t, what, token, user, err, ok)
		s.wantAsked(t, what, asked)
	}
	s.say(t, map[string]any{"exp": c.in(time.Hour)})
	want("first", "t0ken", true, 1)
	s.say(t, map[string]any{"active": false})
	c.advance(time.Minute - 1)
	want("within its time", "t0ken", true, 1)
	c.advance(1)
	want("revoked meanwhile", "t0ken", false, 2)
	s.say(t, map[string]any{"exp": c.in(10 * time.Second)})
	c.advance(rememberRefused - 1)
	want("refused a moment ago", "t0ken", false, 2)
	c.advance(1)
	want("no longer remembered", "t0ken", true, 3)
	c.advance(5*time.Second - 1)
	want("a breath before its expiry", "t0ken", true, 3)
	c.advance(1)
	want("expired", "t0ken", false, 4)
	want("expired and remembered", "t0ken", false, 4)
	want("another token", "t0ken2", false, 5)
	// Without an expiry there is the time alone.
	s.say(t, map[string]any{"exp": nil})
	want("without expiry", "t0ken3", true, 6)
	c.advance(time.Minute - 1)
	want("without expiry, later", "t0ken3", true, 6)
	// A bad answer about a good token is remembered as such: another scope, say.
	s.say(t, map[string]any{"scope": "calendar"})
	want("another scope", "t0ken4", false, 7)
	want("another scope, again", "t0ken4", false, 7)
	// Not now is not remembered.
	s.broken.Store(503)
	for n := range int64(3) {
		if _, err := i.Verify(t.Context(), "t0ken5"); !errors.Is(err, lookup.ErrUnavailable) || errors.Is(err, sasl.ErrToken) {
			t.Errorf("away: got %v", err)
		}
		s.wantAsked(t, "away", 8+n)
	}
	s.broken.Store(0)
	s.say(t, map[string]any{"exp": c.in(time.Hour)})
	want("back", "t0ken5", true, 11)
	// What is known is known without the issuer.
	s.broken.Store(503)
	want("known while it is away", "t0ken5", true, 11)
}

// TestRememberIsBounded by what the operator says, and can be switched off.
func TestRememberIsBounded(t *testing.T) {
	for remember, asked := range map[time.Duration]int64{-1: 4, time.Second: 2, 0: 1} {
		s, c := newIssuer(t), newClock()
		o := options()
		o.Now, o.Remember = c.now, remember
		i, err := NewIntrospection(s.URL+"/introspect", o)
		if err != nil {
			t.Fatal(err)
		}
		s.say(t, map[string]any{"exp": c.in(time.Hour)})
		for range 2 {
			for range 2 {
				if _, err := i.Verify(t.Context(), "t0ken"); err != nil {
					t.Fatal(err)
				}
			}
			c.advance(time.Second)
		}
		s.wantAsked(t, fmt.Sprintf("remember %v", remember), asked)
	}
}

// TestOneQuestionAtATime: those who come with one token together share a question,
// and who runs out of time does not decide for the others.
func TestOneQuestionAtATime(t *testing.T) {
	m := newMemory(time.Now)
	var calls atomic.Int64
	begun, hold := make(chan struct{}, 10), make(chan struct{})
	ask := func(ctx context.Context) (verdict, error) {
		calls.Add(1)
		begun <- struct{}{}
		select {
		case <-hold:
			return verdict{user: "anna", until: time.Now().Add(time.Hour)}, nil
		case <-ctx.Done():
			return verdict{}, lookup.Unavailable("test", ctx.Err())
		}
	}
	hurried, giveUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := m.recall(hurried, "t0ken", ask); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("the first: got %v", err)
		}
	})
	<-begun
	for range 8 {
		wg.Go(func() {
			if v, err := m.recall(t.Context(), "t0ken", ask); err != nil || v.user != "anna" {
				t.Errorf("got %v, %v", v, err)
			}
		})
	}
	// One that cannot wait gets an answer of its own.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.recall(ended, "t0ken", ask); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("no time: got %v", err)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d questions at the same time", n)
	}
	giveUp()
	<-begun // one of the others asks now
	close(hold)
	wg.Wait()
	if n := calls.Load(); n != 2 {
		t.Errorf("%d questions, want 2", n)
	}
	// An error of the issuer is everybody's, and the next one asks again.
	away := lookup.Unavailable("test", errors.New("away"))
	if _, err := m.recall(t.Context(), "other", func(context.Context) (verdict, error) { return verdict{}, away }); !errors.Is(err, away) {
		t.Errorf("got %v", err)
	}
	if len(m.asking) != 0 {
		t.Errorf("%d questions are left behind", len(m.asking))
	}
}

// TestMemoryIsBounded: rubbish pushes out rubbish only, what has expired goes
// first, and no token is in memory.
func TestMemoryIsBounded(t *testing.T) {
	c := newClock()
	m := newMemory(c.now)
	m.most = 16
	remember := func(token string, err error, d time.Duration) {
		t.Helper()
		if _, e := m.recall(t.Context(), token, func(context.Context) (verdict, error) {
			return verdict{err: err, until: c.now().Add(d)}, nil
		}); e != nil {
			t.Fatal(e)
		}
	}
	known := func(token string) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		_, found := m.fresh(m.digest(token))
		return found
	}
	for n := range 10 {
		remember(fmt.Sprint("good", n), nil, time.Hour)
	}
	for n := range 1000 {
		remember(fmt.Sprint("bad", n), sasl.ErrToken, time.Hour)
		if len(m.refused) > m.most {
			t.Fatalf("%d refused tokens are remembered", len(m.refused))
		}
	}
	for n := range 10 {
		if !known(fmt.Sprint("good", n)) {
			t.Errorf("good token %d was pushed out by bad ones", n)
		}
	}
	// Of the believed, those that have expired go first.
	for n := range m.most - len(m.believed) {
		remember(fmt.Sprint("short", n), nil, time.Second)
	}
	c.advance(time.Second)
	remember("new", nil, time.Hour)
	for n := range 10 {
		if !known(fmt.Sprint("good", n)) {
			t.Errorf("good token %d had to go before expired ones", n)
		}
	}
	if known("short0") || !known("new") || len(m.believed) != 11 {
		t.Errorf("%d are remembered", len(m.believed))
	}
	if text := fmt.Sprintf("%v %v", m.believed, m.refused); strings.Contains(text, "good1") || strings.Contains(text, "bad1") {
		t.Error("a token is in memory")
	}
}
