package daemon

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"
)

// Hangups are the SIGHUPs of a daemon that no new process takes over from (see
// Process for one that can be): each has it read its configuration again.
type Hangups struct{ signals chan os.Signal }

// CatchHangups is called early: from here on the signal does not end the daemon,
// and one that comes while the daemon starts is obeyed behind the start.
func CatchHangups() *Hangups {
	h := &Hangups{signals: make(chan os.Signal, 1)}
	signal.Notify(h.signals, syscall.SIGHUP)
	return h
}

// Run obeys until ctx ends, and returns nil then. An error of reload's means that all
// is as it was; it is logged.
func (h *Hangups) Run(ctx context.Context, reload func() error, log *zap.Logger) error {
	defer signal.Stop(h.signals)
	for {
		select {
		case <-h.signals:
			obey(reload, log)
		case <-ctx.Done():
			return nil
		}
	}
}

// obey reloads and says what came of it.
func obey(reload func() error, log *zap.Logger) {
	if reload == nil {
		log.Info("there is nothing to reload")
		return
	}
	if err := reload(); err != nil {
		log.Error("the configuration was not reloaded: all is as it was", zap.Error(err))
		return
	}
	log.Info("configuration reloaded")
}
