package ldap_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	base        = "ou=people,dc=example,dc=test"
	serviceDN   = "cn=mail,dc=example,dc=test"
	limitedDN   = "cn=limited,dc=example,dc=test" // may see one entry of a search
	blindDN     = "cn=blind,dc=example,dc=test"   // may not read swName
	readerDN    = "cn=reader,dc=example,dc=test"  // may read hashes
	adminDN     = "cn=admin,dc=example,dc=test"
	servicePass = "service-secret"
)

// slapd is Debian's LDAP server, run by a test on loopback, with the project's
// own schema and the accounts of the suite.
type slapd struct {
	dir    string
	conf   string
	plain  string // ldap:// URL
	tls    string // ldaps:// URL
	socket string // ldapi:// URL
	ca     *x509.CertPool
	client tls.Certificate // of the service, for EXTERNAL

	mu       sync.Mutex
	cmd      *exec.Cmd
	exited   chan struct{}
	stopping bool // it was told to end
	crashes  int
}

// maxCrashes is how often a server may crash and be started again. slapd
// 2.5.13 crashed once in a test of feeds, for reasons of its own: thousands of
// feeds that come and go do not bring it about. To the directory it is one more
// fault, and what the test wants has to come true all the same.
const maxCrashes = 1

// program finds a program of the packages slapd and ldap-utils. Without it the
// test fails in CI and is skipped elsewhere.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		const how = "%s is not installed: apt-get install slapd ldap-utils"
		if os.Getenv("CI") == "true" {
			t.Fatalf(how, name)
		}
		t.Skipf(how, name)
	}
	return path
}

const configuration = `
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include %[1]s
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload syncprov
TLSCertificateFile %[2]s/server.pem
TLSCertificateKeyFile %[2]s/server.key
TLSCACertificateFile %[2]s/server.pem
TLSVerifyClient allow
authz-regexp "^gidNumber=[0-9]*[+]uidNumber=[0-9]*,cn=peercred,cn=external,cn=auth$" "%[5]s"
authz-regexp "^cn=proxy of a test$" "%[5]s"
database mdb
suffix dc=example,dc=test
rootdn cn=admin,dc=example,dc=test
rootpw %[6]s
directory %[2]s/db
maxsize 1073741824
dbnosync
index objectClass,swName,mail eq
limits dn.exact="%[3]s" size=1
limits dn.exact="%[5]s" size=unlimited
limits dn.exact="%[7]s" size=unlimited
access to attrs=userPassword by dn.exact="%[7]s" read by anonymous auth by * none
access to attrs=swName by dn.exact="%[4]s" search by * read
access to * by users read by anonymous search
%[8]s
`

// startSlapd starts a server loaded with LDIF files of testdata/ldif, which
// tells of changes. It ends with the test.
func startSlapd(t testing.TB, ldifs ...string) *slapd {
	t.Helper()
	return startSlapdWith(t, "overlay syncprov", nil, ldifs...)
}

// startSlapdWith starts a server with more lines of configuration and more
// schemas.
func startSlapdWith(t testing.TB, more string, schemas []string, ldifs ...string) *slapd {
	t.Helper()
	program(t, "slapd")
	s := &slapd{dir: t.TempDir()}
	schema, err := filepath.Abs("../../deploy/ldap/switchyard.schema")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.ca, s.client = certify(t, s.dir)
	s.conf = filepath.Join(s.dir, "slapd.conf")
	for _, path := range schemas {
		schema += "\ninclude " + path
	}
	text := fmt.Sprintf(configuration, schema, s.dir, limitedDN, blindDN, serviceDN, servicePass, readerDN, more)
	if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ldif := range ldifs {
		add := exec.Command(program(t, "slapadd"), "-q", "-f", s.conf, "-l", filepath.Join("../../testdata/ldif", ldif))
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("load %s: %v\n%s", ldif, err, out)
		}
	}
	t.Cleanup(func() { s.stop(t) })
	s.plain, s.tls = "ldap://"+freePort(t), "ldaps://"+freePort(t)
	s.socket = "ldapi://" + url.QueryEscape(filepath.Join(s.dir, "ldapi"))
	s.start(t)
	return s
}

// start runs the server and waits until it listens.
func (s *slapd) start(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	exited, lastWord, err := s.launch()
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// The socket is the last of its listeners: when it is there, all are.
	for _, at := range [][2]string{{"tcp", s.plain}, {"tcp", s.tls}, {"unix", filepath.Join(s.dir, "ldapi")}} {
		address := at[1]
		if at[0] == "tcp" {
			_, address, _ = strings.Cut(address, "://")
		}
		for {
			conn, err := (&net.Dialer{}).DialContext(ctx, at[0], address)
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-exited:
				t.Fatalf("slapd ended: %s", lastWord)
			case <-ctx.Done():
				t.Fatalf("slapd does not listen on %s: %v", address, err)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

// launch runs the server. The caller holds mu.
func (s *slapd) launch() (exited chan struct{}, lastWord *strings.Builder, err error) {
	path, err := exec.LookPath("slapd")
	if err != nil {
		path = "/usr/sbin/slapd"
	}
	exited, lastWord = make(chan struct{}), &strings.Builder{}
	cmd := exec.Command(path, "-d", "0", "-f", s.conf, "-h", s.plain+"/ "+s.tls+"/ "+s.socket)
	cmd.Stderr, cmd.Stdout = lastWord, lastWord
	// The server must not outlive a test that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	s.cmd, s.exited, s.stopping = cmd, exited, false
	go func() {
		defer close(exited)
		s.ended(cmd.Wait())
	}()
	return exited, lastWord, nil
}

// ended says how a server ended that nobody told to, and runs it again if it
// crashed, up to maxCrashes times.
func (s *slapd) ended(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return
	}
	fmt.Fprintf(os.Stderr, "slapd of %s ended by itself: %v\n", s.dir, err)
	var exit *exec.ExitError
	signalled := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled()
	if s.crashes++; signalled && s.crashes <= maxCrashes {
		if _, _, err := s.launch(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// stop ends the server, hanging or not.
func (s *slapd) stop(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	cmd, exited := s.cmd, s.exited
	s.cmd, s.stopping = nil, true
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-exited:
	case <-time.After(10 * time.Second):
		t.Errorf("slapd did not end on SIGTERM")
		cmd.Process.Kill()
		<-exited
	}
}

// process is the server's, nil while it is stopped.
func (s *slapd) process() *os.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return nil
	}
	return s.cmd.Process
}

// hang stops the process where it is: the kernel goes on accepting connections
// and nobody answers.
func (s *slapd) hang(t testing.TB) {
	t.Helper()
	if err := s.process().Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// The signal may arrive later than the test's next question.
	for deadline := time.Now().Add(10 * time.Second); !s.isStopped(t); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("slapd does not stop")
		}
	}
}

// isStopped reports whether all threads of the server are.
func (s *slapd) isStopped(t testing.TB) bool {
	t.Helper()
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.process().Pid))
	if err != nil || len(stats) == 0 {
		t.Fatalf("the threads of slapd: %q, %v", stats, err)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		if _, state, _ := strings.Cut(string(text), ") "); !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return true
}

// mend undoes stop and hang.
func (s *slapd) mend(t testing.TB) {
	t.Helper()
	p := s.process()
	if p == nil {
		s.start(t)
		return
	}
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

func (s *slapd) tlsConfig() *tls.Config {
	return &tls.Config{RootCAs: s.ca, MinVersion: tls.VersionTLS12}
}

// given are the addresses that freePort gave away.
var given sync.Map

// freePort returns a loopback address that nobody listens on, and never the
// same twice: two servers that are being started would meet there.
func freePort(t testing.TB) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if _, twice := given.LoadOrStore(l.Addr().String(), true); !twice {
			return l.Addr().String()
		}
	}
}

// certify writes a certificate for 127.0.0.1, which is its own authority, and
// returns a client's that it signed.
func certify(t testing.TB, dir string) (*x509.CertPool, tls.Certificate) {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	key, clientKey := newKey(), newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "slapd of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, data := range map[string][]byte{
		"server.pem": certificate,
		"server.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certificate)
	clientTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "proxy of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	clientDER, err := x509.CreateCertificate(rand.Reader, clientTemplate, template, &clientKey.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pool, tls.Certificate{Certificate: [][]byte{clientDER}, PrivateKey: clientKey}
}

// modifyOffline changes the database of a server that is stopped.
func (s *slapd) modifyOffline(t testing.TB, ldif string) {
	t.Helper()
	cmd := exec.Command(program(t, "slapmodify"), "-w", "-f", s.conf)
	cmd.Stdin = strings.NewReader(ldif)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
