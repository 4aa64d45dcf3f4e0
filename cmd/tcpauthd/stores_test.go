package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/postgres/postgrestest"
	"switchyard/lookup/tcpauth"
)

// quick makes new hashes cheap: the tests make many.
const quick = "[tcpauthd.argon2]\nmemory = 64\npasses = 1\n"

// storeConfig is writeConfig for a store that is not embedded.
func storeConfig(t *testing.T, address, text string) string {
	t.Helper()
	dir := t.TempDir()
	text = fmt.Sprintf("[tcpauthd]\naddress = %q\nadmin = \"127.0.0.1:0\"\nsecret = { file = \"secret\" }\n%s\n", address, text)
	for name, content := range map[string]string{"tcpauthd.toml": text, "secret": secret + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func postgresConfig(t *testing.T, address, dsn string) string {
	return storeConfig(t, address, fmt.Sprintf("store = \"postgresql\"\n%s[tcpauthd.postgresql]\ndsn = %q\ntimeout = \"5s\"\n", quick, dsn))
}

// fill sets the suite's accounts through a daemon.
func fill(t *testing.T, c *tcpauth.Client) {
	t.Helper()
	for _, r := range lookuptest.Accounts() {
		if err := c.Set(t.Context(), r.Name, &r.Password, labelsOf(r)); err != nil {
			t.Fatalf("set %s: %v", r.Name, err)
		}
	}
}

// TestPostgres: two daemons over one database are one directory; either may be
// killed, and the database may be away when they start and come back.
func TestPostgres(t *testing.T) {
	server := postgrestest.New(t)
	dsn := server.NewDatabase(t)
	server.Stop()
	one := start(t, postgresConfig(t, freeAddress(t), dsn))
	client := one.client(tcpauth.ClientOptions{Timeout: patience, Attempt: patience})
	if _, err := client.Lookup(t.Context(), "anna@example.test"); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("the database is away: got %v", err)
	}
	if code, text := one.get("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("readyz while the database is away: %d %s", code, text)
	}
	server.Start()
	eventually(t, "the database is used once it is there", func() bool {
		_, err := client.Lookup(t.Context(), "anna@example.test")
		return errors.Is(err, lookup.ErrAbsent)
	})
	fill(t, client)

	two := start(t, postgresConfig(t, "127.0.0.1:0", dsn))
	other := two.client(tcpauth.ClientOptions{Timeout: patience})
	changes := make(chan lookup.Change, 100)
	ctx, stop := context.WithCancel(t.Context())
	watching := make(chan error, 1)
	go func() { watching <- other.Watch(ctx, func(c lookup.Change) { changes <- c }) }()
	anna := lookuptest.Account("anna@example.test")
	moved := make(chan struct{})
	go func() { // until the feed tells of it
		defer close(moved)
		for n := 0; ; n++ {
			if err := client.Set(ctx, anna.Name, nil, map[string]string{"tohost": fmt.Sprint("m", n)}); err != nil {
				return
			}
			select {
			case c := <-changes:
				if c.Name == anna.Name && c.Sessions {
					return
				}
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	}()
	select {
	case <-moved:
	case <-time.After(patience):
		t.Error("the second daemon's feed does not tell of the first one's changes")
	}
	stop()
	if err := <-watching; err != nil {
		t.Errorf("watch: %v", err)
	}
	if a, err := other.Lookup(t.Context(), anna.Name); err != nil || !strings.HasPrefix(a.Home, "m") {
		t.Errorf("through the second: got %+v, %v", a, err)
	}
	one.kill()
	if _, err := other.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: anna.Password}); err != nil {
		t.Errorf("with the first one killed: %v", err)
	}
}

// TestPostgresTransfer: NWAuth text goes into the shared database and comes out
// of it as it was.
func TestPostgresTransfer(t *testing.T) {
	dir := postgresConfig(t, "127.0.0.1:0", postgrestest.New(t).NewDatabase(t))
	file := filepath.Join(dir, "users.txt")
	const good = "anna@x.test:{SSHA}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA==:homegen=\"1\" tohost=\"b1\"\nbob@x.test:$y$j9T$x$y:\n"
	if err := os.WriteFile(file, []byte(good+"rubbish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := command(dir, "-import", file).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "2 users added, 0 replaced, 1 lines left out, 1 users with a password hash") ||
		!strings.Contains(string(out), "users.txt: line 3: ") {
		t.Errorf("import: %v, %s", err, out)
	}
	if got := export(t, dir); got != good {
		t.Errorf("export: got\n%swant\n%s", got, good)
	}
}

// TestModuleStore runs the contract against a daemon whose users are in another
// tcpauthd -stdio, as a NetWin module's are.
func TestModuleStore(t *testing.T) {
	inner := writeConfig(t, "127.0.0.1:0", quick)
	config := filepath.Join(inner, "tcpauthd.toml")
	dir := storeConfig(t, freeAddress(t), fmt.Sprintf("store = \"module\"\n[tcpauthd.module]\ncommand = [%q, \"-stdio\", \"-config\", %q]\nprocesses = 1\nenv = [%q]\n",
		os.Args[0], config, asDaemon+"=1"))
	p := start(t, dir)
	c := p.client(tcpauth.ClientOptions{Timeout: patience})
	for _, r := range lookuptest.Accounts() {
		if err := c.Set(t.Context(), r.Name, &r.Password, labelsOf(r)); err != nil {
			var refused *tcpauth.RefusedError
			if errors.As(err, &refused) { // its password is none that the old grammar carries
				t.Logf("set %s: %v", r.Name, err)
				continue
			}
			t.Fatalf("set %s: %v", r.Name, err)
		}
	}
	anna := lookuptest.Account("anna@example.test")
	for range 3 {
		if a, err := c.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: anna.Password}); err != nil || a.Home != anna.Home {
			t.Fatalf("check: %+v, %v", a, err)
		}
		if _, err := c.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: "wrong"}); !errors.Is(err, lookup.ErrRejected) {
			t.Fatalf("a wrong password: %v", err)
		}
		killChildren(t, p.cmd.Process.Pid)
		eventually(t, "another child answers", func() bool {
			_, err := c.Lookup(t.Context(), anna.Name)
			return err == nil
		})
	}
	if out, err := command(dir, "-export", "-").CombinedOutput(); err == nil || !strings.Contains(string(out), "module's own tools") {
		t.Errorf("export: %v, %s", err, out)
	}
}

// killChildren ends a process's children.
func killChildren(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range threads {
		more, _ := os.ReadFile(file)
		text = append(append(text, ' '), more...)
	}
	children := strings.Fields(string(text))
	if len(children) == 0 {
		t.Fatalf("no child of %d, %v", pid, err)
	}
	for _, child := range children {
		var n int
		if _, err := fmt.Sscan(child, &n); err == nil {
			if p, err := os.FindProcess(n); err == nil {
				p.Kill()
			}
		}
	}
}

// TestAuthHTTP: nginx's questions are answered from the daemon's own users, with
// the secret only.
func TestAuthHTTP(t *testing.T) {
	address := freeAddress(t)
	dir := writeConfig(t, "127.0.0.1:0", quick+fmt.Sprintf("[tcpauthd.auth_http]\naddress = %q\nsecret = { file = \"secret\" }\n", address)+
		"[[backend]]\nname = \"b1\"\n[[backend.node]]\ntls = \"starttls\"\nimap = \"192.0.2.1:143\"\n")
	load(t, dir)
	start(t, dir)
	anna := lookuptest.Account("anna@example.test")
	ask := func(key, password string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+address+"/auth", nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			"Auth-Method": "plain", "Auth-User": anna.Name, "Auth-Pass": password, "Auth-Protocol": "imap", "Client-IP": "198.51.100.7", "Auth-Key": key,
		} {
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp
	}
	if resp := ask(secret, anna.Password); resp.Header.Get("Auth-Status") != "OK" || resp.Header.Get("Auth-Server") != "192.0.2.1" || resp.Header.Get("Auth-Port") != "143" {
		t.Errorf("right: %v", resp.Header)
	}
	if resp := ask(secret, "wrong"); resp.Header.Get("Auth-Status") == "OK" || resp.Header.Get("Auth-Server") != "" {
		t.Errorf("a wrong password: %v", resp.Header)
	}
	if resp := ask("guess", anna.Password); resp.StatusCode != http.StatusForbidden || resp.Header.Get("Auth-Server") != "" {
		t.Errorf("a wrong key: %d %v", resp.StatusCode, resp.Header)
	}
}
