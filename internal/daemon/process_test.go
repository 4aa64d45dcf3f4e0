package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
)

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// TestMain lets the test's binary be the daemon that the tests are about.
func TestMain(m *testing.M) {
	switch os.Getenv("DAEMON_TEST") {
	case "":
		os.Exit(m.Run())
	case "hang":
		select {}
	case "fail":
		os.Exit(3)
	}
	if err := toy(); err != nil {
		fmt.Fprintln(os.Stderr, "toy:", err)
		os.Exit(1)
	}
}

// toy is a daemon that tells every client its process's number and goes on
// echoing. Successors of a process whose directory has a file named hang or fail
// do so.
func toy() error {
	dir := os.Getenv("DAEMON_TEST")
	if os.Getenv(handoverVariable) != "" {
		if _, err := os.Stat(filepath.Join(dir, "fail")); err == nil {
			os.Exit(3)
		}
		if _, err := os.Stat(filepath.Join(dir, "hang")); err == nil {
			time.Sleep(patience)
		}
	}
	linger, _ := time.ParseDuration(os.Getenv("DAEMON_TEST_LINGER"))
	log, level := NewLogger(zap.DebugLevel)
	sockets, err := Inherit(log)
	if err != nil {
		return err
	}
	ln, err := sockets.Listen("echo", os.Getenv("DAEMON_TEST_ADDRESS"))
	if err != nil {
		return err
	}
	admin, err := sockets.Listen("admin", os.Getenv("DAEMON_TEST_ADMIN"))
	if err != nil {
		return err
	}
	ctx, stop := Signals(context.Background())
	defer stop()
	var live atomic.Int64
	who := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, os.Getpid(), live.Load())
		if r.URL.Query().Has("all") {
			sockets.Elders().Each(r.Context(), "GET", "/who", nil, func(_, _ int, body []byte) error {
				_, err := w.Write(body)
				return err
			})
		}
	})
	p := &Process{
		Sockets: sockets, Sessions: func() int { return int(live.Load()) }, Handlers: map[string]http.Handler{"GET /who": who},
		RunDir: dir, StartTimeout: 3 * time.Second, Linger: linger, Logger: log,
		Reload: func() error { return os.WriteFile(filepath.Join(dir, "reloaded"), nil, 0o600) },
	}
	done := make(chan error, 2)
	go func() { done <- p.Run(ctx, stop) }()
	go func() {
		done <- ServeAdmin(ctx, admin, Admin{Name: "toy", Level: level, Handlers: map[string]http.Handler{"GET /who": who}})
	}()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			live.Add(1)
			go func() {
				defer live.Add(-1)
				defer conn.Close()
				fmt.Fprintln(conn, os.Getpid())
				io.Copy(conn, conn)
			}()
		}
	}()
	if err := Announce(filepath.Join(dir, "ready"), []Listener{ln, admin}); err != nil {
		return err
	}
	if err := sockets.Serving(); err != nil {
		return err
	}
	<-ctx.Done()
	ln.Close()
	return errors.Join(<-done, <-done, sockets.StopElders(context.Background()))
}

// rig is a running toy.
type rig struct {
	t           *testing.T
	dir         string
	echo, admin string
	first       int
}

func startToy(t *testing.T, more func(*exec.Cmd)) *rig {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: t.TempDir()}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "DAEMON_TEST="+r.dir, "DAEMON_TEST_ADDRESS=127.0.0.1:0", "DAEMON_TEST_ADMIN=127.0.0.1:0")
	log, err := os.Create(filepath.Join(r.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if more != nil {
		more(cmd)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		// The first may or may not know yet that it has a successor.
		syscall.Kill(r.announced().PID, syscall.SIGTERM)
		syscall.Kill(r.first, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			cmd.Process.Kill()
			t.Error("the first process did not end")
		}
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s", text)
		}
	})
	r.first = cmd.Process.Pid
	r.until("the toy is ready", func() bool { return r.announced().PID == r.first })
	a := r.announced()
	r.echo, r.admin = a.Listeners["echo"][0], a.Listeners["admin"][0]
	return r
}

func (r *rig) announced() (a Announcement) {
	b, _ := os.ReadFile(filepath.Join(r.dir, "ready"))
	json.Unmarshal(b, &a)
	return a
}

func (r *rig) until(what string, is func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not after %v", what, patience)
		}
	}
}

func (r *rig) logged(text string) bool {
	b, _ := os.ReadFile(filepath.Join(r.dir, "log"))
	return strings.Contains(string(b), text)
}

func (r *rig) signal(pid int, sig syscall.Signal) {
	r.t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		r.t.Fatal(err)
	}
}

// session is a connection to a toy.
type session struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
	pid  int
}

func (r *rig) dial() *session {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.echo)
	if err != nil {
		r.t.Fatalf("a connection is refused: %v", err)
	}
	s := &session{t: r.t, conn: conn, in: bufio.NewReader(conn)}
	s.pid, err = strconv.Atoi(s.line())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (s *session) line() string {
	s.t.Helper()
	s.conn.SetDeadline(time.Now().Add(patience))
	line, err := s.in.ReadString('\n')
	if err != nil {
		s.t.Fatalf("a session is cut: %v", err)
	}
	return strings.TrimSpace(line)
}

func (s *session) alive() {
	s.t.Helper()
	fmt.Fprintln(s.conn, "still there")
	if got := s.line(); got != "still there" {
		s.t.Fatalf("got %q", got)
	}
}

func (r *rig) get(path string) string {
	r.t.Helper()
	response, err := http.Get("http://" + r.admin + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// TestTakeover: through two restarts no session is cut and no connection
// refused; the newest process sees the sessions of all, each old one ends with
// its last session, and stopping the newest stops the rest.
func TestTakeover(t *testing.T) {
	t.Parallel()
	r := startToy(t, nil)
	sessions := []*session{r.dial()}
	pids := []int{r.first}
	for range 2 {
		before := pids[len(pids)-1]
		r.signal(before, syscall.SIGUSR2)
		r.until("a new process is ready", func() bool { return r.announced().PID != before })
		pids = append(pids, r.announced().PID)
		r.until("the old process has stopped accepting", func() bool {
			s := r.dial()
			defer s.conn.Close()
			s.alive()
			return s.pid == pids[len(pids)-1]
		})
		for range 20 {
			s := r.dial()
			if s.pid != pids[len(pids)-1] {
				t.Fatalf("process %d accepts, which is not the newest", s.pid)
			}
			s.conn.Close()
		}
		sessions = append(sessions, r.dial())
	}
	for i, s := range sessions {
		if s.alive(); s.pid != pids[i] {
			t.Errorf("session %d is with process %d, want %d", i, s.pid, pids[i])
		}
	}
	r.until("the newest shows the sessions of all", func() bool {
		all := r.get("/who?all")
		for _, pid := range pids {
			if !strings.Contains(all, fmt.Sprintf("%d 1\n", pid)) {
				return false
			}
		}
		return true
	})
	sessions[1].conn.Close()
	r.until("the second process ends with its session", func() bool {
		return errors.Is(syscall.Kill(pids[1], 0), syscall.ESRCH) || zombie(pids[1])
	})
	sessions[0].alive()
	if all := r.get("/who?all"); strings.Contains(all, strconv.Itoa(pids[1])) || !strings.Contains(all, strconv.Itoa(pids[0])) {
		t.Errorf("got %q", all)
	}
	sessions[0].alive()
	r.signal(pids[2], syscall.SIGTERM)
	for _, i := range []int{0, 2} {
		sessions[i].conn.SetDeadline(time.Now().Add(patience))
		if b, err := sessions[i].in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("session %d: got %q, %v, want its end with the newest process", i, b, err)
		}
	}
	r.until("no socket is left", func() bool {
		left, err := filepath.Glob(filepath.Join(r.dir, "switchyard-*"))
		return err == nil && len(left) == 0
	})
}

// TestLinger: an old process whose time is over ends with the sessions that it has.
func TestLinger(t *testing.T) {
	t.Parallel()
	r := startToy(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "DAEMON_TEST_LINGER=50ms") })
	s := r.dial()
	r.signal(r.first, syscall.SIGUSR2)
	r.until("a new process is ready", func() bool { return r.announced().PID != r.first })
	s.conn.SetDeadline(time.Now().Add(patience))
	if b, err := s.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v, want the session's end", b, err)
	}
	if again := r.dial(); again.pid == r.first {
		t.Error("the old process accepts")
	}
}

// zombie reports whether a process has ended and its parent, which lives, has not
// looked.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

// TestFailedTakeover: a new process that fails, or never becomes ready, leaves
// the old one as it was, and able to try again.
func TestFailedTakeover(t *testing.T) {
	t.Parallel()
	r := startToy(t, nil)
	s := r.dial()
	for _, how := range []string{"fail", "hang"} {
		file := filepath.Join(r.dir, how)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"fail": "it ended before it was ready", "hang": "wait for it"}[how]
		r.signal(r.first, syscall.SIGUSR2)
		r.until("the failure is logged", func() bool { return r.logged(want) })
		s.alive()
		if again := r.dial(); again.pid != r.first {
			t.Errorf("%s: process %d answers", how, again.pid)
		}
		if got := r.get("/who?all"); !strings.HasPrefix(got, strconv.Itoa(r.first)+" ") || strings.Count(got, "\n") != 1 {
			t.Errorf("%s: got %q", how, got)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	r.signal(r.first, syscall.SIGUSR2)
	r.until("a new process is ready", func() bool { return r.announced().PID != r.first })
	s.alive()
}

// TestReloadSignal: SIGHUP reloads, and ends nothing.
func TestReloadSignal(t *testing.T) {
	t.Parallel()
	r := startToy(t, nil)
	s := r.dial()
	r.signal(r.first, syscall.SIGHUP)
	r.until("reloaded", func() bool {
		_, err := os.Stat(filepath.Join(r.dir, "reloaded"))
		return err == nil
	})
	s.alive()
}

// TestSystemdSockets: sockets that systemd opened are used for the addresses that
// they listen on, what is left over is closed, and systemd hears that the daemon
// is ready.
func TestSystemdSockets(t *testing.T) {
	t.Parallel()
	var files []*os.File
	var addresses []string
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		ln.Close()
		files, addresses = append(files, f), append(addresses, ln.Addr().String())
	}
	path := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	r := startToy(t, func(cmd *exec.Cmd) {
		cmd.ExtraFiles = files
		// Only a shell can know the number of the process that it becomes.
		cmd.Args = []string{"sh", "-c", "export LISTEN_PID=$$; exec " + cmd.Path}
		cmd.Path = "/bin/sh"
		cmd.Env = append(cmd.Env, "LISTEN_FDS=2", "LISTEN_FDNAMES=one:two", "NOTIFY_SOCKET="+path, "DAEMON_TEST_ADDRESS="+addresses[1])
	})
	if r.echo != addresses[1] {
		t.Fatalf("serves %s, want systemd's %s", r.echo, addresses[1])
	}
	for _, f := range files {
		f.Close()
	}
	s := r.dial()
	s.alive()
	r.until("the other socket is closed", func() bool {
		conn, err := net.Dial("tcp", addresses[0])
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	heard := func() string {
		b := make([]byte, 1000)
		systemd.SetReadDeadline(time.Now().Add(patience))
		n, err := systemd.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if got, want := heard(), fmt.Sprintf("READY=1\nMAINPID=%d", s.pid); got != want {
		t.Errorf("systemd hears %q, want %q", got, want)
	}
	r.signal(s.pid, syscall.SIGUSR2)
	r.until("a new process is ready", func() bool { return r.announced().PID != s.pid })
	if got, want := heard(), fmt.Sprintf("READY=1\nMAINPID=%d", r.announced().PID); got != want {
		t.Errorf("systemd hears %q, want %q", got, want)
	}
	s.alive()
}

func TestSameAddress(t *testing.T) {
	for _, c := range []struct {
		socket, configured string
		want               bool
	}{
		{"127.0.0.1:143", "127.0.0.1:143", true}, {"[::ffff:127.0.0.1]:143", "127.0.0.1:143", true},
		{"[::]:143", ":143", true}, {"[::]:143", "0.0.0.0:143", true}, {"0.0.0.0:143", "[::]:143", true},
		{"127.0.0.1:143", "127.0.0.1:144", false}, {"127.0.0.1:143", ":143", false}, {"127.0.0.1:143", "127.0.0.2:143", false},
		{"127.0.0.1:143", "127.0.0.1:0", false}, {"127.0.0.1:143", "nonsense", false},
	} {
		at, err := net.ResolveTCPAddr("tcp", c.socket)
		if err != nil {
			t.Fatal(err)
		}
		if got := sameAddress(at, c.configured); got != c.want {
			t.Errorf("%s for %s: got %v", c.socket, c.configured, got)
		}
	}
}
