package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// command runs tcpauthd with a directory's configuration.
func command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append([]string{"-config", filepath.Join(dir, "tcpauthd.toml")}, args...)...)
	cmd.Env = append(os.Environ(), asDaemon+"=1")
	return cmd
}

func export(t *testing.T, dir string) string {
	t.Helper()
	cmd := command(dir, "-export", "-")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("export: %v, %s", err, errs.String())
	}
	return string(out)
}

func TestImportAndExport(t *testing.T) {
	t.Parallel()
	dir := writeConfig(t, "127.0.0.1:0")
	file := filepath.Join(dir, "users.txt")
	const good = "anna@x.test:{SSHA}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA==:tohost=\"b1\"\nbob@x.test:$y$j9T$x$y:\n"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good)
	out, err := command(dir, "-import", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "2 users added, 0 replaced, 0 lines left out, 1 users with a password hash that cannot be verified") || !strings.Contains(string(out), "yescrypt") {
		t.Errorf("import: %v, %s", err, out)
	}
	if got := export(t, dir); got != good {
		t.Errorf("export: got\n%s", got)
	}
	// A bad line is named, the others are taken over, and the status says so.
	write("anna@x.test:*:\nrubbish\n")
	out, err = command(dir, "-import", file).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "users.txt: line 2: ") || !strings.Contains(string(out), "0 users added, 1 replaced, 1 lines left out") {
		t.Errorf("import with a bad line: %v, %s", err, out)
	}
	// From standard input, to a file.
	cmd := command(dir, "-import", "-")
	cmd.Stdin = strings.NewReader("zoe@x.test:*:\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("import of standard input: %v, %s", err, out)
	}
	if out, err := command(dir, "-export", file).CombinedOutput(); err != nil || !strings.Contains(string(out), "3 users written") {
		t.Errorf("export to a file: %v, %s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil || string(text) != "anna@x.test:*:\nbob@x.test:$y$j9T$x$y:\nzoe@x.test:*:\n" {
		t.Errorf("exported: %v\n%s", err, text)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("an export that others can read: %v, %v", info.Mode(), err)
	}
	// Not beside the daemon, and not two things at once.
	start(t, dir)
	for _, args := range [][]string{{"-import", file}, {"-export", file}} {
		if out, err := command(dir, args...).CombinedOutput(); err == nil || !strings.Contains(string(out), "stop tcpauthd first") {
			t.Errorf("%v beside the daemon: %v, %s", args, err, out)
		}
	}
	if out, err := command(dir, "-import", file, "-stdio").CombinedOutput(); err == nil || !strings.Contains(string(out), "one at a time") {
		t.Errorf("import and stdio: %v, %s", err, out)
	}
}

func TestBar(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	b := &bar{out: &out, what: "import", size: 1000, terminal: true, start: now, shown: now, now: func() time.Time { return now }}
	now = now.Add(2 * time.Second)
	b.update(100, 250)
	if got := out.String(); got != "\rimport [=======                       ]  25%  100 users, 50 a second, 6s left\x1b[K" {
		t.Errorf("terminal: got %q", got)
	}
	b.update(101, 251) // too soon
	b.update(90, 200)  // never back
	now = now.Add(time.Second)
	b.update(400, 1000)
	b.finish()
	if got := out.String(); strings.Count(got, "\r") != 3 || !strings.HasSuffix(got, "100%  400 users, 133 a second, 0s left\x1b[K\n") {
		t.Errorf("finished: got %q", got)
	}
	out.Reset()
	b = &bar{out: &out, what: "import", start: now, shown: now, now: func() time.Time { return now }}
	b.update(1, 1)
	now = now.Add(lineEvery)
	b.update(1000, 5)
	b.finish()
	if got := out.String(); got != "import: 1000 users, 200 a second\n" {
		t.Errorf("no terminal: got %q", got)
	}
}

// moduleProcess is tcpauthd as a NetWin server runs it.
type moduleProcess struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startModule(t *testing.T, dir string) *moduleProcess {
	t.Helper()
	m := &moduleProcess{t: t, cmd: command(dir, "-stdio")}
	var err error
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.out = bufio.NewReader(out)
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.cmd.Process.Kill(); m.cmd.Wait() })
	return m
}

func (m *moduleProcess) ask(command string, want ...string) {
	m.t.Helper()
	if _, err := io.WriteString(m.in, command+"\n"); err != nil {
		m.t.Fatal(err)
	}
	for _, w := range want {
		if got, err := m.out.ReadString('\n'); got != w+"\n" {
			m.t.Errorf("%s: got %q, %v, want %q", command, got, err, w)
		}
	}
}

// TestModule: the dialogue that NetWin's manuals print, on standard input and
// output; then a second module beside the first, and beside a daemon.
func TestModule(t *testing.T) {
	t.Parallel()
	dir := writeConfig(t, freeAddress(t))
	m := startModule(t, dir)
	m.ask("set bob@test.com bob", "+OK bob@test.com added to database")
	m.ask("lookup bob@test.com", "+OK bob@test.com config 0")
	m.ask("check bob@test.com xxx", "-ERR password wrong or not a valid user")
	m.ask("check bob@test.com bob 192.0.2.1", "+OK bob@test.com config 0")
	m.ask("search bo*@test.com", "+DATA bob@test.com", "+OK Search Complete 1 items found out of 1")
	m.ask(`set bob@test.com (NULL) quota="200" fwd="fred@test.com"`, "+OK bob@test.com added to database")
	m.ask("lookup BOB@test.com", `+OK bob@test.com config 0 fwd="fred@test.com" quota="200"`)
	m.ask("lookup nobody@test.com", "-ERR no such user")
	// No daemon has the database, but this module: another one cannot ask.
	second := startModule(t, dir)
	second.ask("lookup bob@test.com", "-DEAD user database unavailable")
	second.ask("exit", "+OK")
	m.ask("exit", "+OK")
	if _, err := m.out.ReadByte(); err != io.EOF {
		t.Errorf("behind exit: %v", err)
	}
	if err := m.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	// Beside a daemon any number of modules can run.
	start(t, dir)
	for range 2 {
		m := startModule(t, dir)
		m.ask("lookup bob@test.com", `+OK bob@test.com config 0 fwd="fred@test.com" quota="200"`)
		m.ask("set dora@test.com p", "+OK dora@test.com added to database")
		m.ask("search dora -max 5", "+DATA dora@test.com", "+OK Search Complete 1 items found out of 2")
		m.ask("search dora", "+DATA dora@test.com", "+OK Search Complete 1 items found out of 2")
		m.ask("del dora@test.com", "+OK dora@test.com deleted from database")
		m.ask("del dora@test.com", "-ERR no such user")
		m.in.Close() // the server that ran it has ended
		if err := m.cmd.Wait(); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}
	// SIGTERM ends one that waits for a command.
	m = startModule(t, dir)
	m.ask("lookup nobody@test.com", "-ERR no such user")
	m.cmd.Process.Signal(os.Interrupt)
	if err := m.cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}
