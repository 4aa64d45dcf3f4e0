package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/internal/harness"
	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/imap"
	"switchyard/router/pop"
	"switchyard/router/routertest"
	"switchyard/router/sasl"
	"switchyard/router/upstream"
)

// foreign is a mail server that is not ours, with the accounts anna and proxy of
// example.test.
type foreign struct {
	services map[upstream.Service]string // addresses
}

const (
	foreignUser     = "anna@example.test"
	foreignPassword = "sesame"
	foreignSecret   = "proxy-s3cret" // the master user's password
)

// front starts a proxy of one protocol before a foreign server, which knows
// anna's password where the directory does not.
func (f *foreign) front(t *testing.T, p router.Protocol, policy upstream.Login, o sasl.Options, dir router.Directory) *routertest.Proxy {
	t.Helper()
	node := upstream.Node{Name: "old", Services: make(map[upstream.Service]upstream.Endpoint)}
	for service, address := range f.services {
		node.Services[service] = upstream.Endpoint{Address: address, TLS: tlsconf.Off}
	}
	if dir == nil {
		own := routertest.NewDirectory()
		own.Add(lookup.Account{Name: foreignUser, Home: "old"}, "the directory's own")
		dir = own
	}
	var set *upstream.Set
	proxy := routertest.Start(t, routertest.Config{
		Protocol: p, Directory: dir,
		Listener: router.Listener{AllowCleartextLogin: true},
		Options:  router.Options{DefaultDomain: "example.test", SASL: o},
		Upstream: upstream.Options{CheckDown: 10 * time.Millisecond, ProxyName: "proxy@example.test", ProxySecret: foreignSecret},
		Backends: []upstream.Backend{{Name: "old", Login: policy, Nodes: []upstream.Node{node}}},
		Wrap:     func(up router.Upstream) router.Upstream { set = up.(*upstream.Set); return up },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- set.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	eventually(t, "the capabilities are learned", func() error {
		if _, known := set.Capabilities(upstream.Service(p.Name())); !known {
			return fmt.Errorf("not known")
		}
		return nil
	})
	return proxy
}

// startForeign starts a server's program, waits until it listens, and ends it
// with the test.
func startForeign(t *testing.T, cmd *exec.Cmd, addresses ...string) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	for _, a := range addresses {
		eventually(t, "it listens on "+a, func() error {
			conn, err := net.Dial("tcp", a)
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
}

// checkForeign is what every foreign server must be good for: with passwords that
// go on to it, and with the proxy's own login there.
func checkForeign(t *testing.T, f *foreign, own upstream.Login) {
	t.Helper()
	for name, policy := range map[string]upstream.Login{"forwarded": {Forward: true, Unchecked: true}, "own login": own} {
		t.Run(name, func(t *testing.T) {
			wrong, right, refusal := "wrong", foreignPassword, "NO [AUTHENTICATIONFAILED] *"
			if !policy.Forward {
				right = "the directory's own"
			}
			f.front(t, imap.New(), policy, sasl.Options{}, nil).Play(`
				S: * OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ ID ENABLE*AUTH=PLAIN AUTH=LOGIN] *
				C: a LOGIN anna ` + wrong + `
				S: a ` + refusal + `
				C: b LOGIN nobody "` + right + `"
				S: b ` + refusal + `
				C: c LOGIN anna {` + fmt.Sprint(len(right)) + `+}
				C: ` + right + `
				S: c OK *
				C: d UNSELECT
				S: d *
				C: e LOGOUT
				S: \* BYE *
				S: e OK *`)
			f.front(t, pop.New(), policy, sasl.Options{}, nil).Play(`
				S: +OK *
				C: CAPA
				S: +OK
				S: RESP-CODES
				S: AUTH-RESP-CODE
				S: TOP
				S: UIDL
				S: PIPELINING
				S: USER
				S: SASL PLAIN LOGIN
				S: .
				C: USER anna
				S: +OK
				C: PASS ` + wrong + `
				S: -ERR [AUTH] *
				C: USER anna
				S: +OK
				C: PASS ` + right + `
				S: +OK*
				C: STAT
				S: +OK 0 0
				C: QUIT
				S: +OK*`)
		})
	}
	t.Run("SCRAM relayed to it", func(t *testing.T) { f.relay(t) })
}

// relay has a real client log in by SCRAM through a proxy that knows no keys.
func (f *foreign) relay(t *testing.T) {
	program(t, "mbsync")
	p := f.front(t, imap.New(), upstream.Login{Forward: true}, sasl.Options{SCRAM: true, Secret: []byte("a secret of the whole cluster")}, nil)
	host, port, err := net.SplitHostPort(p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-1"} {
		for password, fails := range map[string]bool{foreignPassword: false, "wrong": true} {
			dir := t.TempDir()
			rc := writeFile(t, filepath.Join(dir, "mbsyncrc"), fmt.Sprintf(mbsyncSCRAM, host, port, foreignUser, password, mechanism, dir))
			job{args: []string{"mbsync", "--config", rc, "-a"}, dir: dir, env: []string{"HOME=" + dir}, fails: fails}.run(t)
		}
	}
	sessions := p.Sessions(4)
	in := 0
	for _, s := range sessions {
		if wasIn(s) && strings.HasPrefix(fmt.Sprint(s["mechanism"]), "SCRAM-") {
			in++
		}
	}
	if in != 2 {
		t.Errorf("%d logins by SCRAM, want 2: %v", in, sessions)
	}
}

const mbsyncSCRAM = `IMAPAccount proxy
Host %[1]s
Port %[2]s
User %[3]s
Pass %[4]s
AuthMechs %[5]s
SSLType None

IMAPStore far
Account proxy

MaildirStore near
Inbox %[6]s/inbox
Path %[6]s/
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Create Near
SyncState *
`

// freePorts finds addresses, and returns their ports too.
func freePorts(t *testing.T, host string, n int) (addresses, ports []string) {
	t.Helper()
	addresses, err := harness.FreeAddresses(host, n)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		_, port, err := net.SplitHostPort(a)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	return addresses, ports
}

// giveTo makes a directory tree a user's.
func giveTo(t *testing.T, uid, gid, dir string) {
	t.Helper()
	var u, g int
	fmt.Sscan(uid, &u)
	fmt.Sscan(gid, &g)
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if err == nil {
			err = os.Lchown(path, u, g)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wasIn reports whether a session ended as one that had been logged in does: the
// backend closed behind the goodbye, or the client was quicker.
func wasIn(session map[string]any) bool {
	return session["result"] == "logged out" || session["result"] == "client gone"
}
