package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Elder is a process before this one that has handed its sockets over and keeps
// its sessions until they end. It answers on a Unix socket that only its own user
// can reach.
type Elder struct {
	PID    int    `json:"pid"`
	Socket string `json:"socket"`
}

// elderTimeout bounds one question to an elder.
const elderTimeout = 5 * time.Second

// Elders are the processes before this one. It is safe for concurrent use.
type Elders struct {
	log *zap.Logger

	mu  sync.Mutex
	all []Elder
}

func (e *Elders) add(more ...Elder) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, more...)
}

// List returns those that have not been found gone yet.
func (e *Elders) List() []Elder {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.all)
}

func (e *Elders) forget(gone Elder) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = slices.DeleteFunc(e.all, func(one Elder) bool { return one == gone })
}

// Each asks every elder the same, by HTTP, and gives what each answers to found:
// its number, the status and the body. One that has ended is left out from then
// on. It asks all of them; the error says which could not be asked, and joins
// found's.
func (e *Elders) Each(ctx context.Context, method, path string, body []byte, found func(pid, status int, body []byte) error) error {
	var failed []error
	for _, elder := range e.List() {
		status, answer, err := elder.ask(ctx, method, path, body)
		switch {
		case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
			e.log.Debug("an older process has ended", zap.Int("pid", elder.PID))
			e.forget(elder)
			continue
		case err == nil && found != nil:
			err = found(elder.PID, status, answer)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("older process %d: %w", elder.PID, err))
		}
	}
	return errors.Join(failed...)
}

// StopElders ends the elders, whose sessions get their goodbyes, unless this
// process is to become one itself: to stop the newest process is to stop the
// daemon.
func (s *Sockets) StopElders(ctx context.Context) error {
	select {
	case <-s.retired:
		return nil
	default:
		return s.elders.Each(ctx, http.MethodPost, stopPath, nil, nil)
	}
}

// stopPath is where an elder is told to end.
const stopPath = "/stop"

// maxAnswer bounds an elder's answer: some hundred bytes a session.
const maxAnswer = 256 << 20

func (e Elder) ask(ctx context.Context, method, path string, body []byte) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, elderTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", e.Socket)
		},
	}
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, content)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return response.StatusCode, answer, err
}

// post is an elder's side: the Unix socket on which its successors ask it.
type post struct {
	Elder
	dir  string
	srv  *http.Server
	done chan error
}

// openPost begins to serve handlers on a Unix socket in a directory of its own
// below dir.
func openPost(dir string, handlers map[string]http.Handler, stop func()) (*post, error) {
	own, err := os.MkdirTemp(dir, "switchyard-") // 0700: nobody else gets at the socket
	if err != nil {
		return nil, err
	}
	p := &post{Elder: Elder{os.Getpid(), own + "/console"}, dir: own, done: make(chan error, 1)}
	ln, err := net.Listen("unix", p.Socket)
	if err != nil {
		os.RemoveAll(own)
		return nil, err
	}
	mux := http.NewServeMux()
	for pattern, h := range handlers {
		mux.Handle(pattern, h)
	}
	mux.HandleFunc("POST "+stopPath, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		stop()
	})
	p.srv = &http.Server{Handler: mux, ReadHeaderTimeout: adminHeaderTimeout}
	go func() { p.done <- p.srv.Serve(ln) }()
	return p, nil
}

// close ends the post, the answers under way first.
func (p *post) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminCloseTimeout)
	defer cancel()
	if p.srv.Shutdown(ctx) != nil {
		p.srv.Close()
	}
	<-p.done
	os.RemoveAll(p.dir)
}
