package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"switchyard/internal/harness"
	"switchyard/lookup/tcpauth"
)

// TestReload: a certificate that was renewed is shown behind SIGHUP, clients that
// are connected go on, and a configuration with a mistake changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	dir := writeConfig(t, "127.0.0.1:0", `certificate = { cert_file = "d.pem", key_file = "d.key" }`)
	ca, err := harness.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	issue := func() {
		t.Helper()
		if _, _, err := ca.Issue("d", "127.0.0.1"); err != nil {
			t.Fatal(err)
		}
	}
	issue()
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	p := start(t, dir)
	shown := func() string {
		t.Helper()
		conn, err := tls.Dial("tcp", p.address, &tls.Config{RootCAs: pool})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	client := p.client(tcpauth.ClientOptions{TLS: &tls.Config{RootCAs: pool}})
	password := "apple"
	ask := func() {
		t.Helper()
		if err := client.Set(context.Background(), "anna@example.test", &password, map[string]string{"tohost": "b1"}); err != nil {
			t.Error(err)
		}
	}
	ask()
	config := filepath.Join(dir, "tcpauthd.toml")
	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	before := shown()
	issue()
	rewrite(string(good) + "nonsense = 1\nlog_level = \"debug\"\n")
	logged := func(text string) func() bool {
		return func() bool {
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			return strings.Contains(string(b), text)
		}
	}
	eventually(t, "the mistake is logged", logged("tcpauthd.nonsense: unknown key"))
	if got := shown(); got != before {
		t.Errorf("a bad configuration changed the certificate")
	}
	rewrite(string(good) + "log_level = \"debug\"\n")
	eventually(t, "the new certificate", func() bool { return shown() != before })
	eventually(t, "the new log level", func() bool { _, text := p.get("/loglevel"); return strings.Contains(text, `"debug"`) })
	if _, text := p.get("/metrics"); !strings.Contains(text, "switchyard_certificate_expiry_timestamp_seconds{") {
		t.Error("no metric of the certificate")
	}
	ask()
}
