package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// peer is one proxy that takes part.
type peer struct {
	name  string
	title string

	// version asks the program for its own.
	version func() (string, error)

	// start configures and starts the proxy for one work, in a directory of
	// its own, so that nothing but this work is in its memory.
	start func(b *bench, j job) (*running, error)

	// forks says that each session is a process: it gets fewer idle ones.
	forks bool
}

// job is what a proxy is started for.
type job struct {
	service string
	tls     bool
	dir     string
	address string // where the proxy listens
	stub    string // where the backend listens
}

// running is a started proxy.
type running struct {
	proxy  *process
	helper *process // nil for none; its CPU counts separately
}

func (r *running) stop() {
	r.proxy.stop()
	if r.helper != nil {
		r.helper.stop()
	}
}

func allPeers() []peer {
	return []peer{haproxy(), nginx(), dovecot(), perdition(), proxyd()}
}

// ours is the name of the peer that the others are compared with.
const ours = "proxyd"

func peerNames() []string {
	var names []string
	for _, p := range allPeers() {
		names = append(names, p.name)
	}
	return names
}

// errUnsupported says that a proxy cannot do the work at all.
var errUnsupported = errors.New("does not speak this protocol")

// installed finds a program, in the administrator's directories too.
func installed(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	path := filepath.Join("/usr/sbin", program)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not installed", program)
	}
	return path, nil
}

// versionOf runs a program and returns the first of its words that begins with
// a digit, or has one behind a prefix.
func versionOf(prefix string, command ...string) (string, error) {
	path, err := installed(command[0])
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, command[1:]...).CombinedOutput()
	if version := versionIn(string(out), prefix); version != "" {
		return version, nil
	}
	return "", fmt.Errorf("no version in what %s says (%v)", command[0], err)
}

// versionIn finds a version such as 1.22.1 in a text.
func versionIn(text, prefix string) string {
	for word := range strings.FieldsSeq(text) {
		if v, found := strings.CutPrefix(word, prefix); found && v != "" && v[0] >= '0' && v[0] <= '9' {
			if end := strings.IndexFunc(v, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }); end > 0 {
				v = v[:end]
			}
			return v
		}
	}
	return ""
}

// write puts a configuration file into a job's directory, with ${words}
// replaced.
func (j job) write(name, text string, words map[string]string) (string, error) {
	host, port, err := net.SplitHostPort(j.address)
	if err != nil {
		return "", err
	}
	stubHost, stubPort, err := net.SplitHostPort(j.stub)
	if err != nil {
		return "", err
	}
	all := map[string]string{
		"dir": j.dir, "address": j.address, "host": host, "port": port,
		"stub": j.stub, "stub_host": stubHost, "stub_port": stubPort, "service": j.service,
	}
	path := filepath.Join(j.dir, name)
	text = os.Expand(text, func(word string) string {
		if v, ok := words[word]; ok {
			return v
		}
		if v, ok := all[word]; ok {
			return v
		}
		return "$" + word // nginx's own variables
	})
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// expandOnce replaces one ${word} and leaves the others.
func expandOnce(text, word, with string) string {
	return strings.ReplaceAll(text, "${"+word+"}", with)
}
