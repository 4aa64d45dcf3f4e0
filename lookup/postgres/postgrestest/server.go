// Package postgrestest starts PostgreSQL servers for tests. It is for _test.go
// files only.
package postgrestest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// Server is a PostgreSQL server that the test started.
type Server struct {
	t         testing.TB
	bin, root string // root: where its socket is
	cmd       *exec.Cmd
	exited    chan struct{}
	databases atomic.Int64
}

// New makes and starts a server, which ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	c := &Server{t: t, bin: binaries(t)}
	// Not t.TempDir: only root can look into that.
	root, err := os.MkdirTemp("", "switchyard-pg")
	if err != nil {
		t.Fatal(err)
	}
	c.root = root
	t.Cleanup(func() { os.RemoveAll(root) })
	if id := c.credential(); id != nil {
		if err := os.Chown(root, int(id.Uid), int(id.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	initdb := c.command("initdb", "-D", c.data(), "-U", "test", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	t.Cleanup(c.Kill)
	c.Start()
	return c
}

// binaries finds PostgreSQL's programs: where Debian has them, or on the path.
func binaries(t testing.TB) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) > 0 {
		slices.SortFunc(found, func(a, b string) int { return majorOf(a) - majorOf(b) })
		return filepath.Dir(found[len(found)-1])
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path)
	}
	const missing = "PostgreSQL is missing: apt install postgresql"
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

func majorOf(path string) int {
	major, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return major
}

func (c *Server) data() string { return filepath.Join(c.root, "data") }

// credential is who the server runs as: it refuses to be root.
func (c *Server) credential() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, _ := strconv.Atoi(u.Uid)
			gid, _ := strconv.Atoi(u.Gid)
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	c.t.Fatal("there is nobody to run PostgreSQL as")
	return nil
}

func (c *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = c.root
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=" + c.root}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.credential()}
	return cmd
}

// Start runs the server until it answers. After a kill, the old one's last
// processes may still be there.
func (c *Server) Start() {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		var log bytes.Buffer
		cmd := c.command("postgres", "-D", c.data(), "-c", "listen_addresses=", "-c", "unix_socket_directories="+c.root,
			"-c", "port=5432", "-c", "max_connections=200", "-c", "shared_buffers=16MB", "-c", "max_wal_size=2GB",
			// The machine goes on when the server is killed.
			"-c", "fsync=off", "-c", "full_page_writes=off",
			// What is shared goes with the directory, also after a kill.
			"-c", "dynamic_shared_memory_type=mmap",
			// Nothing that a test does not need.
			"-c", "autovacuum=off", "-c", "jit=off", "-c", "wal_level=minimal", "-c", "max_wal_senders=0")
		cmd.Stdout, cmd.Stderr = &log, &log
		if err := cmd.Start(); err != nil {
			c.t.Fatal(err)
		}
		exited := make(chan struct{})
		go func() {
			defer close(exited)
			cmd.Wait()
		}()
		c.cmd, c.exited = cmd, exited
		if c.answers(deadline) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("PostgreSQL does not start within %v:\n%s", patience, log.String())
		}
	}
}

// answers waits until the server does, or has exited.
func (c *Server) answers(deadline time.Time) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		conn, err := pgx.Connect(ctx, c.DSN("postgres"))
		if err == nil {
			conn.Close(ctx)
			cancel()
			return true
		}
		cancel()
		select {
		case <-c.exited:
			return false
		case <-tick.C:
		}
	}
	return false
}

// DSN is the connection string of a database; the server has a socket only.
func (c *Server) DSN(database string) string {
	return fmt.Sprintf("host=%s port=5432 user=test dbname=%s", c.root, database)
}

// processes returns the server's, the first one first.
func (c *Server) processes() []int {
	pids := []int{c.cmd.Process.Pid}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue
		}
		// pid (name) state ppid …
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if len(fields) > 1 && fields[1] == strconv.Itoa(c.cmd.Process.Pid) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// Signal reaches every process of the server.
func (c *Server) Signal(sig syscall.Signal) {
	for _, pid := range c.processes() {
		syscall.Kill(pid, sig)
	}
}

// Stop ends the server in order.
func (c *Server) Stop() {
	c.t.Helper()
	c.cmd.Process.Signal(syscall.SIGINT) // fast shutdown
	select {
	case <-c.exited:
	case <-time.After(patience):
		c.t.Fatalf("PostgreSQL does not stop within %v", patience)
	}
}

// Kill ends it with SIGKILL. More than once is fine.
func (c *Server) Kill() {
	select {
	case <-c.exited:
		return
	default:
	}
	c.cmd.Process.Signal(syscall.SIGSTOP) // it starts no more
	c.Signal(syscall.SIGKILL)
	<-c.exited
}

// NewDatabase makes an empty database and returns its connection string.
func (c *Server) NewDatabase(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("d%d", c.databases.Add(1))
	c.Exec(t, "postgres", "CREATE DATABASE "+name)
	return c.DSN(name)
}

// Exec runs statements in a database.
func (c *Server) Exec(t testing.TB, database, sql string) {
	t.Helper()
	ExecSQL(t, c.DSN(database), sql)
}

// ExecSQL runs statements on a connection of its own.
func ExecSQL(t testing.TB, dsn, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Root is the directory in which the server has its socket.
func (c *Server) Root() string { return c.root }
