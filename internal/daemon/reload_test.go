package daemon

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestHangups: a hangup that comes before Run is not lost, each reloads, and a
// configuration that is bad ends nothing.
func TestHangups(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	h := CatchHangups()
	hangUp := func() {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	hangUp()
	ctx, stop := context.WithCancel(t.Context())
	reloads, done := make(chan error), make(chan error, 1)
	go func() { done <- h.Run(ctx, func() error { return <-reloads }, zap.New(core)) }()
	for i, err := range []error{nil, errors.New("no such key"), nil} {
		if i > 0 {
			hangUp()
		}
		select {
		case reloads <- err:
		case <-time.After(patience):
			t.Fatalf("hangup %d does not reload", i+1)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if good, bad := logs.FilterMessage("configuration reloaded").Len(), logs.FilterLevelExact(zap.ErrorLevel).All(); good != 2 || len(bad) != 1 || bad[0].ContextMap()["error"] != "no such key" {
		t.Errorf("logged %v", logs.All())
	}
}
