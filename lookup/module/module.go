package module

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
	"switchyard/lookup/internal/netwin"
)

// RefusedError says that what was asked can never be done, and why: the
// grammar cannot carry it, or the module refused it.
type RefusedError = netwin.RefusedError

// Options for New. The zero value works.
type Options struct {
	// Processes is how many children run, each with one request at a time.
	// Zero means 2.
	Processes int

	// Timeout is how long a child may take for an answer before it is killed,
	// and a caller altogether, its wait for a child included. A search gets
	// ten times as long. Zero means 10 seconds.
	Timeout time.Duration

	// MaxWaiting bounds the requests that wait for a child; more are answered
	// with ErrUnavailable at once. Zero means 4,096.
	MaxWaiting int

	// MaxBackoff bounds how long a child that failed is waited with before it
	// is started again. Zero means 5 seconds.
	MaxBackoff time.Duration

	// Farewell is how long a child may take to end when it is told to, before
	// it is killed. Zero means 2 seconds.
	Farewell time.Duration

	// ASCII says that the module refuses names and passwords with other
	// characters, as NWAuth does without -allowhighascii.
	ASCII bool

	// Dir is where children run; empty means where this process does. Env is
	// their environment; nil means this process's.
	Dir string
	Env []string

	Logger *zap.Logger // nil: none
}

func (o Options) withDefaults() Options {
	if o.Processes <= 0 {
		o.Processes = 2
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.MaxWaiting <= 0 {
		o.MaxWaiting = 4096
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = 5 * time.Second
	}
	if o.Farewell == 0 {
		o.Farewell = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// long is how much longer than other requests a search may take.
const long = 10

// Module asks children that run the same command. It implements
// lookup.Directory and is safe for concurrent use.
type Module struct {
	command []string
	opts    Options
	jobs    chan *job
	waiting atomic.Int64
	health  health

	changes sync.Mutex        // a change reads what is there before it writes
	deleted map[string]uint64 // generations of accounts that were deleted

	closing context.Context // ends when Close is called
	close   context.CancelFunc
	workers sync.WaitGroup
}

var (
	errClosed  = errors.New("module is closed")
	errWaiting = errors.New("too many requests wait for the module")
)

// New starts children that run a command: a program and its arguments, without
// a shell. It returns an error if the program cannot be found; whether it works
// is seen later, see Ready.
func New(command []string, opts Options) (*Module, error) {
	if len(command) == 0 || command[0] == "" {
		return nil, errors.New("module: no command")
	}
	if opts.Dir == "" || filepath.IsAbs(command[0]) {
		if _, err := exec.LookPath(command[0]); err != nil {
			return nil, fmt.Errorf("module: %w", err)
		}
	}
	m := &Module{command: command, opts: opts.withDefaults(), jobs: make(chan *job), deleted: make(map[string]uint64)}
	m.closing, m.close = context.WithCancel(context.Background())
	m.health.workers = m.opts.Processes
	for i := range m.opts.Processes {
		w := &worker{module: m, log: m.opts.Logger.With(zap.Int("process", i))}
		m.workers.Go(w.run)
	}
	return m, nil
}

// Close waits for the answers under way and ends the children. Later requests
// are answered with ErrUnavailable.
func (m *Module) Close() error {
	m.close()
	m.workers.Wait()
	return nil
}

// Ready returns why no child can be asked now, nil while one can.
func (m *Module) Ready(context.Context) error {
	if m.closing.Err() != nil {
		return errClosed
	}
	return m.health.trouble()
}

// health counts the workers that have no child now.
type health struct {
	workers int

	mu      sync.Mutex
	resting int
	reason  error // the newest
}

func (h *health) rest(reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resting++
	h.reason = reason
}

func (h *health) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resting--
}

// trouble returns why there is no child at all, nil while there is one.
func (h *health) trouble() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.resting < h.workers {
		return nil
	}
	return fmt.Errorf("the module fails: %w", h.reason)
}

// job is a request on its way through a worker.
type job struct {
	ctx    context.Context // of the caller
	line   string
	secret string // a password in the line; it must not get into the log
	limit  time.Duration
	read   func(authent.Reply) (done bool, err error) // see question
	done   chan error                                 // has room for the one result
}

// question is a request and how its answer is read.
type question struct {
	request authent.Request

	// read takes one line of the answer and returns whether it was the last.
	// An error that is answered is the answer; after any other the child is
	// killed.
	read func(authent.Reply) (done bool, err error)
}

// answered is a valid answer that is an error to the caller.
type answered struct{ error }

// ask puts a question to the next child that is free. Errors: what answered
// holds, RefusedError for what cannot be carried, ErrUnavailable. When the
// caller gives up, the child still gets its time.
func (m *Module) ask(ctx context.Context, q question) error {
	line, err := q.request.Line(false)
	if err != nil {
		return err
	}
	limit := m.opts.Timeout
	if q.request.Verb == authent.Search {
		limit *= long
	}
	j := &job{line: line, limit: limit, read: q.read, done: make(chan error, 1)}
	if q.request.Password != nil {
		j.secret = *q.request.Password
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	j.ctx = ctx
	err = m.send(j)
	if err == nil {
		select {
		case err = <-j.done:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	var final answered
	switch {
	case err == nil:
		return nil
	case errors.As(err, &final):
		return final.error
	}
	return lookup.Unavailable("ask the module: "+string(q.request.Verb), err)
}

// send hands a job to a worker.
func (m *Module) send(j *job) error {
	if err := j.ctx.Err(); err != nil {
		return err
	}
	if m.closing.Err() != nil {
		return errClosed
	}
	if err := m.health.trouble(); err != nil {
		return err
	}
	if m.waiting.Add(1) > int64(m.opts.MaxWaiting) {
		m.waiting.Add(-1)
		return errWaiting
	}
	defer m.waiting.Add(-1)
	select {
	case m.jobs <- j:
		return nil
	case <-j.ctx.Done():
		return fmt.Errorf("wait for a child: %w", j.ctx.Err())
	case <-m.closing.Done():
		return errClosed
	}
}
