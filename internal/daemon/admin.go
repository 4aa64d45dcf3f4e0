package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// The admin listener's deadlines.
const (
	adminHeaderTimeout = 5 * time.Second
	adminCloseTimeout  = 2 * time.Second
)

// Admin is what the admin listener shows.
type Admin struct {
	// Name of the daemon, for the build metric.
	Name string

	// Ready says whether the daemon can do its work; nil means always. It is
	// asked by load balancers, so it must be quick.
	Ready func(context.Context) error

	// Warnings are what an operator should see to though the daemon is ready, a
	// sentence each: a certificate that expires soon. /readyz shows them and says
	// yes all the same. Nil means none.
	Warnings func() []string

	// Level lets the log level be read and changed at /loglevel.
	Level zap.AtomicLevel

	// Metrics are shown at /metrics beside the process's own.
	Metrics []prometheus.Collector

	// Handlers are the daemon's own pages, by pattern (net/http.ServeMux).
	Handlers map[string]http.Handler
}

// ServeAdmin answers on ln until ctx ends, or another process has taken the
// socket over (see Sockets): /healthz (the process lives),
// /readyz (it can do its work), /metrics (Prometheus), /loglevel (GET, and PUT
// with {"level":"debug"}), /debug/pprof/, and the daemon's own pages. The listener is for this machine
// only: it has no login.
func ServeAdmin(ctx context.Context, ln net.Listener, a Admin) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if a.Ready != nil {
			if err := a.Ready(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ready")
		if a.Warnings != nil {
			for _, warning := range a.Warnings() {
				fmt.Fprintln(w, "warning:", warning)
			}
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry(a), promhttp.HandlerOpts{}))
	mux.Handle("/loglevel", a.Level)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)

	for pattern, handler := range a.Handlers {
		mux.Handle(pattern, handler)
	}

	srv := &http.Server{Handler: mux, ReadHeaderTimeout: adminHeaderTimeout}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("admin listener: %w", err)
	case <-ctx.Done():
	case <-retirement(ln):
		// Whoever keeps a connection open must not go on asking this process.
	}
	closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminCloseTimeout)
	defer cancel()
	if err := srv.Shutdown(closeCtx); err != nil {
		srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener: %w", err)
	}
	return nil
}

// retirement returns a channel that is closed when ln is another process's; nil
// for a listener that never will be.
func retirement(ln net.Listener) <-chan struct{} {
	if l, ok := ln.(Listener); ok {
		ln = l.Listener
	}
	if l, ok := ln.(*socket); ok {
		return l.retired
	}
	return nil
}

// registry gathers the metrics that every daemon has, and the daemon's own.
func registry(a Admin) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "switchyard_build_info",
		Help:        "Always 1; the labels name the daemon and its version.",
		ConstLabels: prometheus.Labels{"daemon": a.Name, "version": Version()},
	})
	build.Set(1)
	r.MustRegister(build)
	r.MustRegister(a.Metrics...)
	return r
}
