package directory

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"
	"go.uber.org/zap"

	"switchyard/conf"
	"switchyard/lookup"
	"switchyard/lookup/cache"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/nwauth/hash"
	"switchyard/lookup/tcpauth"
	"switchyard/router"
	"switchyard/router/pop"
	"switchyard/router/routertest"
	"switchyard/router/sasl"
	"switchyard/router/upstream"
)

const (
	scramHash = "{SCRAM-SHA-256}4096,c2FsdHNhbHQ=,YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=,YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI="
	otherHash = "{SHA}Lve95gjOVATpfV8EL5X4nxwjKHE="

	secret = "open-sesame-open-sesame"
)

// load loads a proxy's configuration with a [directory] of its own.
func load(t *testing.T, directory string) *conf.Config {
	t.Helper()
	dir := t.TempDir()
	const rest = "[cluster]\ndomains = [\"example.test\"]\nproxy_secret = { file = \"secret\" }\n" +
		"[[backend]]\nname = \"b1\"\n[[backend.node]]\nimap = \"127.0.0.1:993\"\n" +
		"[[proxyd.listen]]\nprotocol = \"imap\"\naddress = \"127.0.0.1:143\"\ntls = \"off\"\n"
	for name, text := range map[string]string{"proxyd.toml": rest + directory, "secret": secret, "keyed.txt": keyed, "mixed.txt": mixed} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := conf.Load(filepath.Join(dir, "proxyd.toml"), conf.ProxydDaemon)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The files of accounts: all of one with keys, one of the other without.
const (
	keyed = "anna@example.test:" + scramHash + ":tohost=\"b1\"\nalias@example.test:*:alias=\"anna@example.test\"\n"
	mixed = keyed + "bob@example.test:" + otherHash + ":tohost=\"b1\"\n"
)

// tcpauthd serves accounts on this machine.
func tcpauthd(t *testing.T, accounts string, o tcpauth.ServerOptions) string {
	t.Helper()
	db, err := nwauth.Open(t.TempDir(), nwauth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Import(t.Context(), strings.NewReader(accounts), nil); err != nil {
		t.Fatal(err)
	}
	s, err := tcpauth.NewServer(db, o)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		db.Close()
	})
	return ln.Addr().String()
}

// TestOfferedMechanisms: what a listener offers follows from the directory: SCRAM
// where it has every account's keys, or its operator says so, and nowhere else.
func TestOfferedMechanisms(t *testing.T) {
	const plain = "PLAIN LOGIN"
	ldap := "kind = \"ldap\"\n[directory.ldap]\nurls = [\"ldap://127.0.0.1:1\"]\nbase = \"dc=example\"\nverify = \"hash\"\n"
	open := tcpauthd(t, keyed, tcpauth.ServerOptions{})
	closed := tcpauthd(t, keyed, tcpauth.ServerOptions{Secret: secret})
	member := func(kind, next, more string) string {
		return "[[directory.member]]\nkind = \"" + kind + "\"\nnext = " + next + "\n[directory.member." + kind + "]\n" + more + "\n"
	}
	keyedMember, mixedMember := member("file", "true", `path = "keyed.txt"`), member("file", "true", `path = "mixed.txt"`)
	secretMember := member("tcpauth", "false", "servers = [\""+closed+"\"]\nsecret = { file = \"secret\" }")
	for name, c := range map[string]struct{ directory, want string }{
		"a file with keys":            {"kind = \"file\"\n[directory.file]\npath = \"keyed.txt\"", "SCRAM-SHA-256 " + plain},
		"a file, one without":         {"kind = \"file\"\n[directory.file]\npath = \"mixed.txt\"", plain},
		"tcpauthd":                    {"kind = \"tcpauth\"\n[directory.tcpauth]\nservers = [\"" + closed + "\"]\nsecret = { file = \"secret\" }", "SCRAM-SHA-256 " + plain},
		"tcpauthd without secret":     {"kind = \"tcpauth\"\n[directory.tcpauth]\nservers = [\"" + open + "\"]", plain},
		"ldap, as the operator says":  {ldap + "scram_mechanisms = [\"SCRAM-SHA-1\"]", "SCRAM-SHA-1 " + plain},
		"ldap, both":                  {ldap + "scram_mechanisms = [\"SCRAM-SHA-1\", \"SCRAM-SHA-256\"]", "SCRAM-SHA-256 SCRAM-SHA-1 " + plain},
		"ldap without a word":         {ldap, plain},
		"a stack of which all have":   {"kind = \"stack\"\n" + keyedMember + secretMember, "SCRAM-SHA-256 " + plain},
		"a stack with one that lacks": {"kind = \"stack\"\n" + mixedMember + secretMember, plain},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Open(load(t, "[directory]\n"+c.directory+"\n"), zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if _, ok := d.(lookup.KeyHolder); !ok && c.want != plain {
				t.Error("the directory holds no keys")
			}
			if got := offered(t, d); !slices.Equal(got, strings.Fields(c.want)) {
				t.Errorf("a listener offers %q, want %q", got, c.want)
			}
		})
	}
}

// front starts a listener in front of a directory. Its backend is away.
func front(t *testing.T, d Directory) *routertest.Proxy {
	t.Helper()
	remembered, err := cache.New(d, cache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remembered.Close() })
	return routertest.Start(t, routertest.Config{
		Protocol: pop.New(), Directory: remembered, Listener: router.Listener{AllowCleartextLogin: true},
		Options: router.Options{SASL: sasl.Options{SCRAM: true, Secret: []byte(secret)}},
		Backends: []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{{
			Name: "b1", Services: map[upstream.Service]upstream.Endpoint{upstream.POP3: {Address: "127.0.0.1:1"}},
		}}}},
	})
}

// offered asks a listener in front of a directory.
func offered(t *testing.T, d Directory) []string {
	t.Helper()
	conn := front(t, d).Dial()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("CAPA\r\nQUIT\r\n")); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if mechanisms, found := strings.CutPrefix(lines.Text(), "SASL "); found {
			return strings.Fields(mechanisms)
		}
	}
	return nil
}

// patience is how long a test waits for a listener.
const patience = 20 * time.Second

// TestKeysOfTCPAuth: a client proves its password, and is shown that the server
// knows it, with keys that came from a tcpauthd.
func TestKeysOfTCPAuth(t *testing.T) {
	stored, err := hash.NewSCRAM("sesame", 0)
	if err != nil {
		t.Fatal(err)
	}
	address := tcpauthd(t, strings.ReplaceAll(keyed, scramHash, stored), tcpauth.ServerOptions{Secret: secret})
	d, err := Open(load(t, "[directory]\nkind = \"tcpauth\"\n[directory.tcpauth]\nservers = [\""+address+"\"]\nsecret = { file = \"secret\" }\n"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	p := front(t, d)
	for password, want := range map[string]struct {
		valid bool
		end   string
	}{
		"sesame":    {true, "-ERR [SYS/TEMP]"}, // the backend is away
		"something": {false, "-ERR [AUTH]"},
	} {
		client, err := scram.SHA256.NewClient("anna@example.test", password, "")
		if err != nil {
			t.Fatal(err)
		}
		talk := client.NewConversation()
		conn := p.Dial()
		conn.SetDeadline(time.Now().Add(patience))
		lines := bufio.NewScanner(conn)
		lines.Scan() // the greeting
		end, step := "", ""
		for command := "AUTH SCRAM-SHA-256 "; end == ""; command = "" {
			answer, err := talk.Step(step)
			if err != nil {
				t.Fatalf("%s: %v", password, err)
			}
			fmt.Fprintf(conn, "%s%s\r\n", command, base64.StdEncoding.EncodeToString([]byte(answer)))
			if !lines.Scan() {
				t.Fatalf("%s: the connection ended: %v", password, lines.Err())
			}
			challenge, more := strings.CutPrefix(lines.Text(), "+ ")
			if !more {
				end = lines.Text()
			}
			text, err := base64.StdEncoding.DecodeString(challenge)
			if more && err != nil {
				t.Fatalf("%s: challenge %q: %v", password, challenge, err)
			}
			step = string(text)
		}
		if talk.Valid() != want.valid || !strings.HasPrefix(end, want.end) {
			t.Errorf("%s: the server has proved itself: %v, and ends with %q; want %v, %q", password, talk.Valid(), end, want.valid, want.end)
		}
	}
}
