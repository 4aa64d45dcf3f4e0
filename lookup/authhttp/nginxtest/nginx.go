// Package nginxtest runs nginx as a mail proxy for tests, with a mail store
// behind it and a mail program in front. It is for _test.go files only.
package nginxtest

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const patience = 20 * time.Second

// missing ends a test that cannot run: as a failure in CI.
func missing(t *testing.T, what string) {
	t.Helper()
	const how = "%s; sudo apt-get install nginx libnginx-mod-mail"
	if os.Getenv("CI") == "true" {
		t.Fatalf(how, what)
	}
	t.Skipf(how, what)
}

// mailModule finds nginx with its mail module.
func mailModule(t *testing.T) (binary, module string) {
	t.Helper()
	binary, err := exec.LookPath("nginx")
	if err != nil {
		missing(t, "nginx is not installed")
	}
	for _, dir := range []string{"/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"} {
		path := filepath.Join(dir, "ngx_mail_module.so")
		if _, err := os.Stat(path); err == nil {
			return binary, path
		}
	}
	missing(t, "nginx has no mail module")
	return "", ""
}

// Store runs a POP3 server that takes any login and tells who it is for.
func Store(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				fmt.Fprint(conn, "+OK store\r\n")
				lines := bufio.NewScanner(conn)
				user := ""
				for lines.Scan() {
					verb, rest, _ := strings.Cut(lines.Text(), " ")
					switch strings.ToUpper(verb) {
					case "USER":
						user = rest
						fmt.Fprint(conn, "+OK\r\n")
					case "PASS":
						fmt.Fprintf(conn, "+OK welcome %s\r\n", user)
					case "STAT":
						fmt.Fprintf(conn, "+OK 1 %s\r\n", user)
					case "QUIT":
						fmt.Fprint(conn, "+OK bye\r\n")
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return netip.MustParseAddrPort(ln.Addr().String())
}

// Start runs nginx as a mail proxy that asks url with a secret, and returns its
// addresses by protocol: imap, pop3 and smtp. The test is skipped where nginx is
// missing.
func Start(t *testing.T, url, secret string) map[string]string {
	t.Helper()
	binary, module := mailModule(t)
	dir := t.TempDir()
	at := make(map[string]string)
	for _, protocol := range []string{"imap", "pop3", "smtp"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at[protocol] = ln.Addr().String()
		ln.Close()
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	config := fmt.Sprintf(`%s
load_module %s;
daemon off;
master_process off;
worker_processes 1;
pid %s/pid;
error_log stderr notice;
events { worker_connections 64; }
mail {
	auth_http %s;
	auth_http_header Auth-Key "%s";
	proxy_pass_error_message on;
	server_name front;
	server { listen %s; protocol imap; imap_auth plain login; }
	server { listen %s; protocol pop3; pop3_auth plain; }
	server { listen %s; protocol smtp; smtp_auth plain login; }
}
`, user, module, dir, strings.TrimPrefix(url, "http://"), secret, at["imap"], at["pop3"], at["smtp"])
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd := exec.Command(binary, "-p", dir, "-c", path)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("nginx:\n%s", log.String())
		}
	})
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, address := range at {
		for {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("nginx does not listen: %v", err)
			}
			<-tick.C
		}
	}
	return at
}

// Client is a mail program.
type Client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

// Dial connects to nginx.
func Dial(t *testing.T, address string) *Client {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return &Client{t, conn, bufio.NewReader(conn)}
}

// say sends a line and returns the last line of the answer.
func (c *Client) say(line string) string {
	c.t.Helper()
	if line != "" {
		fmt.Fprintf(c.conn, "%s\r\n", line)
	}
	for {
		got, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("%s: %q, %v", line, got, err)
		}
		if !strings.HasPrefix(got, "250-") && !(strings.HasPrefix(line, "a ") && strings.HasPrefix(got, "* ")) {
			return strings.TrimSpace(got)
		}
	}
}

// Want sends a line, unless it is empty, and wants the last line of the answer to
// begin with prefix.
func (c *Client) Want(line, prefix string) {
	c.t.Helper()
	if got := c.say(line); !strings.HasPrefix(got, prefix) {
		c.t.Errorf("%s: got %q, want %q", line, got, prefix)
	}
}
