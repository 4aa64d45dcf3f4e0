package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/nwauth/hash"
	"switchyard/lookup/static"
	"switchyard/router"
	"switchyard/router/imap"
	"switchyard/router/routertest"
	"switchyard/router/sasl"
	"switchyard/router/sasl/token"
	"switchyard/router/smtp"
	"switchyard/router/upstream"
)

// dovecotLoginsConfig is a server that knows its users' passwords, and has a
// master user.
const dovecotLoginsConfig = `
base_dir = %[1]s/run
log_path = %[1]s/dovecot.log
protocols = imap pop3
listen = %[2]s
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login scram-sha-1 scram-sha-256
auth_master_user_separator = *
mail_location = maildir:%[1]s/mail/%%u
first_valid_uid = 1
login_trusted_networks = 127.0.0.0/8
passdb {
  driver = passwd-file
  args = %[1]s/masters
  master = yes
}
passdb {
  driver = passwd-file
  args = %[1]s/users
}
userdb {
  driver = static
  args = uid=%[3]s gid=%[4]s home=%[1]s/mail/%%u
}
service imap-login {
  inet_listener imap {
    port = %[5]s
  }
  inet_listener imaps {
    port = 0
  }
}
service pop3-login {
  inet_listener pop3 {
    port = %[6]s
  }
  inet_listener pop3s {
    port = 0
  }
}
`

// startDovecotLogins runs Dovecot with the accounts of a foreign server.
func startDovecotLogins(t *testing.T) *foreign {
	t.Helper()
	program(t, "dovecot")
	owner, dir, host := mailOwner(t), workDir(t), loopback(t)
	addresses, ports := freePorts(t, host, 2)
	if err := os.MkdirAll(filepath.Join(dir, "mail"), 0o755); err != nil {
		t.Fatal(err)
	}
	giveTo(t, owner.Uid, owner.Gid, filepath.Join(dir, "mail"))
	for name, text := range map[string]string{
		"masters": "proxy@example.test:{PLAIN}" + foreignSecret + "\n",
		"users":   foreignUser + ":{PLAIN}" + foreignPassword + "\n",
	} {
		if err := os.Chmod(writeFile(t, filepath.Join(dir, name), text), 0o644); err != nil { // the auth process is nobody special
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	config := writeFile(t, filepath.Join(dir, "dovecot.conf"), fmt.Sprintf(dovecotLoginsConfig, dir, host, owner.Uid, owner.Gid, ports[0], ports[1]))
	startForeign(t, exec.Command("dovecot", "-F", "-c", config), addresses...)
	return &foreign{map[upstream.Service]string{upstream.IMAP: addresses[0], upstream.POP3: addresses[1]}}
}

// TestDovecotLogins: real Dovecot stands behind a proxy with its users' own
// passwords, with a master user in its own way of writing that, and with SCRAM
// that only Dovecot can judge. Tokens and keys that the proxy verifies go on as
// the master user.
func TestDovecotLogins(t *testing.T) {
	slow(t)
	f := startDovecotLogins(t)
	master := upstream.Login{User: "%u*proxy@example.test", Secret: foreignSecret}
	checkForeign(t, f, master)
	t.Run("token by curl", func(t *testing.T) { f.curlToken(t, master) })
	t.Run("keys of the directory", func(t *testing.T) { f.keys(t, master) })
}

// curlToken: curl logs in with a token that the proxy verifies by the issuer's
// keys, and its user's mail is Dovecot's.
func (f *foreign) curlToken(t *testing.T, master upstream.Login) {
	program(t, "curl")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	}))
	t.Cleanup(issuer.Close)
	keys, err := token.NewKeys(issuer.URL, token.Options{Issuer: "https://id.example.test", Audience: "mail", Scope: []string{"imap"}})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(scope string) string {
		payload, err := json.Marshal(map[string]any{"iss": "https://id.example.test", "aud": "mail", "exp": time.Now().Add(time.Hour).Unix(), "scope": scope, "email": foreignUser})
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		text, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	p := f.front(t, imap.New(), master, sasl.Options{Tokens: keys}, nil)
	good, bad := sign("openid imap"), sign("openid")
	for _, mechanism := range []string{"OAUTHBEARER", "XOAUTH2"} {
		for bearer, fails := range map[string]bool{good: false, bad: true} {
			out := job{args: []string{"curl", "-sS", "--max-time", "30", "imap://" + p.Addr + "/", "-X", "LIST \"\" *", "--user", foreignUser,
				"--login-options", "AUTH=" + mechanism, "--oauth2-bearer", bearer}, fails: fails}.run(t)
			if !fails && !strings.Contains(out, "INBOX") {
				t.Errorf("%s: got %q", mechanism, out)
			}
		}
	}
	for _, l := range p.Logs.All() {
		if text := fmt.Sprint(l.Message, l.ContextMap()); strings.Contains(text, good) || strings.Contains(text, bad) {
			t.Errorf("the log holds a token: %s", text)
		}
	}
}

// keys: mbsync logs in by SCRAM with keys that the proxy's directory holds.
func (f *foreign) keys(t *testing.T, master upstream.Login) {
	program(t, "mbsync")
	p := f.front(t, imap.New(), master, sasl.Options{SCRAM: true, Secret: []byte("a secret of the whole cluster")}, keyedDirectory(t, "old"))
	host, port, err := net.SplitHostPort(p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for password, fails := range map[string]bool{"the keys' own": false, "wrong": true} {
		dir := t.TempDir()
		rc := writeFile(t, filepath.Join(dir, "mbsyncrc"), fmt.Sprintf(mbsyncSCRAM, host, port, foreignUser, `"`+password+`"`, "SCRAM-SHA-256", dir))
		job{args: []string{"mbsync", "--config", rc, "-a"}, dir: dir, env: []string{"HOME=" + dir}, fails: fails}.run(t)
	}
}

// keyedDirectory is a file's directory with SCRAM hashes, without a cache.
func keyedDirectory(t *testing.T, home string) router.Directory {
	t.Helper()
	stored, err := hash.NewSCRAM("the keys' own", 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err := static.New(nwauth.Matches, static.Options{Records: []static.Record{{Account: lookup.Account{Name: foreignUser, Home: home}, Hash: stored}}})
	if err != nil {
		t.Fatal(err)
	}
	return uncached{static.WithKeys(d, hash.Keys)}
}

// uncached is a directory that remembers nothing anyway.
type uncached struct{ *static.Keyed }

func (u uncached) Fresh(ctx context.Context, name string) (lookup.Account, error) {
	return u.Lookup(ctx, name)
}

func (uncached) Forget(string) {}
func (uncached) Purge()        {}

// TestSubmissionBySCRAM: msmtp submits by SCRAM-SHA-256 with keys that the
// directory holds, and the backend sees the proxy's login alone.
func TestSubmissionBySCRAM(t *testing.T) {
	slow(t)
	program(t, "msmtp")
	backend := routertest.NewBackend(t, nil, `
		S: 220 b1 ESMTP
		C: EHLO *
		S: 250-b1
		S: 250-8BITMIME
		S: 250 AUTH PLAIN
		C: AUTH PLAIN *
		S: 235 2.7.0 welcome
		C: MAIL FROM:<anna@example.test>*
		S: 250 2.1.0 ok
		C: RCPT TO:<bert@example.test>
		S: 250 2.1.5 ok
		C: DATA
		S: 354 go on
		C: From: anna@example.test
		C: Date: *
		C: Message-ID: *
		C: Subject: by SCRAM
		C:
		C: hello
		C: .
		S: 250 2.0.0 taken
		C: QUIT
		S: 221 2.0.0 bye`)
	p := routertest.Start(t, routertest.Config{
		Protocol: smtp.NewSubmission(smtp.Options{}), Directory: keyedDirectory(t, "b1"),
		Listener: router.Listener{AllowCleartextLogin: true},
		Options:  router.Options{SASL: sasl.Options{SCRAM: true, Secret: []byte("a secret of the whole cluster")}},
		Backends: []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{backend.Node("b1a", upstream.Submission, tlsconf.Off, nil)}}},
	})
	host, port, err := net.SplitHostPort(p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for password, fails := range map[string]bool{"wrong": true, "the keys' own": false} {
		dir := t.TempDir()
		rc := writeFile(t, filepath.Join(dir, "msmtprc"), fmt.Sprintf("account default\nhost %s\nport %s\nauth scram-sha-256\nuser %s\npassword %q\nfrom %[3]s\ntls off\n", host, port, foreignUser, password))
		job{args: []string{"msmtp", "--file", rc, "--", "bert@example.test"}, stdin: "From: anna@example.test\nDate: Wed, 25 Nov 2026 08:00:00 +0000\nMessage-ID: <1@example.test>\nSubject: by SCRAM\n\nhello\n", env: []string{"HOME=" + dir}, fails: fails}.run(t)
	}
	in := 0
	for _, s := range p.Sessions(2) {
		if s["mechanism"] == sasl.SCRAMSHA256 && wasIn(s) {
			in++
		}
	}
	if in != 1 {
		t.Errorf("%d submissions by SCRAM, want 1", in)
	}
}
