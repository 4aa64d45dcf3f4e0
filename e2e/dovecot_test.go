package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"switchyard/internal/harness"
)

// dovecotConfig is an existing server's configuration, with what it needs to
// stand behind our proxies: it trusts their network for the client's identity,
// and lets them log in for its users (docs/existing-server.md).
const dovecotConfig = `
base_dir = %[1]s/run
log_path = %[1]s/dovecot.log
protocols = imap pop3 lmtp
listen = %[2]s
ssl = required
ssl_cert = <%[1]s/dovecot.pem
ssl_key = <%[1]s/dovecot.key
mail_location = maildir:%[1]s/mail/%%u
first_valid_uid = 1
login_trusted_networks = 127.0.0.0/8
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
service lmtp {
  inet_listener lmtp {
    port = %[7]s
  }
}
`

// TestDovecotAsDefaultBackend puts a proxy in front of a server that was there
// before: real Dovecot, as the home of all accounts that have none.
func TestDovecotAsDefaultBackend(t *testing.T) {
	slow(t)
	program(t, "dovecot")
	host, dir := loopback(t), workDir(t)
	free, err := harness.FreeAddresses(host, 3)
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, harness.Spec{
		DefaultBackend: "old",
		Foreign: fmt.Sprintf("[[backend]]\nname = \"old\"\n[[backend.node]]\ntls = \"starttls\"\nserver_name = %q\nimap = %q\npop3 = %q\nlmtp = %q\n",
			host, free[0], free[1], free[2]),
	})
	logs := startDovecot(t, c, host, dir, free)
	old, moved := c.account(t, "old", ""), c.account(t, "new", "b1")
	p := c.Proxies[0]

	mail := newMessage("to both worlds", 3000)
	send(t, p, mail, old.Name, moved.Name)
	for _, a := range []harness.Account{old, moved} {
		for how, got := range map[string][][]byte{"IMAP": c.mailbox(t, p, a, "INBOX"), "POP3": c.maildrop(t, p, a)} {
			if len(got) != 1 || !bytes.HasSuffix(got[0], []byte(mail.text)) {
				t.Errorf("%s by %s: got %d messages, want the one that was sent", a.Name, how, len(got))
			}
		}
	}

	// The client, not the proxy, is in Dovecot's log, and so is the session's
	// id.
	eventually(t, "the session is in both logs", func() error {
		log, err := os.ReadFile(logs)
		if err != nil {
			return err
		}
		for _, l := range lines(t, p.Log, sessionOf("imap", old.Name)) {
			if strings.Contains(string(log), "session=<"+l.Session+">") {
				return nil
			}
		}
		return fmt.Errorf("no imap session of %s with one id in both", old.Name)
	})
}

// startDovecot runs Dovecot until the test ends, and returns its log's path.
func startDovecot(t *testing.T, c *cluster, host, dir string, addresses []string) string {
	t.Helper()
	owner := mailOwner(t)
	if err := os.MkdirAll(filepath.Join(dir, "mail"), 0o755); err != nil {
		t.Fatal(err)
	}
	uid, gid := 0, 0
	fmt.Sscan(owner.Uid, &uid)
	fmt.Sscan(owner.Gid, &gid)
	if err := os.Chown(filepath.Join(dir, "mail"), uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cert, key, err := c.CA.Issue("dovecot", host)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{cert: "dovecot.pem", key: "dovecot.key"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, to), string(b))
	}
	masters := writeFile(t, filepath.Join(dir, "masters"), "proxy:{PLAIN}"+c.proxySecret+"\n")
	if err := os.Chmod(masters, 0o644); err != nil { // the auth process is nobody special
		t.Fatal(err)
	}
	ports := make([]any, 0, 7)
	ports = append(ports, dir, host, owner.Uid, owner.Gid)
	for _, a := range addresses {
		_, port, err := net.SplitHostPort(a)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	config := writeFile(t, filepath.Join(dir, "dovecot.conf"), fmt.Sprintf(dovecotConfig, ports...))
	cmd := exec.Command("dovecot", "-F", "-c", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	for _, a := range addresses {
		eventually(t, "Dovecot listens on "+a, func() error {
			conn, err := net.Dial("tcp", a)
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
	return filepath.Join(dir, "dovecot.log")
}

// mailOwner is a user who may own Dovecot's mail: Dovecot runs as root and
// gives up its rights.
func mailOwner(t *testing.T) *user.User {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("Dovecot must be started by root")
		}
		t.Skip("Dovecot must be started by root")
	}
	u, err := user.Lookup("mail")
	if err != nil {
		t.Fatal(err)
	}
	return u
}
