package nwauth

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/nwauth/hash"
)

// cheap makes tests quick.
var cheap = hash.Argon2{Memory: 64, Passes: 1, Threads: 1}

func TestHashersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHashers(2, time.Second)
		release := make(chan struct{})
		for range 2 {
			go h.do(t.Context(), func() { <-release })
		}
		synctest.Wait()
		start := time.Now()
		err := h.do(t.Context(), func() { t.Error("a third one ran") })
		if !errors.Is(err, lookup.ErrUnavailable) || time.Since(start) != time.Second {
			t.Errorf("overflow: got %v after %v, want unavailable after 1s", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := h.do(ctx, func() { t.Error("ran") }); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("ended context: got %v, want unavailable", err)
		}
		close(release)
		synctest.Wait()
		ran := false
		if err := h.do(t.Context(), func() { ran = true }); err != nil || !ran {
			t.Errorf("afterwards: got %v, %v", ran, err)
		}
	})
}
