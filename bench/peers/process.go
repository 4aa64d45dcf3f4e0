package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	readyPatience = 30 * time.Second
	stopPatience  = 10 * time.Second
)

// process is a proxy, or its helper, with all its children.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

// startProcess runs a command on a core. What it prints goes to a log in dir.
func startProcess(dir, core string, env []string, command ...string) (*process, error) {
	p := &process{log: filepath.Join(dir, filepath.Base(command[0])+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command("taskset", append([]string{"-c", core}, command...)...)
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		// How it ends is said by its log; that it ended, by done.
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// ready waits until an address takes connections.
func (p *process) ready(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("ended at once: %s", p.lastLine())
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w: %s", context.Cause(ctx), p.lastLine())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lastLine is the end of the log, for a reason below the table.
func (p *process) lastLine() []byte {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return lines[len(lines)-1]
}

// stop ends the process and what is left of its children.
func (p *process) stop() {
	family, err := processes(p.pid())
	if err != nil {
		family = nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err == nil {
		select {
		case <-p.done:
		case <-time.After(stopPatience):
		}
	}
	// Children that outlived their parent are told by the time they were
	// born at from a process that got the number of one.
	for _, was := range family {
		if is, err := readStat(was.pid); err == nil && is.born == was.born {
			if err := syscall.Kill(was.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				fmt.Fprintf(os.Stderr, "peers: end process %d: %v\n", was.pid, err)
			}
		}
	}
	<-p.done
}

// freeAddress returns an address that nothing listens on.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
