// Package e2e proves the whole cluster: real daemons, real mail programs, real
// failures. Every cluster of a test lives on a loopback address and in a
// directory of its own.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemons.remove()
	os.Exit(status)
}

// daemons are the binaries under test, built when the first test needs them.
var daemons builds

// builds is a directory of binaries.
type builds struct {
	once sync.Once
	dir  string
	own  bool // made here
	err  error
}

// prebuilt names a directory of binaries to test instead of building them.
const prebuilt = "SWITCHYARD_BIN"

// in returns the directory of the daemons' binaries. Under the race detector
// they are built with it too: a daemon that finds a race ends badly, and the
// test with it.
func (b *builds) in(t testing.TB) string {
	t.Helper()
	b.once.Do(func() {
		if b.dir = os.Getenv(prebuilt); b.dir != "" {
			return
		}
		b.own = true
		if b.dir, b.err = os.MkdirTemp("", "switchyard-e2e-bin-"); b.err != nil {
			return
		}
		args := []string{"build", "-o", b.dir + string(filepath.Separator)}
		if raceDetector {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "./cmd/proxyd", "./cmd/backendd", "./cmd/tcpauthd")...)
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("build the daemons: %w\n%s", err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.dir
}

func (b *builds) remove() {
	if b.own {
		os.RemoveAll(b.dir)
	}
}

// slow skips a test that is too long for the check of every commit.
func slow(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("long: runs without -short")
	}
}

// workDir is a directory for one test. It is kept, and named, when the test
// fails.
func workDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "switchyard-"+strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs and configuration are kept in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
