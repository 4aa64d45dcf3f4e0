package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/internal/tlsconf"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestParseFlags(t *testing.T) {
	f, err := ParseFlags("proxyd", []string{"-config", "x.toml", "-check", "-log-level", "debug"}, io.Discard)
	if err != nil || f.Config != "x.toml" || !f.Check || f.LogLevel != zapcore.DebugLevel {
		t.Errorf("got %+v, %v", f, err)
	}
	if got := f.Level("error"); got != zapcore.DebugLevel {
		t.Errorf("the command line and the configuration say different levels: got %v", got)
	}
	if f, err = ParseFlags("proxyd", nil, io.Discard); err != nil || f.Level("") != zapcore.InfoLevel || f.Level("error") != zapcore.ErrorLevel {
		t.Errorf("without the flag: got %v and %v, %v", f.Level(""), f.Level("error"), err)
	}
	for _, args := range [][]string{{"x.toml"}, {"-nosuch"}, {"-log-level", "loud"}} {
		if _, err := ParseFlags("proxyd", args, io.Discard); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
	if _, err := ParseFlags("proxyd", []string{"-help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("help: got %v", err)
	}
}

func TestAnnounce(t *testing.T) {
	ln, err := Listen("imap", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	path := filepath.Join(t.TempDir(), "ready")
	if err := Announce(path, []Listener{ln}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var a Announcement
	if err := json.Unmarshal(b, &a); err != nil || a.PID != os.Getpid() || len(a.Listeners["imap"]) != 1 || a.Listeners["imap"][0] != ln.Addr().String() {
		t.Errorf("got %s, %v", b, err)
	}
	if _, err := Listen("pop3", ln.Addr().String()); err == nil || !strings.Contains(err.Error(), "listen for pop3") {
		t.Errorf("an address in use: got %v", err)
	}
}

func TestAdmin(t *testing.T) {
	ln, err := Listen("admin", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var broken atomic.Bool
	level := zap.NewAtomicLevel()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "test_total", Help: "Of the test."})
	counter.Add(3)
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "mine") })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- ServeAdmin(ctx, ln, Admin{Name: "testd", Level: level, Metrics: []prometheus.Collector{counter, CertificateMetrics(func() []tlsconf.Status {
			return []tlsconf.Status{{File: "a.pem", Expires: time.Unix(1700000000, 0)}, {File: "a.pem", Expires: time.Unix(1700000000, 0)}}
		})}, Handlers: map[string]http.Handler{"GET /page": page}, Warnings: func() []string { return []string{"the sky may fall"} }, Ready: func(context.Context) error {
			if broken.Load() {
				return errors.New("the store is away")
			}
			return nil
		}})
	}()
	get := func(path string, status int, want string) {
		t.Helper()
		resp, err := http.Get("http://" + ln.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != status || !strings.Contains(string(body), want) {
			t.Errorf("%s: got %d %.200q, %v", path, resp.StatusCode, body, err)
		}
	}
	get("/healthz", 200, "ok")
	get("/readyz", 200, "ready\nwarning: the sky may fall")
	get("/metrics", 200, `switchyard_build_info{daemon="testd"`)
	get("/metrics", 200, "test_total 3")
	get("/metrics", 200, `switchyard_certificate_expiry_timestamp_seconds{file="a.pem"} 1.7e+09`)
	get("/page", 200, "mine")
	get("/loglevel", 200, "info")
	get("/debug/pprof/", 200, "goroutine")
	broken.Store(true)
	get("/readyz", 503, "the store is away")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v", err)
	}
}
