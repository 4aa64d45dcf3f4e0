package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// helper is this program again, in another role: it takes orders as lines of
// JSON on its standard input and answers each with a line on its output. It
// ends when its input does.
type helper struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	ends sync.Once
}

func startHelper(role, core string) (*helper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("taskset", "-c", core, self)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the %s: %w", role, err)
	}
	return &helper{cmd: cmd, in: in, out: json.NewDecoder(bufio.NewReader(out))}, nil
}

// ask sends an order and waits for the answer.
func (h *helper) ask(order, answer any) error {
	b, err := json.Marshal(order)
	if err != nil {
		return err
	}
	if _, err := h.in.Write(append(b, '\n')); err != nil {
		return err
	}
	return h.out.Decode(answer)
}

// stop ends it, and whoever waits for an answer. It may be called again.
func (h *helper) stop() {
	h.ends.Do(func() {
		h.in.Close()
		h.cmd.Process.Kill()
		h.cmd.Wait()
	})
}
