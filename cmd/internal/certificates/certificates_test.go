package certificates

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"switchyard/conf"
	"switchyard/internal/daemon"
	"switchyard/internal/harness"

	"go.uber.org/zap"
)

// config is that of a daemon with a certificate.
func config(t *testing.T) *conf.Config {
	t.Helper()
	dir := t.TempDir()
	ca, err := harness.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ca.Issue("d", "localhost"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "x.toml")
	text := "[tcpauthd]\naddress = \"127.0.0.1:0\"\ndata = \"users\"\ncertificate = { cert_file = \"d.pem\", key_file = \"d.key\" }\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := conf.Load(path, conf.TcpauthdDaemon)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shake tries a handshake and returns the version that was agreed on.
func shake(server *tls.Config, client *tls.Config) (uint16, error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(a, server).Handshake() }()
	conn := tls.Client(b, client)
	err := conn.Handshake()
	if err == nil {
		err = <-done
	}
	return conn.ConnectionState().Version, err
}

// TestServer: what a listener's keys say is what its clients meet.
func TestServer(t *testing.T) {
	c := config(t)
	store, err := Open(c, zap.NewNop(), conf.Certificate{}, c.Tcpauthd.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}
	browser := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	for name, l := range map[string]struct {
		conf.Listener
		client *tls.Config
		good   bool
	}{
		"1.2 by default":   {conf.Listener{Protocol: "imap"}, old, true},
		"1.2":              {conf.Listener{Protocol: "imap", TLSMin: "1.2"}, old, true},
		"1.3 at least":     {conf.Listener{Protocol: "imap", TLSMin: "1.3"}, old, false},
		"a browser":        {conf.Listener{Protocol: "imap"}, browser, false},
		"no certificate":   {conf.Listener{Protocol: "imap", ClientCertificates: "required", ClientCAFile: "ca.pem"}, old, false},
		"none is optional": {conf.Listener{Protocol: "imap", ClientCertificates: "optional", ClientCAFile: "ca.pem"}, old, true},
	} {
		server, err := Server(c, l.Listener, store)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := shake(server, l.client); (err == nil) != l.good {
			t.Errorf("%s: version %x, %v", name, v, err)
		}
	}
	if server, err := Server(c, conf.Listener{}, nil); server != nil || err != nil {
		t.Errorf("without a store: %v, %v", server, err)
	}
	var a daemon.Admin
	if Show(store, &a); len(a.Metrics) != 1 || len(a.Warnings()) != 0 {
		t.Errorf("shown: %d metrics, %q", len(a.Metrics), a.Warnings())
	}
}

// TestUse: what TLS was started with goes on, unless other certificates are there.
func TestUse(t *testing.T) {
	c := config(t)
	none, err := Open(c, zap.NewNop(), conf.Certificate{})
	if none != nil || err != nil {
		t.Fatalf("got %v, %v", none, err)
	}
	if err := Use(none, c); err != nil {
		t.Errorf("no certificate, as before: %v", err)
	}
	if err := Use(none, c, c.Tcpauthd.Certificate); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("a first certificate: %v", err)
	}
	store, err := Open(c, zap.NewNop(), c.Tcpauthd.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if err := Use(store, c, conf.Certificate{}); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("the last certificate goes: %v", err)
	}
	if err := Use(store, c, conf.Certificate{CertFile: "ca.pem", KeyFile: "d.key"}); err == nil {
		t.Error("a certificate with another's key was taken")
	}
	if err := Use(store, c, c.Tcpauthd.Certificate); err != nil || len(store.Certificates()) != 1 {
		t.Errorf("the same again: %v", err)
	}
}
