package hashers

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/lookup"
)

// TestBounded: no more than the slots run, who waits in vain is told "not now",
// and the numbers say so.
func TestBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(2, time.Second)
		release := make(chan struct{})
		for range 2 {
			go p.Do(t.Context(), func() { <-release })
		}
		synctest.Wait()
		go func() {
			time.Sleep(time.Second / 2)
			if running, waiting, refused := p.Load(); running != 2 || waiting != 1 || refused != 0 {
				t.Errorf("meanwhile: %d running, %d waiting, %d refused", running, waiting, refused)
			}
		}()
		start := time.Now()
		err := p.Do(t.Context(), func() { t.Error("a third one ran") })
		if !errors.Is(err, lookup.ErrUnavailable) || time.Since(start) != time.Second {
			t.Errorf("overflow: got %v after %v, want unavailable after 1s", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := p.Do(ctx, func() { t.Error("ran") }); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("ended context: got %v, want unavailable", err)
		}
		close(release)
		synctest.Wait()
		ran := false
		if err := p.Do(t.Context(), func() { ran = true }); err != nil || !ran {
			t.Errorf("afterwards: got %v, %v", ran, err)
		}
		if running, waiting, refused := p.Load(); running != 0 || waiting != 0 || refused != 2 {
			t.Errorf("afterwards: %d running, %d waiting, %d refused", running, waiting, refused)
		}
	})
}
