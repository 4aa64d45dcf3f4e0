package nwauth

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/nwauth/hash"
)

// childDir names the environment variable by which the test binary becomes the
// process that TestKill kills.
const childDir = "NWAUTH_TEST_CHILD"

const childWriters = 8

// child sets one counter for each of several users, as fast as it can, and
// prints each that was acknowledged. The log is merged all the time.
func child(dir string) {
	db, err := Open(dir, Options{Argon2: cheap, LogSize: 2 << 10})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var out sync.Mutex
	for w := range childWriters {
		go func() {
			name := fmt.Sprintf("user%d@x.test", w)
			r, _ := db.Get(name)
			n, _ := strconv.Atoi(r.Labels["n"])
			for {
				n++
				password := fmt.Sprint("p", n)
				if _, err := db.Set(context.Background(), name, &password, pairs("n", fmt.Sprint(n))); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				out.Lock()
				fmt.Println(w, n)
				out.Unlock()
			}
		}()
	}
	select {}
}

// TestKill kills a process with changes in flight. Everything that it
// acknowledged must be there afterwards.
func TestKill(t *testing.T) {
	const rounds = 20
	dir := t.TempDir()
	var newest [childWriters]int
	merges := 0
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged := 0
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var w, n int
			if _, err := fmt.Sscan(lines.Text(), &w, &n); err != nil {
				t.Errorf("child: %s", lines.Text())
				break
			}
			newest[w] = n
			// Killed at another moment each time; what is in the pipe by
			// then was acknowledged too.
			if acknowledged++; acknowledged == 20+7*round {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if t.Failed() {
			return
		}
		if _, err := os.Stat(filepath.Join(dir, oldLogFile)); err == nil {
			merges++
		}
		db, err := Open(dir, quickOptions)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for w, n := range newest {
			name := fmt.Sprintf("user%d@x.test", w)
			r, _ := db.Get(name)
			got, _ := strconv.Atoi(r.Labels["n"])
			if n > 0 && got != n && got != n+1 {
				t.Errorf("round %d: %s has %d, acknowledged was %d", round, name, got, n)
			}
			if got > 0 && !hash.Matches(r.Hash, fmt.Sprint("p", got)) {
				t.Errorf("round %d: %s has the number %d with another password", round, name, got)
			}
			newest[w] = max(n, got)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d rounds, %d of them killed during a merge, counters at %v", rounds, merges, newest)
}

// TestCrashAtEachStep copies the files at every step of writing and merging,
// as they would be after a crash there: all that was written, and only what
// was synced. Each copy must open and have every change that was answered.
func TestCrashAtEachStep(t *testing.T) {
	c := &crasher{t: t, dir: t.TempDir(), copies: memoryDir(t), seen: make(map[string]int), answered: make(map[string]string)}
	db, err := open(c.dir, Options{Argon2: cheap, LogSize: 400}, c.step)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		name := fmt.Sprintf("user%d@x.test", i%7)
		if i%10 == 9 {
			if err := db.Delete(t.Context(), name); err != nil && !errors.Is(err, lookup.ErrAbsent) {
				t.Fatal(err)
			}
			c.answer(name, "")
			continue
		}
		password := "p"
		value := fmt.Sprint(i)
		if _, err := db.Set(t.Context(), name, &password, pairs("n", value, "tohost", value)); err != nil {
			t.Fatal(err)
		}
		c.answer(name, value)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{
		"append", "sync", "synced", "log put aside", "new log",
		"new base", "base written", "base synced", "base renamed", "base in place", "old log removed",
	} {
		if c.seen[step] == 0 {
			t.Errorf("the step %q never came", step)
		}
	}
	if len(c.seen) != 11 {
		t.Errorf("steps: got %v", c.seen)
	}
	t.Logf("%d crashes: %v", c.crashes, c.seen)
}

// memoryDir is a directory where syncing costs nothing, if the machine has one.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "nwauth-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

type crasher struct {
	t   *testing.T
	dir string

	copies string // where the copies go

	mu       sync.Mutex
	seen     map[string]int
	crashes  int
	answered map[string]string // name to the value of n; "" when deleted
	synced   int64             // bytes of the log that survive a power cut
	baseDone bool              // the new base is synced
}

func (c *crasher) answer(name, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered[name] = value
}

// step is called by the committer and by the merge.
func (c *crasher) step(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[what]++
	switch what {
	case "synced":
		if info, err := os.Stat(filepath.Join(c.dir, logFile)); err == nil {
			c.synced = info.Size()
		}
	case "new log":
		c.synced = 0
	case "new base":
		c.baseDone = false
	case "base synced":
		c.baseDone = true
	}
	c.crash(what, func(string) {})
	c.crash(what+", unsynced bytes lost", func(dir string) {
		truncate(c.t, filepath.Join(dir, logFile), c.synced)
		if !c.baseDone {
			truncate(c.t, filepath.Join(dir, newFile), 3)
		}
	})
	c.crash(what+", torn write", func(dir string) {
		f, err := os.OpenFile(filepath.Join(dir, logFile), os.O_APPEND|os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if err != nil {
			c.t.Fatal(err)
		}
		defer f.Close()
		io.WriteString(f, "user1@x.test:torn:n=\"99")
	})
}

// truncate cuts a file that is longer.
func truncate(t *testing.T, path string, size int64) {
	if info, err := os.Stat(path); err == nil && info.Size() > size {
		if err := os.Truncate(path, size); err != nil {
			t.Error(err)
		}
	}
}

// crash opens a copy of the files and compares. The mutex is held, so that
// nothing is answered meanwhile.
func (c *crasher) crash(what string, damage func(dir string)) {
	c.crashes++
	dir, err := os.MkdirTemp(c.copies, "crash")
	if err != nil {
		c.t.Error(err)
		return
	}
	defer os.RemoveAll(dir)
	for _, file := range []string{baseFile, newFile, logFile, oldLogFile} {
		text, err := os.ReadFile(filepath.Join(c.dir, file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			c.t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			c.t.Error(err)
		}
	}
	damage(dir)
	db, err := Open(dir, Options{Argon2: cheap, HashWait: time.Second})
	if err != nil {
		c.t.Errorf("crash at %s: %v", what, err)
		return
	}
	defer db.Close()
	newer := 0
	for name, want := range c.answered {
		r, found := db.Get(name)
		got := r.Labels["n"]
		if got == want && found == (want != "") {
			continue
		}
		// One change is under way and may be there or not.
		if newer++; newer > 1 || found && number(got) < number(want) {
			c.t.Errorf("crash at %s: %s has %q, answered was %q", what, name, got, want)
		}
	}
	for _, file := range []string{newFile, oldLogFile} {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			c.t.Errorf("crash at %s: %s is still there after opening", what, file)
		}
	}
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// TestWriteError: a change that cannot be written is not made, and the next
// one is.
func TestWriteError(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, dir, quickOptions)
	set(t, db, "anna@x.test", "p", "n", "1")
	// A log that cannot be written at all: not even cut back.
	good := db.disk.log
	readOnly, err := os.Open(filepath.Join(dir, logFile))
	if err != nil {
		t.Fatal(err)
	}
	db.disk.log = readOnly
	for range 2 {
		if _, err := db.Set(t.Context(), "anna@x.test", nil, pairs("n", "2")); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("set: got %v, want unavailable", err)
		}
		if r, _ := db.Get("anna@x.test"); r.Labels["n"] != "1" {
			t.Errorf("a change that failed shows: n is %q", r.Labels["n"])
		}
	}
	good.Close()
	db.Close()
	db = openTest(t, dir, quickOptions)
	set(t, db, "anna@x.test", "", "n", "3")
	if r, _ := db.Get("anna@x.test"); r.Labels["n"] != "3" {
		t.Errorf("after reopening: n is %q", r.Labels["n"])
	}
}

func TestMergeKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	opts := quickOptions
	opts.LogSize = 4 << 10
	db := openTest(t, dir, opts)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 60 {
				name := fmt.Sprintf("u%d-%d@x.test", w, i)
				set(t, db, name, "p", "n", fmt.Sprint(i))
				if i%3 == 2 {
					if err := db.Delete(t.Context(), name); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	want := contents(t, db)
	if n := strings.Count(want, "\n"); n != 8*40 || db.Len() != n {
		t.Errorf("got %d lines, %d users, want %d", n, db.Len(), 8*40)
	}
	db.Close()
	if info, err := os.Stat(filepath.Join(dir, baseFile)); err != nil || info.Size() == 0 {
		t.Errorf("no merge happened: %v", err)
	}
	if got := contents(t, openTest(t, dir, opts)); got != want {
		t.Error("the database is another one after reopening")
	}
}
