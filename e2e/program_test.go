package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// packages are Debian's names where the program's own is another.
var packages = map[string]string{"mbsync": "isync"}

// program makes sure that a program is there. Without it the test is skipped,
// and fails in CI.
func program(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if p, ok := packages[name]; ok {
		missing(t, name, p)
	}
	missing(t, name, name)
}

// perlModule makes sure that a Perl module is there.
func perlModule(t testing.TB, name, pkg string) {
	t.Helper()
	if err := exec.Command("perl", "-M"+name, "-e", "1").Run(); err != nil {
		missing(t, name, pkg)
	}
}

// missing ends a test that needs a Debian package.
func missing(t testing.TB, name, pkg string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed; sudo apt-get install %s", name, pkg)
	}
	t.Skipf("%s is not installed; sudo apt-get install %s", name, pkg)
}

// job is one run of a program.
type job struct {
	args  []string
	dir   string
	stdin string
	env   []string
	fails bool // it must fail
}

// run runs a program to its end and returns what it printed, standard error
// included.
func (j job) run(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), sessionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, j.args[0], j.args[1:]...)
	cmd.Dir = j.dir
	cmd.Env = append(os.Environ(), j.env...)
	cmd.Stdin = strings.NewReader(j.stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if (err != nil) != j.fails {
		t.Fatalf("%s: %v\n%s", strings.Join(j.args, " "), err, &out)
	}
	return out.String()
}

// writeFile writes a file of a test.
func writeFile(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
