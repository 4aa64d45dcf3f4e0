package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// congestion is the congestion control that the comparison runs with, where it
// has a network of its own. Some machines have BBR as their default: it paces
// even the loopback with timers, and the proxies are then compared by how many
// timers they start.
const congestion = "cubic"

// inOwnNetwork runs this program again, in a network namespace that has nothing
// but a loopback: no other program's connections, ports or settings matter, and
// nothing can leave. It waits for the end and returns the program's exit status.
func inOwnNetwork(ctx context.Context, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+roleInside)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err = cmd.Run()
	if errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("make a network namespace: %w; be root, or say -own-network=false", err)
	}
	return err
}

// setUpNetwork brings the loopback of the new namespace up.
func setUpNetwork(ctx context.Context) error {
	for _, command := range []string{
		"link set lo up",
		"route replace local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1 congctl " + congestion,
		"route replace local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1 congctl " + congestion,
	} {
		out, err := exec.CommandContext(ctx, "ip", strings.Fields(command)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w %s (iproute2 is needed, or -own-network=false)", command, err, out)
		}
	}
	return nil
}

// buildProxyd builds proxyd from the tree.
func buildProxyd(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "proxyd")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "switchyard/cmd/proxyd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build proxyd: %w\n%s", err, out)
	}
	return path, nil
}

// network says for the table which congestion control was in use.
func network(own bool) string {
	if own {
		return congestion
	}
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
