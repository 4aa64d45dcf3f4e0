package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"switchyard/internal/daemon"
	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/nwauth/hash"
	"switchyard/lookup/tcpauth"
)

// asDaemon names the environment variable that makes the test binary the
// daemon.
const asDaemon = "TCPAUTHD_TEST_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		main()
		os.Exit(0)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil { // they wait more than they work
		panic(err)
	}
	os.Exit(m.Run())
}

const patience = 20 * time.Second

// process is a running tcpauthd.
type process struct {
	t       testing.TB
	dir     string
	cmd     *exec.Cmd
	log     *os.File
	address string
	admin   string
}

const secret = "open sesame"

// writeConfig makes a directory with a configuration and its secret.
func writeConfig(t *testing.T, address string, more ...string) string {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf("[tcpauthd]\naddress = %q\nadmin = \"127.0.0.1:0\"\ndata = \"users\"\nsecret = { file = \"secret\" }\n%s\n", address, strings.Join(more, "\n"))
	for name, content := range map[string]string{"tcpauthd.toml": text, "secret": secret + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// start runs the daemon in dir and waits until it is ready.
func start(t testing.TB, dir string) *process {
	t.Helper()
	ready := filepath.Join(dir, "ready")
	os.Remove(ready)
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, dir: dir, log: log, cmd: exec.Command(os.Args[0], "-config", filepath.Join(dir, "tcpauthd.toml"), "-ready", ready)}
	p.cmd.Env = append(os.Environ(), asDaemon+"=1")
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if text, err := os.ReadFile(ready); err == nil {
			var a daemon.Announcement
			if err := json.Unmarshal(text, &a); err != nil {
				t.Fatal(err)
			}
			p.address = a.Listeners[tcpauthName][0]
			if admin := a.Listeners[adminName]; len(admin) > 0 {
				p.admin = admin[0]
			}
			return p
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Fatalf("tcpauthd is not ready within %v:\n%s", patience, text)
		}
		<-tick.C
	}
}

// kill ends the process with SIGKILL. More than once is fine.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.log.Close()
}

func (p *process) client(opts tcpauth.ClientOptions) *tcpauth.Client {
	p.t.Helper()
	opts.Secret = secret
	c, err := tcpauth.NewClient([]string{p.address}, opts)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

// load fills the database with the suite's accounts before the daemon runs:
// with cheap hashes, which keep the suite quick.
func load(t *testing.T, dir string) {
	t.Helper()
	db, err := nwauth.Open(filepath.Join(dir, "users"), nwauth.Options{Argon2: hash.Argon2{Memory: 64, Passes: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, r := range lookuptest.Accounts() {
		if _, err := db.Set(t.Context(), r.Name, &r.Password, labelsOf(r)); err != nil {
			t.Fatalf("set %s: %v", r.Name, err)
		}
	}
}

// labelsOf are a record's labels.
func labelsOf(r lookuptest.Record) map[string]string {
	labels := map[string]string{
		"tohost": r.Home, "homegen": strconv.FormatUint(r.Generation, 10), "mailstatus": string(r.Status),
		"quota": strconv.FormatInt(r.Quota, 10), "fwd": strings.Join(r.Forwards, ","),
	}
	for label, value := range r.Attributes {
		labels[label] = value
	}
	return labels
}

// TestContract runs the directory's contract against the real process, which
// is killed and started again, and stopped and continued.
func TestContract(t *testing.T) {
	t.Parallel()
	dir := writeConfig(t, freeAddress(t))
	load(t, dir)
	var p *process
	stopped := false
	lookuptest.Run(t, lookuptest.Fixture{
		Open: func(t *testing.T) lookup.Directory {
			if p != nil {
				p.kill()
			}
			p = start(t, dir)
			attempt := patience
			if strings.HasSuffix(t.Name(), "/hanging") {
				attempt = time.Second
			}
			return p.client(tcpauth.ClientOptions{Timeout: patience, Attempt: attempt})
		},
		Break: func(t *testing.T) { p.kill() },
		Hang: func(t *testing.T) {
			stopped = true
			if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			// Its threads stop one after another.
			var status syscall.WaitStatus
			for !status.Stopped() {
				if _, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil {
					t.Fatal(err)
				}
			}
		},
		Mend: func(t *testing.T) {
			if !stopped {
				p = start(t, dir)
				return
			}
			stopped = false
			if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
		},
		Timeout: time.Second,
	})
}

// freeAddress finds an address that the process can have again and again: of a
// loopback host that is nobody else's.
func freeAddress(t *testing.T) string {
	t.Helper()
	pid, n := os.Getpid(), hosts.Add(1)
	ln, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 64+pid>>8&63, pid&255, n&255))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// hosts counts what freeAddress has given away.
var hosts atomic.Int64

// TestKill kills the process with changes in flight: what was acknowledged is
// there afterwards.
func TestKill(t *testing.T) {
	t.Parallel()
	const rounds, writers = 20, 8
	dir := writeConfig(t, "127.0.0.1:0")
	p := start(t, dir)
	var mu sync.Mutex
	var newest [writers]int
	seed := p.client(tcpauth.ClientOptions{Timeout: patience})
	password := "p"
	for w := range writers {
		if err := seed.Set(t.Context(), fmt.Sprintf("user%d@x.test", w), &password, map[string]string{"tohost": "b0"}); err != nil {
			t.Fatal(err)
		}
	}
	total := 0
	for round := range rounds {
		c := p.client(tcpauth.ClientOptions{Timeout: patience})
		enough := make(chan struct{})
		count := 0
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				name := fmt.Sprintf("user%d@x.test", w)
				for n := newest[w] + 1; ; n++ {
					value := fmt.Sprint(n)
					if err := c.Set(ctx, name, nil, map[string]string{"n": value, "tohost": "b" + value}); err != nil {
						return
					}
					mu.Lock()
					newest[w] = n
					if count++; count == 15+4*round {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		p.kill()
		cancel()
		wg.Wait()
		total += count
		p = start(t, dir)
		after := p.client(tcpauth.ClientOptions{Timeout: patience})
		for w := range writers {
			name := fmt.Sprintf("user%d@x.test", w)
			a, err := after.Lookup(t.Context(), name)
			if err != nil {
				t.Fatalf("round %d: %s: %v", round, name, err)
			}
			got, _ := strconv.Atoi(a.Attributes["n"])
			if got != newest[w] && got != newest[w]+1 {
				t.Errorf("round %d: %s has %d, acknowledged was %d", round, name, got, newest[w])
			}
			// Each change was a move: the generation counts them.
			if a.Home != fmt.Sprint("b", got) || a.Generation != uint64(got)+1 {
				t.Errorf("round %d: %s: home %s and generation %d with the number %d", round, name, a.Home, a.Generation, got)
			}
			newest[w] = got
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d changes acknowledged in %d rounds", total, rounds)
}

// TestStop: SIGTERM ends the process in order, and the admin listener tells
// how it is.
func TestStop(t *testing.T) {
	t.Parallel()
	p := start(t, writeConfig(t, "127.0.0.1:0"))
	resp, err := http.Get("http://" + p.admin + "/readyz")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("readyz: got %v, %v", resp, err)
	}
	if err == nil {
		resp.Body.Close()
	}
	if v, err := p.client(tcpauth.ClientOptions{Timeout: patience}).Version(t.Context()); err != nil || !strings.HasPrefix(v, "switchyard ") {
		t.Errorf("version: got %q, %v", v, err)
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	text, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil || !strings.Contains(string(text), `"msg":"stopped"`) || strings.Contains(string(text), "sesame") {
		t.Errorf("log, %v:\n%s", err, text)
	}
}

// TestCommandLine: what an operator types.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	dir := writeConfig(t, "127.0.0.1:0")
	config := filepath.Join(dir, "tcpauthd.toml")
	bad := filepath.Join(dir, "bad.toml")
	if err := os.WriteFile(bad, []byte("[tcpauthd]\naddres = \"127.0.0.1:0\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"-version"}, 0, "tcpauthd "},
		{[]string{"-config", config, "-check"}, 0, "is good for tcpauthd"},
		{[]string{"-config", bad, "-check"}, 1, "address"},
		{[]string{"-config", filepath.Join(dir, "none.toml")}, 1, "none.toml"},
		{[]string{"-nosuch"}, 1, "nosuch"},
	} {
		cmd := exec.Command(os.Args[0], c.args...)
		cmd.Env = append(os.Environ(), asDaemon+"=1")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.status || !strings.Contains(string(out), c.want) {
			t.Errorf("%q: got %v, %s, want status %d and %q", c.args, err, out, c.status, c.want)
		}
	}
}

// A database that is open already is not opened twice.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	dir := writeConfig(t, "127.0.0.1:0")
	start(t, dir)
	cmd := exec.Command(os.Args[0], "-config", filepath.Join(dir, "tcpauthd.toml"))
	cmd.Env = append(os.Environ(), asDaemon+"=1")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "open in another process") {
		t.Errorf("got %v, %s", err, out)
	}
}
