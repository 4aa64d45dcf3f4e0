package e2e

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"switchyard/internal/daemon"
	"switchyard/internal/harness"

	"golang.org/x/sync/errgroup"
)

const (
	// restartFull is the environment variable that asks for the full size.
	restartFull = "SWITCHYARD_RESTART_FULL"

	loginEvery = 20 * time.Millisecond // 50 a second
)

// TestRestart restarts a proxy under idle IMAP sessions and 50 logins a second,
// twice, with a failed attempt in between: no session is cut, no connection is
// refused, no login fails; the newest process's console shows the sessions of all
// three, and kicks those of the oldest. A process ends with its last session, and
// the stop of the newest stops the rest. Full size: 2,000 sessions instead of 500.
func TestRestart(t *testing.T) {
	slow(t)
	sessions := 500
	if os.Getenv(restartFull) != "" {
		sessions = 2000
	}
	// The accounts are in a file, with hashes that cost nothing: what is tried
	// here is not the directory, which a new process has to ask everything anew.
	r := &restarts{loginUser: harness.Account{Name: "login@example.test", Password: "pw-" + rand.Text()}}
	for i := range 10 {
		r.users = append(r.users, harness.Account{Name: fmt.Sprintf("idle%d@example.test", i), Password: "pw-" + rand.Text()})
	}
	accounts := writeFile(t, filepath.Join(t.TempDir(), "accounts"), records(append(r.users[:10:10], r.loginUser)))
	r.cluster = start(t, harness.Spec{
		Backends: []string{"b1"}, Proxies: 1,
		Directory: fmt.Sprintf("[directory]\nkind = \"file\"\n[directory.file]\npath = %q\n", accounts),
	})
	r.proxy = r.Proxies[0]
	r.pids = []int{r.proxy.PID()}
	t.Cleanup(func() { r.stop(t) })
	r.open(t, sessions)

	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() { r.logins(ctx) })
	defer load.Wait()
	defer cancel()

	r.restart(t)
	r.open(t, sessions/10)
	r.failedRestart(t)
	r.restart(t)
	r.open(t, 10)
	r.alive(t)

	var who struct {
		Total      int
		Incomplete string
		Sessions   []struct {
			User    string
			Process int
		}
	}
	r.ask(t, "GET", "/sessions", "", &who)
	byProcess := make(map[int]int)
	for _, s := range who.Sessions {
		if s.User != r.loginUser.Name {
			byProcess[s.Process]++
		}
	}
	if byProcess[r.pids[0]] != sessions || byProcess[r.pids[1]] != sessions/10 || byProcess[0] < 10 || who.Incomplete != "" {
		t.Errorf("who shows %v (%s), want %d sessions of process %d, %d of %d, and the newest's 10",
			byProcess, who.Incomplete, sessions, r.pids[0], sessions/10, r.pids[1])
	}

	kicked := r.users[0].Name
	var begun struct{ Sessions int }
	r.ask(t, "POST", "/kick", `{"user":"`+kicked+`"}`, &begun)
	var rest []*idler
	n := 0
	for _, s := range r.idle {
		if s.user != kicked {
			rest = append(rest, s)
			continue
		}
		n++
		s.end(t)
	}
	if r.idle = rest; begun.Sessions != n {
		t.Errorf("%d sessions were kicked, want %d", begun.Sessions, n)
	}
	r.alive(t)

	cancel()
	load.Wait()
	if failures := r.failures.list(); len(failures) > 0 {
		t.Errorf("%d of %d logins failed, the first: %s", len(failures), r.done.Load(), failures[0])
	}
	t.Logf("%d sessions through %d processes, %d logins", len(r.idle), len(r.pids), r.done.Load())

	// The second process's sessions end, and so does it; the first goes on.
	rest = nil
	for _, s := range r.idle {
		if s.process == 1 {
			s.conn.Close()
		} else {
			rest = append(rest, s)
		}
	}
	r.idle = rest
	eventually(t, "the second process ends with its last session", func() error { return ended(r.pids[1]) })
	r.alive(t)
}

// records is a file of accounts.
func records(accounts []harness.Account) string {
	var b strings.Builder
	for _, a := range accounts {
		sum := sha256.Sum256([]byte(a.Password + "salt"))
		fmt.Fprintf(&b, "%s:{SSHA256}%s:tohost=\"b1\"\n", a.Name, base64.StdEncoding.EncodeToString(append(sum[:], "salt"...)))
	}
	return b.String()
}

// restarts is a proxy that is restarted.
type restarts struct {
	*cluster
	proxy     *harness.Proxy
	pids      []int // the oldest first
	users     []harness.Account
	loginUser harness.Account
	idle      []*idler // in the order in which they were opened
	done      atomic.Int64
	failures  failures
}

type failures struct {
	mu  sync.Mutex
	all []string
}

func (f *failures) add(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, text)
}

func (f *failures) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all)
}

// idler is a session that is logged in and waits.
type idler struct {
	user    string
	process int // which of the processes has it
	conn    net.Conn
	r       *bufio.Reader
}

// end reads to the end of the session, which must come.
func (s *idler) end(t testing.TB) {
	t.Helper()
	defer s.conn.Close()
	s.conn.SetDeadline(time.Now().Add(sessionTimeout))
	for {
		switch _, err := s.r.ReadString('\n'); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Errorf("a session of %s does not end", s.user)
			return
		case err != nil:
			return
		}
	}
}

// command says something and reads to its tagged answer.
func (s *idler) command(text string) error {
	s.conn.SetDeadline(time.Now().Add(sessionTimeout))
	if _, err := fmt.Fprintf(s.conn, "a %s\r\n", text); err != nil {
		return err
	}
	for {
		line, err := s.r.ReadString('\n')
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(line, "a OK"):
			return nil
		case strings.HasPrefix(line, "a "):
			return fmt.Errorf("%s", strings.TrimSpace(line))
		}
	}
}

func (r *restarts) login(a harness.Account) (*idler, error) {
	conn, err := tryDial("", r.proxy.Addr["imap"])
	if err != nil {
		return nil, err
	}
	s := &idler{user: a.Name, conn: conn, r: bufio.NewReader(conn)}
	greeting, err := s.r.ReadString('\n')
	if err == nil && !strings.HasPrefix(greeting, "* OK") {
		err = fmt.Errorf("greeted with %q", greeting)
	}
	if err == nil {
		err = s.command("LOGIN " + a.Name + " " + a.Password)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// open opens idle sessions, the same number for each user.
func (r *restarts) open(t *testing.T, n int) {
	t.Helper()
	opened := make([]*idler, n)
	var group errgroup.Group
	group.SetLimit(8)
	for i := range n {
		group.Go(func() (err error) {
			opened[i], err = r.login(r.users[i%len(r.users)])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatalf("open sessions: %v", err)
	}
	for _, s := range opened {
		s.process = len(r.pids) - 1
		t.Cleanup(func() { s.conn.Close() })
	}
	r.idle = append(r.idle, opened...)
}

// logins logs in and out, 50 times a second as far as the machine can, until ctx
// ends.
func (r *restarts) logins(ctx context.Context) {
	var group errgroup.Group
	group.SetLimit(25) // more at once would be turned away as a flood
	defer group.Wait()
	tick := time.NewTicker(loginEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			group.TryGo(func() error {
				s, err := r.login(r.loginUser)
				if err == nil {
					err = s.command("LOGOUT")
					s.conn.Close()
				}
				if r.done.Add(1); err != nil {
					r.failures.add(err.Error())
				}
				return nil
			})
		case <-ctx.Done():
			return
		}
	}
}

// alive asks every idle session for a sign of life.
func (r *restarts) alive(t *testing.T) {
	t.Helper()
	for i, s := range r.idle {
		if err := s.command("NOOP"); err != nil {
			t.Fatalf("session %d of %d, of %s: %v", i, len(r.idle), s.user, err)
		}
	}
}

// announced is what the newest process says of itself.
func (r *restarts) announced() (a daemon.Announcement) {
	b, _ := os.ReadFile(filepath.Join(r.Spec.Dir, r.proxy.Name+".ready"))
	json.Unmarshal(b, &a)
	return a
}

func (r *restarts) newest() int { return r.pids[len(r.pids)-1] }

// restart lets a new process take over, and waits until the old one has let go.
func (r *restarts) restart(t *testing.T) {
	t.Helper()
	old := r.newest()
	let := len(lines(t, r.proxy.Log, tookOver))
	if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new process is ready", func() error {
		if r.announced().PID == old {
			return fmt.Errorf("process %d is the newest", old)
		}
		return nil
	})
	r.pids = append(r.pids, r.announced().PID)
	eventually(t, "the old process has let go", func() error { return counts(len(lines(t, r.proxy.Log, tookOver)), let+1) })
}

func tookOver(l line) bool { return strings.HasPrefix(l.Msg, "a new process has taken over") }

// failedRestart breaks the configuration: the new process cannot start, and the
// old one goes on.
func (r *restarts) failedRestart(t *testing.T) {
	t.Helper()
	good, err := os.ReadFile(r.proxy.Config)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, r.proxy.Config, string(good)+"\nnonsense = 1\n")
	if err := syscall.Kill(r.newest(), syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	awaitLine(t, r.proxy.Log, "the failed restart", func(l line) bool { return strings.HasPrefix(l.Msg, "the new process did not start") })
	writeFile(t, r.proxy.Config, string(good))
	if pid := r.announced().PID; pid != r.newest() {
		t.Errorf("process %d announced itself, with a broken configuration", pid)
	}
	r.alive(t)
}

// ask asks the newest process's console.
func (r *restarts) ask(t *testing.T, method, path, body string, into any) {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+r.proxy.Addr["admin"]+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s: status %d, %v", path, resp.StatusCode, err)
	}
}

// stop stops the newest process, which must end all of them.
func (r *restarts) stop(t *testing.T) {
	syscall.Kill(r.newest(), syscall.SIGTERM)
	for _, pid := range slices.Backward(r.pids) {
		eventually(t, fmt.Sprintf("process %d ends", pid), func() error { return ended(pid) })
	}
}

// ended is an error while a process lives. One that only its parent has not looked
// after yet has ended.
func ended(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil && !strings.Contains(string(b), ") Z ") {
		return fmt.Errorf("process %d lives", pid)
	}
	return nil
}
