package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"switchyard/internal/daemon"
)

// The harness's patience.
const (
	readyTimeout = 30 * time.Second
	stopTimeout  = 15 * time.Second
	pollInterval = 5 * time.Millisecond
)

// Process is a daemon that the harness started. Its standard output and error
// go to a log file.
type Process struct {
	Name string
	Log  string // path of the log

	cmd   *exec.Cmd
	ready string
	done  chan struct{}
	err   error // how it ended; valid once done is closed
}

// Start runs a daemon with its configuration and waits until it announces
// that it is ready, fails, or ctx ends. The log is appended to, so that it
// covers restarts.
func Start(ctx context.Context, name, binary, config, dir string) (*Process, error) {
	p := &Process{Name: name, Log: filepath.Join(dir, name+".log"), ready: filepath.Join(dir, name+".ready"), done: make(chan struct{})}
	if err := os.Remove(p.ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(binary, "-config", config, "-ready", p.ready)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// Its own group, so that Ctrl-C reaches the harness alone, which then
	// stops the daemons in order; and an end with the harness, however it
	// ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := p.waitReady(ctx); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

func (p *Process) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if b, err := os.ReadFile(p.ready); err == nil {
			var a daemon.Announcement
			return json.Unmarshal(b, &a)
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready: %v\n%s", p.Name, p.err, p.lastLines())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.Name, ctx.Err(), p.lastLines())
		}
	}
}

// lastLines returns the end of the log, for error texts.
func (p *Process) lastLines() []byte {
	const most = 2000
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return nil
	}
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return bytes.TrimSpace(b)
}

// PID of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Stop asks the process to end (SIGTERM), waits, and kills it if it does not.
// It returns an error if the process ended badly.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.Kill()
		return fmt.Errorf("%s did not stop within %v\n%s", p.Name, stopTimeout, p.lastLines())
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w\n%s", p.Name, p.err, p.lastLines())
	}
	return nil
}

// Kill ends the process with SIGKILL and waits for that.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Signal sends a signal, such as SIGSTOP.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }
