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
	"switchyard/lookup/authhttp/nginxtest"
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

func postgresConfig(t *testing.T, address, dsn string, more ...string) string {
	text := fmt.Sprintf("store = \"postgresql\"\n%s[tcpauthd.postgresql]\ndsn = %q\ntimeout = \"5s\"\n", quick, dsn)
	return storeConfig(t, address, text+strings.Join(more, "\n"))
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

// TestPostgres runs everything against one server, each part with a database of
// its own; the one that stops the server comes last.
func TestPostgres(t *testing.T) {
	t.Parallel()
	server := postgrestest.New(t)
	t.Run("while it runs", func(t *testing.T) {
		for name, part := range map[string]func(*testing.T, string){
			"contract": testPostgresContract, "feed": testPostgresFeed, "two daemons": testTwoDaemons,
			"transfer": testPostgresTransfer, "stdio": testPostgresModule,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				part(t, server.NewDatabase(t))
			})
		}
	})
	t.Run("away", func(t *testing.T) { testPostgresAway(t, server) })
}

// testPostgresContract: the daemon over the database is a directory like any
// other, also when it has just been killed and started again.
func testPostgresContract(t *testing.T, dsn string) {
	dir := postgresConfig(t, freeAddress(t), dsn)
	var p *process
	filled := false
	lookuptest.Run(t, lookuptest.Fixture{
		Open: func(t *testing.T) lookup.Directory {
			if p != nil {
				p.kill()
			}
			p = start(t, dir)
			c := p.client(tcpauth.ClientOptions{Timeout: patience})
			if !filled {
				filled = true
				fill(t, c)
			}
			return c
		},
		Break:   func(t *testing.T) { p.kill() },
		Mend:    func(t *testing.T) { p = start(t, dir) },
		Timeout: time.Second,
	})
}

func testPostgresFeed(t *testing.T, dsn string) {
	dir := postgresConfig(t, freeAddress(t), dsn)
	runFeed(t, dir, func(c *tcpauth.Client) { fill(t, c) })
}

// testTwoDaemons: two daemons over one database are one directory. What is
// changed through one is seen through the other at once, and told of by its feed
// within seconds; a client of both does not notice that one is killed.
func testTwoDaemons(t *testing.T, dsn string) {
	one, two := start(t, postgresConfig(t, freeAddress(t), dsn)), start(t, postgresConfig(t, "127.0.0.1:0", dsn))
	writer := one.client(tcpauth.ClientOptions{Timeout: patience})
	reader := two.client(tcpauth.ClientOptions{Timeout: patience})
	both, err := tcpauth.NewClient([]string{one.address, two.address}, tcpauth.ClientOptions{Secret: secret, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer both.Close()
	fill(t, writer)
	changes := make(chan lookup.Change, 1000)
	ctx, stop := context.WithCancel(t.Context())
	watching := make(chan error, 1)
	go func() { watching <- reader.Watch(ctx, func(c lookup.Change) { changes <- c }) }()
	defer func() {
		stop()
		if err := <-watching; err != nil {
			t.Errorf("watch: %v", err)
		}
	}()
	anna := lookuptest.Account("anna@example.test")
	told := func(by *tcpauth.Client, what string) {
		t.Helper()
		for n := 0; ; n++ {
			home := fmt.Sprint(what, n)
			if err := by.Set(t.Context(), anna.Name, nil, map[string]string{"tohost": home}); err != nil {
				t.Fatalf("%s: set: %v", what, err)
			}
			if a, err := reader.Lookup(t.Context(), anna.Name); err != nil || a.Home != home {
				t.Fatalf("%s: through the other one: %+v, %v, want home %s", what, a, err, home)
			}
			deadline := time.After(time.Second) // the feed may not be live yet: again
			for waiting := true; waiting; {
				select {
				case c := <-changes:
					if c.Name == anna.Name && c.Sessions {
						return
					}
				case <-deadline:
					waiting = false
				}
			}
			if n == int(patience/time.Second) {
				t.Fatalf("%s: the feed does not tell", what)
			}
		}
	}
	told(writer, "first")
	if _, err := both.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: anna.Password}); err != nil {
		t.Errorf("a client of both: %v", err)
	}
	one.kill()
	if _, err := both.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: anna.Password}); err != nil {
		t.Errorf("a client of both, with one killed: %v", err)
	}
	told(both, "second")
	// The metrics of the one that is left.
	text := metricsOf(t, two)
	for _, want := range []string{
		`switchyard_directory_answers_total{answer="ok",verb="check"} `, `switchyard_directory_answers_total{answer="ok",verb="set"} `,
		fmt.Sprintf("switchyard_directory_users %d\n", len(lookuptest.Accounts())), `switchyard_directory_hashing{state="waiting"} 0`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

// metricsOf reads the metrics of a daemon that are its own.
func metricsOf(t *testing.T, p *process) string {
	t.Helper()
	code, text := p.get("/metrics")
	if code != http.StatusOK {
		t.Fatalf("metrics: %d %s", code, text)
	}
	var own strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "switchyard_directory_") {
			own.WriteString(line)
		}
	}
	return own.String()
}

// testPostgresTransfer: NWAuth text goes into the shared database and comes out
// of it as it was.
func testPostgresTransfer(t *testing.T, dsn string) {
	dir := postgresConfig(t, "127.0.0.1:0", dsn)
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
	start(t, dir) // it need not stop
	if got := export(t, dir); got != good {
		t.Errorf("export: got\n%swant\n%s", got, good)
	}
}

// testPostgresModule: the database's users on standard input and output.
func testPostgresModule(t *testing.T, dsn string) {
	dir := postgresConfig(t, "127.0.0.1:0", dsn)
	one, two := startModule(t, dir), startModule(t, dir)
	one.ask("set bob@test.com bob", "+OK bob@test.com added to database")
	two.ask("check bob@test.com bob 192.0.2.1", "+OK bob@test.com config 0")
	two.ask(`set bob@test.com (NULL) quota="200"`, "+OK bob@test.com added to database")
	one.ask("lookup bob@test.com", `+OK bob@test.com config 0 quota="200"`)
	one.ask("exit", "+OK")
	two.ask("exit", "+OK")
}

// testPostgresAway: a daemon starts without its database, says "not now" and
// why, and is well once the database is there; so does one that loses it. nginx,
// which asks the same daemon, tells its clients so.
func testPostgresAway(t *testing.T, server *postgrestest.Server) {
	dsn := server.NewDatabase(t)
	server.Stop()
	store := nginxtest.Store(t)
	questions := freeAddress(t)
	dir := postgresConfig(t, "127.0.0.1:0", dsn, fmt.Sprintf(`
[tcpauthd.auth_http]
address = %q
secret = { file = "secret" }
wait = "1s"
[[backend]]
name = "b1"
[[backend.node]]
tls = "off"
pop3 = %q
imap = "127.0.0.1:1"
`, questions, store))
	p := start(t, dir)
	anna := lookuptest.Account("anna@example.test")
	client := p.client(tcpauth.ClientOptions{Timeout: patience, Attempt: patience})
	if _, err := client.Lookup(t.Context(), anna.Name); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("the database is away: got %v", err)
	}
	if code, text := p.get("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("readyz while the database is away: %d %s", code, text)
	}
	server.Start()
	eventually(t, "the database is used once it is there", func() bool {
		_, err := client.Lookup(t.Context(), anna.Name)
		return errors.Is(err, lookup.ErrAbsent)
	})
	if code, text := p.get("/readyz"); code != http.StatusOK {
		t.Errorf("readyz with the database: %d %s", code, text)
	}
	fill(t, client)

	at := nginxtest.Start(t, "http://"+questions+"/", secret)
	pop := nginxtest.Dial(t, at["pop3"])
	pop.Want("", "+OK")
	pop.Want("USER "+anna.Name, "+OK")
	pop.Want("PASS wrong", "-ERR [AUTH] invalid login or password")
	pop.Want("USER "+anna.Name, "+OK")
	pop.Want("PASS "+anna.Password, "+OK welcome "+anna.Name)
	pop.Want("STAT", "+OK 1 "+anna.Name)
	server.Stop()
	imap := nginxtest.Dial(t, at["imap"])
	imap.Want("", "* OK")
	imap.Want("a LOGIN "+anna.Name+" "+anna.Password, "a NO [UNAVAILABLE] the directory cannot answer now")
	pop.Want("STAT", "+OK 1 "+anna.Name) // who is in, is in
	if text := metricsOf(t, p); strings.Contains(text, `switchyard_directory_answers_total{answer="dead",verb="lookup"} 0`) {
		t.Error("the metrics do not count what was unavailable")
	}
}

// TestModuleStore runs the contract against a daemon whose users are in another
// tcpauthd -stdio, as a NetWin module's are; then the module is killed again and
// again.
func TestModuleStore(t *testing.T) {
	t.Parallel()
	inner := writeConfig(t, "127.0.0.1:0", quick)
	load(t, inner)
	dir := storeConfig(t, freeAddress(t), fmt.Sprintf("store = \"module\"\n[tcpauthd.module]\ncommand = [%q, \"-stdio\", \"-config\", %q]\nprocesses = 1\nenv = [%q]\n",
		os.Args[0], filepath.Join(inner, "tcpauthd.toml"), asDaemon+"=1"))
	p := start(t, dir)
	lookuptest.Run(t, lookuptest.Fixture{Open: func(t *testing.T) lookup.Directory {
		return p.client(tcpauth.ClientOptions{Timeout: patience})
	}})
	c := p.client(tcpauth.ClientOptions{Timeout: patience})
	anna := lookuptest.Account("anna@example.test")
	for round := range 3 {
		home := fmt.Sprint("m", round)
		if err := c.Set(t.Context(), anna.Name, nil, map[string]string{"tohost": home}); err != nil {
			t.Fatalf("set: %v", err)
		}
		killChildren(t, p.cmd.Process.Pid)
		eventually(t, "another child answers", func() bool {
			a, err := c.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: anna.Password})
			if err != nil && !errors.Is(err, lookup.ErrUnavailable) {
				t.Fatalf("with its child killed: %v", err)
			}
			return err == nil && a.Home == home
		})
	}
	text := metricsOf(t, p)
	if !strings.Contains(text, `switchyard_directory_answers_total{answer="ok",verb="set"} 3`) || strings.Contains(text, "switchyard_directory_users") {
		t.Errorf("metrics:\n%s", text)
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
	t.Parallel()
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
