package module

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"switchyard/lookup/internal/netwin"
)

const (
	// maxLogLine bounds what is kept of a line that a child writes to its
	// standard error; the rest of the line is dropped.
	maxLogLine = 1024

	// maxLogLines bounds how many such lines a child may bring into the log
	// in logWindow.
	maxLogLines = 100
	logWindow   = time.Minute
)

var errEnded = errors.New("the module ended")

// child is a running module. One worker uses it.
type child struct {
	cmd   *exec.Cmd
	stdin *os.File
	lines chan line // what it says; the last one has an error

	done    chan struct{} // closed by kill: nobody listens any more
	pipes   []*os.File    // our ends
	readers sync.WaitGroup
	log     *zap.Logger

	mu        sync.Mutex
	passwords [2]string // of the newest requests that had one
}

// line is one line of a child's standard output.
type line struct {
	text string
	more bool // there was more behind it already
	err  error
}

// unasked is what a line means when no answer is waited for.
func (l line) unasked() error {
	if l.err != nil {
		return l.err
	}
	return errUnsolicited
}

// startChild runs the command in a process group of its own, so that what a
// wrapper script starts is killed with it, and what a terminal sends us does
// not reach it.
func startChild(command []string, dir string, env []string, log *zap.Logger) (*child, error) {
	c := &child{lines: make(chan line), done: make(chan struct{}), log: log}
	var theirs []*os.File
	pipe := func(weRead bool) (ours, their *os.File, err error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		if ours, their = w, r; weRead {
			ours, their = r, w
		}
		c.pipes, theirs = append(c.pipes, ours), append(theirs, their)
		return ours, their, nil
	}
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	c.cmd = exec.Command(command[0], command[1:]...)
	c.cmd.Dir, c.cmd.Env = dir, env
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, in, err := pipe(false)
	var stdout, stderr, out, errOut *os.File
	if err == nil {
		stdout, out, err = pipe(true)
	}
	if err == nil {
		stderr, errOut, err = pipe(true)
	}
	if err == nil {
		c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = in, out, errOut
		err = c.cmd.Start()
	}
	if err != nil {
		for _, f := range c.pipes {
			f.Close()
		}
		return nil, fmt.Errorf("start the module: %w", err)
	}
	c.stdin = stdin
	c.readers.Go(func() { c.readLines(stdout) })
	c.readers.Go(func() { c.readLog(stderr) })
	log.Debug("authent module started", zap.Int("pid", c.cmd.Process.Pid))
	return c, nil
}

// readLines reads what the child says, at most one line ahead of who listens.
func (c *child) readLines(stdout io.Reader) {
	r := bufio.NewReaderSize(stdout, 4096)
	for {
		text, err := readLine(r, netwin.MaxLine)
		l := line{text: text, more: r.Buffered() > 0, err: err}
		select {
		case c.lines <- l:
		case <-c.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// readLine reads a line of at most limit bytes, which ends in LF, with or
// without a CR before it.
func readLine(r *bufio.Reader, limit int) (string, error) {
	var whole []byte
	for {
		part, err := r.ReadSlice('\n')
		whole = append(whole, part...)
		switch {
		case len(whole) > limit+2:
			return "", errors.New("garbled reply: line too long")
		case err == nil:
			text := bytes.TrimSuffix(whole[:len(whole)-1], []byte("\r"))
			if len(text) > limit {
				return "", errors.New("garbled reply: line too long")
			}
			return string(text), nil
		case err == bufio.ErrBufferFull:
		case len(whole) > 0:
			return "", fmt.Errorf("%w in the middle of a line", errEnded)
		default:
			return "", errEnded
		}
	}
}

// send writes a command.
func (c *child) send(ctx context.Context, line string) error {
	deadline, _ := ctx.Deadline()
	c.stdin.SetWriteDeadline(deadline)
	if _, err := c.stdin.WriteString(line + "\n"); err != nil {
		return fmt.Errorf("write to the module: %w", err)
	}
	return nil
}

// farewell lets the child end by itself, for a while.
func (c *child) farewell(limit time.Duration) {
	defer c.kill()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c.send(ctx, "exit")
	c.stdin.Close()
	for {
		select {
		case l := <-c.lines:
			if l.err != nil {
				return // its output is closed: it has ended
			}
		case <-ctx.Done():
			return
		}
	}
}

// kill ends the child with everything it started, and waits for it. Until then
// nobody else can have its process id, dead or not. It is called once.
func (c *child) kill() {
	syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	close(c.done)
	for _, f := range c.pipes {
		f.Close()
	}
	c.readers.Wait()
	c.cmd.Wait()
}

// hide remembers a password that must not get into the log. A child writes
// what it has to say about a request soon, but perhaps after its answer.
func (c *child) hide(password string) {
	if password == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passwords[0], c.passwords[1] = c.passwords[1], password
}

// clean takes passwords out of a line.
func (c *child) clean(text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, password := range c.passwords {
		if password != "" {
			text = strings.ReplaceAll(text, password, "***")
		}
	}
	return text
}

// readLog brings what the child writes to its standard error into our log.
func (c *child) readLog(stderr io.Reader) {
	r := bufio.NewReaderSize(stderr, maxLogLine)
	logged, dropped, since := 0, 0, time.Now()
	cut := false
	for {
		text, err := r.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
		rest := cut
		cut = err == bufio.ErrBufferFull
		if rest {
			continue
		}
		if time.Since(since) > logWindow {
			if dropped > 0 {
				c.log.Warn("authent module said more than the log takes", zap.Int("lines", dropped))
			}
			logged, dropped, since = 0, 0, time.Now()
		}
		if logged++; logged > maxLogLines {
			dropped++
			continue
		}
		c.log.Info("authent module says", zap.String("line", c.clean(strings.TrimRight(string(text), "\r\n"))))
	}
}
