package conf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the .want files")

// daemonOf reads a sample's first line, which names the daemon it is for.
func daemonOf(t *testing.T, data []byte) Daemon {
	t.Helper()
	first, _, _ := strings.Cut(string(data), "\n")
	for name, d := range map[string]Daemon{"# proxyd": ProxydDaemon, "# backendd": BackenddDaemon, "# tcpauthd": TcpauthdDaemon} {
		if first == name {
			return d
		}
	}
	t.Fatalf("the first line %q names no daemon", first)
	return 0
}

// samples copies the files of testdata/kind into a directory that also has the
// certificate, keys and secret that they name.
func samples(t *testing.T, kind string) (dir string, names []string) {
	t.Helper()
	dir = t.TempDir()
	writePair(t, dir, "cert.pem", "key.pem")
	writePair(t, dir, "other-cert.pem", "other-key.pem")
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("open-sesame-open-sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join("testdata", kind, "*.toml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples in testdata/%s: %v", kind, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), data, 0o600); err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".toml"))
	}
	return dir, names
}

func writePair(t *testing.T, dir, certName, keyName string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{certName: {Type: "CERTIFICATE", Bytes: der}, keyName: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGood(t *testing.T) {
	t.Setenv("SWITCHYARD_TEST_SECRET", "hunter2")
	dir, names := samples(t, "good")
	for _, name := range names {
		path := filepath.Join(dir, name+".toml")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path, daemonOf(t, data)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBad pins the whole message for each mistake.
func TestBad(t *testing.T) {
	t.Setenv("SWITCHYARD_TEST_SECRET", "hunter2")
	dir, names := samples(t, "bad")
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name+".toml")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Load(path, daemonOf(t, data))
			if err == nil {
				t.Fatal("it was accepted")
			}
			got := strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), "") + "\n"
			want := filepath.Join("testdata", "bad", name+".want")
			if *update {
				if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			expected, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(expected) {
				t.Errorf("got\n%swant\n%s", got, expected)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load("testdata/nowhere.toml", ProxydDaemon)
	if want := "testdata/nowhere.toml: cannot read the configuration: no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestSecretsDoNotShow(t *testing.T) {
	t.Setenv("SWITCHYARD_TEST_SECRET", "hunter2")
	dir, _ := samples(t, "good")
	c, err := Load(filepath.Join(dir, "ldap.toml"), ProxydDaemon)
	if err != nil {
		t.Fatal(err)
	}
	if c.Cluster.ProxySecret.Value() != "open-sesame-open-sesame" || c.Directory.LDAP.BindPassword.Value() != "hunter2" {
		t.Fatal("the secrets were not loaded")
	}
	text, err := c.Cluster.ProxySecret.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	for _, dump := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", *c), fmt.Sprintf("%#v", *c), fmt.Sprintf("%v", c.Cluster.ProxySecret), string(text)} {
		if strings.Contains(dump, "sesame") || strings.Contains(dump, "hunter2") {
			t.Errorf("a dump shows a secret: %s", dump)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, kind := range []string{"good", "bad"} {
		files, err := filepath.Glob(filepath.Join("testdata", kind, "*.toml"))
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, d := range []Daemon{ProxydDaemon, BackenddDaemon, TcpauthdDaemon} {
			parse("x.toml", data, d)
		}
	})
}

// TestExample loads the example that the README shows, for each daemon.
func TestExample(t *testing.T) {
	data, err := os.ReadFile("../testdata/conf/switchyard.toml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, sub := range []string{"tls", "store", "users"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"mail", "b1", "ca"} {
		writePair(t, filepath.Join(dir, "tls"), name+".pem", name+".key")
	}
	for _, name := range []string{"proxy.secret", "tcpauth.secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("sesame\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "switchyard.toml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Daemon{ProxydDaemon, BackenddDaemon, TcpauthdDaemon} {
		if _, err := Load(path, d); err != nil {
			t.Errorf("daemon %d: %v", d, err)
		}
	}
}

// TestPages loads every sample of the pages of docs, with what it leaves out around
// it.
func TestPages(t *testing.T) {
	for page, least := range map[string]int{"directory": 8, "operating": 3, "existing-server": 3} {
		t.Run(page, func(t *testing.T) {
			text, err := os.ReadFile("../docs/" + page + ".md")
			if err != nil {
				t.Fatal(err)
			}
			testPage(t, string(text), least)
		})
	}
}

func testPage(t *testing.T, page string, least int) {
	dir := t.TempDir()
	for _, name := range []string{
		"tcpauth.secret", "db.secret", "ldap.secret", "nginx.secret", "proxy.secret", "scram.secret", "master.secret", "lmtp.secret", "oauth.secret", "nwauth.txt", "ca.pem",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("open-sesame-open-sesame\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, host := range []string{"mail.example.com", "mail.example.org"} {
		writePair(t, dir, host+".pem", host+".key")
	}
	const backend = "[[backend]]\nname = \"b1\"\n[[backend.node]]\nimap = \"127.0.0.1:993\"\n"
	const listen = "[[proxyd.listen]]\nprotocol = \"imap\"\naddress = \"127.0.0.1:143\"\ntls = \"off\"\n"
	const proxy = "[cluster]\ndomains = [\"example.com\"]\nproxy_secret = { file = \"proxy.secret\" }\n" + backend + listen
	const tcpauth = "[directory]\nkind = \"tcpauth\"\n[directory.tcpauth]\nservers = [\"127.0.0.1:7070\"]\n"
	samples := strings.Split(page, "```toml\n")[1:]
	for i, sample := range samples {
		text, _, _ := strings.Cut(sample, "```")
		daemon := ProxydDaemon
		switch {
		case strings.HasPrefix(text, "[tcpauthd.auth_http]"):
			text, daemon = "[tcpauthd]\naddress = \":7070\"\ndata = \"users\"\n"+text, TcpauthdDaemon
		case strings.HasPrefix(text, "[tcpauthd]"):
			daemon = TcpauthdDaemon
		case strings.HasPrefix(text, "[directory]"):
			text = proxy + text
		case strings.HasPrefix(text, "[cluster]"):
			text += listen
		case strings.HasPrefix(text, "[[proxyd.listen]]"):
			text = proxy + tcpauth + "[proxyd]\ncertificate = { cert_file = \"mail.example.com.pem\", key_file = \"mail.example.com.key\" }\n" + text
		case strings.HasPrefix(text, "[[backend]]"):
			text = "[cluster]\nproxy_secret = { file = \"proxy.secret\" }\n" + text + listen + tcpauth
		default:
			text = proxy + tcpauth + text
		}
		path := filepath.Join(dir, fmt.Sprintf("%d.toml", i))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path, daemon); err != nil {
			t.Errorf("sample %d: %v\n%s", i+1, err, text)
		}
	}
	if len(samples) < least {
		t.Errorf("%d samples", len(samples))
	}
}
