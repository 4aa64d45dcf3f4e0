package authhttp

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
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

// pop3Server is a mail store that takes any login and tells who it is for.
func pop3Server(t *testing.T) netip.AddrPort {
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

// nginx runs nginx as a mail proxy that asks url, and returns its addresses.
func nginx(t *testing.T, url string) map[string]string {
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
	auth_http_header Auth-Key sesame;
	proxy_pass_error_message on;
	server_name front;
	server { listen %s; protocol imap; imap_auth plain login; }
	server { listen %s; protocol pop3; pop3_auth plain; }
	server { listen %s; protocol smtp; smtp_auth plain login; }
}
`, user, module, dir, strings.TrimPrefix(url, "http://"), at["imap"], at["pop3"], at["smtp"])
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
			time.Sleep(5 * time.Millisecond) // another process's start
		}
	}
	return at
}

// client is a mail program.
type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func dial(t *testing.T, address string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return &client{t, conn, bufio.NewReader(conn)}
}

// say sends a line and returns the last line of the answer.
func (c *client) say(line string) string {
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

func (c *client) want(line, prefix string) {
	c.t.Helper()
	if got := c.say(line); !strings.HasPrefix(got, prefix) {
		c.t.Errorf("%s: got %q, want %q", line, got, prefix)
	}
}

// TestNginx runs the real program as a mail proxy in front of a store.
func TestNginx(t *testing.T) {
	store := pop3Server(t)
	d := directory(t)
	var mu sync.Mutex
	var seen []string
	h := New(d, func(context.Context, string, string) (netip.AddrPort, error) { return store, nil }, Options{
		Secret: "sesame", DefaultDomain: "example.test", Wait: time.Second,
		Log: func(user, protocol string, client netip.Addr, answer lookup.Answer, err error) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprint(user, " ", protocol, " ", client, " ", answer))
		},
	})
	mux := http.NewServeMux()
	mux.Handle("/auth", h)
	web := httptest.NewServer(mux)
	defer web.Close()
	at := nginx(t, web.URL+"/auth")
	anna := lookuptest.Account("anna@example.test")

	pop := dial(t, at["pop3"])
	pop.want("", "+OK")
	pop.want("USER Anna", "+OK")
	pop.want("PASS wrong", "-ERR [AUTH] invalid login or password")
	pop.want("USER Anna", "+OK") // it may try again
	pop.want("PASS "+anna.Password, "+OK welcome anna@example.test")
	pop.want("STAT", "+OK 1 anna@example.test")
	pop.want("QUIT", "+OK bye")

	suspended := dial(t, at["imap"])
	suspended.want("", "* OK")
	suspended.want(`a LOGIN suspended@x.test "p w%"`, "a NO [CONTACTADMIN] account suspended")

	d.Stop()
	for _, c := range []struct{ protocol, hello, login, want string }{
		{"imap", "* OK", "a LOGIN anna@example.test " + anna.Password, "a NO [UNAVAILABLE] the directory cannot answer now"},
		{"smtp", "220", "AUTH PLAIN AGFubmEAeA==", "454 4.7.0 the directory cannot answer now"},
	} {
		m := dial(t, at[c.protocol])
		m.want("", c.hello)
		if c.protocol == "smtp" {
			m.want("EHLO client", "250 ")
		}
		m.want(c.login, c.want)
	}
	m := dial(t, at["pop3"])
	m.want("", "+OK")
	m.want("USER anna", "+OK")
	m.want("PASS "+anna.Password, "-ERR [SYS/TEMP] the directory cannot answer now")

	d.Mend()
	m = dial(t, at["smtp"])
	m.want("", "220")
	m.want("EHLO client", "250 ")
	m.want("AUTH PLAIN AGFubmEAeA==", "535 5.7.8 invalid login or password") // anna, x
	mu.Lock()
	defer mu.Unlock()
	if len(seen) < 6 || seen[0] != "anna@example.test pop3 127.0.0.1 rejected" {
		t.Errorf("seen: %q", seen)
	}
}
