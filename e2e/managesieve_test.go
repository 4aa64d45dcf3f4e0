package e2e

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"switchyard/internal/harness"
	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/sieve"
	"switchyard/router/upstream"
)

// pigeonholeConfig is a server with ManageSieve alone, with what it needs to stand
// behind our proxies: it trusts their network for the client's identity, and lets
// them log in for its users.
const pigeonholeConfig = `
base_dir = %[1]s/run
log_path = %[1]s/dovecot.log
protocols = sieve
listen = %[2]s
ssl = required
ssl_cert = <%[1]s/dovecot.pem
ssl_key = <%[1]s/dovecot.key
mail_location = maildir:%[1]s/mail/%%u
first_valid_uid = 1
login_trusted_networks = 127.0.0.0/8
auth_mechanisms = plain
passdb {
  driver = passwd-file
  args = %[1]s/masters
  master = yes
}
passdb {
  driver = static
  args = nopassword=y
}
userdb {
  driver = static
  args = uid=%[3]s gid=%[4]s home=%[1]s/mail/%%u
}
plugin {
  sieve = file:~/sieve;active=~/.dovecot.sieve
}
service managesieve-login {
  inet_listener sieve {
    port = %[5]s
  }
}
`

// TestManageSieveWithPigeonhole: a user's scripts are on real Dovecot, behind the
// proxy: STARTTLS on both legs, the proxy's own login for the user, the client's
// address in Dovecot's log, and Dovecot's list of extensions before the next login.
func TestManageSieveWithPigeonhole(t *testing.T) {
	slow(t)
	program(t, "dovecot")
	if _, err := os.Stat("/usr/lib/dovecot/managesieve"); err != nil {
		missing(t, "dovecot-managesieved", "dovecot-managesieved")
	}
	p, client, logs := startPigeonhole(t)
	login := base64.StdEncoding.EncodeToString([]byte("\x00anna@example.test\x00sesame"))
	wrong := base64.StdEncoding.EncodeToString([]byte("\x00anna@example.test\x00wrong"))
	secure := func() *talk {
		k := plain(t, p.Addr)
		k.until("OK")
		k.say("STARTTLS")
		k.want("OK")
		conn := tls.Client(k.conn, client)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		return newTalk(t, conn)
	}

	k := secure()
	if extensions := k.until(`"SIEVE"`); strings.Contains(extensions, "fileinto") {
		t.Errorf("before any backend was heard: %s", extensions)
	}
	k.until("OK")
	k.say(`AUTHENTICATE "PLAIN" "%s"`, login)
	k.want("OK")
	script := "require \"fileinto\";\r\nfileinto \"Lists\";\r\n"
	k.say("PUTSCRIPT \"main\" {%d+}\r\n%s", len(script), script)
	k.want("OK")
	k.say(`SETACTIVE "main"`)
	k.want("OK")
	k.say("LISTSCRIPTS")
	k.want(`"main" ACTIVE`)
	k.want("OK")
	k.say("CAPABILITY")
	k.until(`"IMPLEMENTATION" "Dovecot`)
	k.until("OK")
	k.say("LOGOUT")
	k.want("OK")

	again := secure()
	if extensions := again.until(`"SIEVE"`); !strings.Contains(extensions, "fileinto") || !strings.Contains(extensions, "vacation") {
		t.Errorf("learned: %s", extensions)
	}
	again.until("OK")
	again.say(`AUTHENTICATE "PLAIN" "%s"`, wrong)
	again.want(`NO "Authentication failed"`)
	again.say(`AUTHENTICATE "PLAIN" {%d+}`, len(login))
	again.say("%s", login)
	again.want("OK")
	again.say(`GETSCRIPT "main"`)
	again.want("{")
	again.want(`require "fileinto"`)
	again.conn.Close()

	session := p.Session()["session"]
	eventually(t, "the session's id is in Dovecot's log", func() error {
		log, err := os.ReadFile(logs)
		if err == nil && !strings.Contains(string(log), fmt.Sprintf("session=<%s>", session)) {
			err = fmt.Errorf("no session %v", session)
		}
		return err
	})
}

// startPigeonhole runs Dovecot, and a proxy in front of it. It returns the proxy,
// what its clients trust, and the path of Dovecot's log.
func startPigeonhole(t *testing.T) (*routertest.Proxy, *tls.Config, string) {
	t.Helper()
	owner := mailOwner(t)
	host, dir := loopback(t), workDir(t)
	free, err := harness.FreeAddresses(host, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(free[0])
	if err != nil {
		t.Fatal(err)
	}
	ca, err := harness.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("dovecot", host)
	if err != nil {
		t.Fatal(err)
	}
	uid, gid := 0, 0
	fmt.Sscan(owner.Uid, &uid)
	fmt.Sscan(owner.Gid, &gid)
	mail := filepath.Join(dir, "mail")
	masters := writeFile(t, filepath.Join(dir, "masters"), "proxy:{PLAIN}"+routertest.Secret+"\n")
	for _, err := range []error{
		os.MkdirAll(mail, 0o755), os.Chown(mail, uid, gid), os.Chmod(dir, 0o755),
		os.Chmod(masters, 0o644), // the auth process is nobody special
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	config := writeFile(t, filepath.Join(dir, "dovecot.conf"), fmt.Sprintf(pigeonholeConfig, dir, host, owner.Uid, owner.Gid, port))
	cmd := exec.Command("dovecot", "-F", "-c", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	eventually(t, "Dovecot listens", func() error {
		conn, err := net.Dial("tcp", free[0])
		if err == nil {
			conn.Close()
		}
		return err
	})

	store, err := tlsconf.NewStore([]tlsconf.Pair{{CertFile: cert, KeyFile: key}}, tlsconf.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server, err := store.Server(tlsconf.ServerOptions{ALPN: tlsconf.ALPN("managesieve")})
	if err != nil {
		t.Fatal(err)
	}
	client, err := tlsconf.NewClient(tlsconf.ClientOptions{CAFile: ca.File, ServerName: host, ALPN: tlsconf.ALPN("managesieve")})
	if err != nil {
		t.Fatal(err)
	}
	d := routertest.NewDirectory()
	d.Add(lookup.Account{Name: "anna@example.test", Home: "old"}, "sesame")
	p := routertest.Start(t, routertest.Config{
		Protocol: sieve.New(sieve.Options{}), Directory: d, Listener: router.Listener{TLS: tlsconf.StartTLS, Config: server},
		Backends: []upstream.Backend{{Name: "old", Nodes: []upstream.Node{{Name: "old", Services: map[upstream.Service]upstream.Endpoint{
			upstream.ManageSieve: {Address: free[0], TLS: tlsconf.StartTLS, Config: client},
		}}}}},
	})
	return p, client, filepath.Join(dir, "dovecot.log")
}
