package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Process is the life of a daemon that can be told to read its configuration
// again (SIGHUP) and to let a new process take its place (SIGUSR2).
//
// The new process is started from the same file with the same arguments, so that
// it is the new version once that is installed. It inherits the listening
// sockets, reads the configuration itself, and says when it accepts connections.
// Until then the old one goes on as if nothing had happened, and for good if the
// new one fails. Behind it the old one accepts no more, keeps its sessions until
// the last has ended, and ends. Meanwhile its console answers to the new one: see
// Elders.
type Process struct {
	Sockets *Sockets

	// Reload reads the configuration again. An error means that all is as it
	// was. Nil: there is nothing to reload.
	Reload func() error

	// Sessions returns how many sessions have not ended.
	Sessions func() int

	// Handlers are the console's, for the new process.
	Handlers map[string]http.Handler

	// RunDir is where the Unix socket of an old process goes, in a directory of
	// its own. Empty means systemd's RuntimeDirectory, without one the
	// system's directory for temporary files.
	RunDir string

	// StartTimeout bounds the start of the new process. Zero means a minute.
	StartTimeout time.Duration

	// Linger bounds how long an old process keeps its sessions. Zero means for
	// as long as they last.
	Linger time.Duration

	// Args are the arguments of the new process. Nil means this one's.
	Args []string

	Logger *zap.Logger // nil: none
}

// quietTime is how long an old process must have had no session before it ends:
// a connection that was accepted last needs a moment to become one.
const quietTime = time.Second

// Run obeys signals until ctx ends, and returns nil then. Stop ends the daemon in
// order; Run calls it when this is an old process and its last session has ended.
func (p *Process) Run(ctx context.Context, stop func()) error {
	if p.Logger == nil {
		p.Logger = zap.NewNop()
	}
	if p.StartTimeout == 0 {
		p.StartTimeout = time.Minute
	}
	defer signal.Stop(p.Sockets.signals)
	for {
		select {
		case sig := <-p.Sockets.signals:
			if sig == syscall.SIGHUP {
				obey(p.Reload, p.Logger)
				continue
			}
			successor, err := p.handOver(ctx, stop)
			if err != nil {
				p.Logger.Error("the new process did not start: this one goes on", zap.Error(err))
				continue
			}
			defer successor.close(ctx)
			p.linger(ctx)
			stop()
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// linger waits until the sessions have ended.
func (p *Process) linger(ctx context.Context) {
	if p.Linger > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.Linger)
		defer cancel()
	}
	p.Logger.Info("a new process has taken over: the sessions here go on", zap.Int("sessions", p.Sessions()))
	tick := time.NewTicker(quietTime)
	defer tick.Stop()
	for quiet := 0; quiet < 2; {
		select {
		case <-tick.C:
			if quiet++; p.Sessions() > 0 {
				quiet = 0
			}
		case <-ctx.Done():
			return
		}
	}
}

// handOver starts the new process and waits until it serves. On an error nothing
// has changed. The caller closes the post that it returns.
func (p *Process) handOver(ctx context.Context, stop func()) (_ *post, err error) {
	dir := p.RunDir
	if dir == "" {
		dir = os.Getenv("RUNTIME_DIRECTORY") // one directory: our unit asks for no more
	}
	mine, err := openPost(dir, p.Handlers, stop)
	if err != nil {
		return nil, fmt.Errorf("open the console for the new process: %w", err)
	}
	defer func() {
		if err != nil {
			mine.close(ctx)
		}
	}()
	p.Logger.Info("starting a new process to take over")
	if err := p.start(ctx, mine.Elder); err != nil {
		return nil, err
	}
	p.Sockets.retire()
	return mine, nil
}

// start runs the new process until it says that it is ready.
func (p *Process) start(ctx context.Context, me Elder) error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	args := p.Args
	if args == nil {
		args = os.Args[1:]
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	files, err := p.Sockets.hand(cmd, write, append(p.Sockets.Elders().List(), me))
	if err == nil {
		err = cmd.Start()
	}
	for _, f := range files {
		f.Close()
	}
	write.Close()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.StartTimeout)
	defer cancel()
	err = awaitReady(ctx, read)
	if err == nil {
		// It is on its own. Should it end before this process does, it stays in
		// the table of processes until then.
		return cmd.Process.Release()
	}
	cmd.Process.Kill()
	return errors.Join(err, cmd.Wait())
}

// hand prepares a command to inherit the sockets. The files are the caller's to
// close.
func (s *Sockets) hand(cmd *exec.Cmd, ready *os.File, elders []Elder) (files []*os.File, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := handover{Elders: elders}
	cmd.ExtraFiles = []*os.File{ready}
	for _, one := range s.open {
		f, err := one.duplicate()
		if err != nil {
			return files, fmt.Errorf("hand %s on %s over: %w", one.name, one.address, err)
		}
		files = append(files, f)
		h.Sockets = append(h.Sockets, handedSocket{one.name, one.address})
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, files...)
	text, err := json.Marshal(h)
	if err != nil {
		return files, err
	}
	cmd.Env = append(os.Environ(), handoverVariable+"="+string(text))
	return files, nil
}

// awaitReady reads the new process's word from the pipe.
func awaitReady(ctx context.Context, pipe *os.File) error {
	defer context.AfterFunc(ctx, func() { pipe.SetReadDeadline(time.Unix(1, 0)) })()
	line, err := bufio.NewReader(pipe).ReadString('\n')
	switch {
	case line == readyWord:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("wait for it: %w", context.Cause(ctx))
	default:
		return fmt.Errorf("it ended before it was ready (%w): its reason is in the log", err)
	}
}

// duplicate returns the socket once more. TCPListener.File would not do: the
// descriptor that it leads to is made a blocking one, for all that share the
// socket, and whoever accepts from it could not be woken up any more.
func (l *socket) duplicate() (*os.File, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	controlErr := raw.Control(func(own uintptr) {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		if fd, err = syscall.Dup(int(own)); err == nil {
			syscall.CloseOnExec(fd)
		}
	})
	if err := errors.Join(controlErr, err); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), l.name), nil
}
