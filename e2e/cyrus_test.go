package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"switchyard/router/upstream"
)

// cyrusPackages are Cyrus, and what it needs that a mail machine may lack. They
// exclude Dovecot's packages and are not installed: they are unpacked.
var cyrusPackages = []string{"cyrus-common", "cyrus-imapd", "cyrus-pop3d", "libxapian30", "libpcre3", "libical3", "sasl2-bin"}

const cyrusConfig = `configdirectory: %[1]s/conf
defaultpartition: default
partition-default: %[1]s/spool
cyrus_user: %[2]s
proxyservers: proxy@example.test
virtdomains: userid
unixhierarchysep: yes
altnamespace: yes
allowplaintext: yes
autocreate_quota: 0
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: %[1]s/sasldb
sasl_mech_list: PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-1
mboxname_lockpath: %[1]s/run/lock
proc_path: %[1]s/run/proc
idlesocket: %[1]s/run/idle
lmtpsocket: %[1]s/run/lmtp
notifysocket: %[1]s/run/notify
tls_server_cert: disabled
`

const cyrusServices = `START {
  recover cmd="%[2]s/ctl_cyrusdb -C %[1]s/imapd.conf -r"
}
SERVICES {
  imap cmd="%[2]s/imapd -C %[1]s/imapd.conf" listen="%[3]s" prefork=0
  pop3 cmd="%[2]s/pop3d -C %[1]s/imapd.conf" listen="%[4]s" prefork=0
}
`

// TestCyrusBehindProxy: real Cyrus stands behind a proxy with its users' own
// passwords, with the proxy as one of its proxyservers, and with SCRAM that only
// Cyrus can judge.
func TestCyrusBehindProxy(t *testing.T) {
	slow(t)
	f := startCyrus(t)
	checkForeign(t, f, upstream.Login{})
}

// startCyrus unpacks Cyrus and runs it from there.
func startCyrus(t *testing.T) *foreign {
	t.Helper()
	program(t, "dpkg")
	owner := mailOwner(t)
	dir := workDir(t)
	download := exec.Command("apt-get", append([]string{"download"}, cyrusPackages...)...)
	download.Dir = dir
	if out, err := download.CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("download Cyrus: %v\n%s", err, out)
		}
		t.Skipf("Cyrus cannot be downloaded: %v\n%s", err, out)
	}
	root := filepath.Join(dir, "root")
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != len(cyrusPackages) {
		t.Fatalf("got %v, %v", debs, err)
	}
	for _, deb := range debs {
		if out, err := exec.Command("dpkg", "-x", deb, root).CombinedOutput(); err != nil {
			t.Fatalf("unpack %s: %v\n%s", deb, err, out)
		}
	}
	libs, err := filepath.Glob(filepath.Join(root, "usr/lib/*/libcyrus.so.0"))
	if err != nil || len(libs) != 1 {
		t.Fatalf("got %v, %v", libs, err)
	}
	arch := filepath.Base(filepath.Dir(libs[0]))
	env := append(os.Environ(), fmt.Sprintf("LD_LIBRARY_PATH=%[1]s/usr/lib/%[2]s:%[1]s/lib/%[2]s", root, arch))

	work := filepath.Join(dir, "work")
	for _, d := range []string{"conf/db", "conf/log", "conf/msg", "conf/proc", "conf/socket", "conf/lock", "conf/ptclient", "spool", "run"} {
		if err := os.MkdirAll(filepath.Join(work, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	host := loopback(t)
	addresses, _ := freePorts(t, host, 2)
	bin := filepath.Join(root, "usr/lib/cyrus/bin")
	config := writeFile(t, filepath.Join(work, "imapd.conf"), fmt.Sprintf(cyrusConfig, work, owner.Username))
	services := writeFile(t, filepath.Join(work, "cyrus.conf"), fmt.Sprintf(cyrusServices, work, bin, addresses[0], addresses[1]))
	for user, password := range map[string]string{"anna": foreignPassword, "proxy": foreignSecret} {
		cmd := exec.Command(filepath.Join(root, "usr/sbin/saslpasswd2"), "-p", "-c", "-f", filepath.Join(work, "sasldb"), "-u", "example.test", user)
		cmd.Env, cmd.Stdin = env, strings.NewReader(password)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("saslpasswd2: %v\n%s", err, out)
		}
	}
	giveTo(t, owner.Uid, owner.Gid, work)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "master"), "-C", config, "-M", services, "-p", filepath.Join(work, "run/pid"), "-D")
	cmd.Env = env
	startForeign(t, cmd, addresses...)
	return &foreign{map[upstream.Service]string{upstream.IMAP: addresses[0], upstream.POP3: addresses[1]}}
}
