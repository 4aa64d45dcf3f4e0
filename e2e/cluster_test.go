package e2e

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/internal/harness"
)

// The tests' patience: with one step, and with a whole session or program.
const (
	stepTimeout    = 15 * time.Second
	sessionTimeout = time.Minute
	pollInterval   = 10 * time.Millisecond
)

// cluster is a running cluster and what the tests know of it.
type cluster struct {
	*harness.Cluster
	tls         *tls.Config
	proxySecret string

	mu       sync.Mutex
	accounts []harness.Account
}

// start starts a cluster on a loopback address of its own. When the test ends
// the daemons must end in order, and no secret may be in their logs.
func start(t testing.TB, spec harness.Spec) *cluster {
	t.Helper()
	spec.Bin, spec.Dir, spec.Host = daemons.in(t), workDir(t), loopback(t)
	ctx, cancel := context.WithTimeout(context.Background(), sessionTimeout)
	defer cancel()
	h, err := harness.StartCluster(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Cluster: h, accounts: spec.Accounts}
	t.Cleanup(func() { c.stop(t) })
	pem, err := os.ReadFile(h.CA.File)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("the CA's certificate cannot be read")
	}
	c.tls = &tls.Config{RootCAs: pool, ServerName: h.Spec.Host}
	secret, err := os.ReadFile(filepath.Join(h.Spec.Dir, "proxy.secret"))
	if err != nil {
		t.Fatal(err)
	}
	c.proxySecret = strings.TrimSpace(string(secret))
	return c
}

func (c *cluster) stop(t testing.TB) {
	if err := c.Stop(); err != nil {
		t.Errorf("the daemons did not end in order: %v", err)
	}
	c.checkSecrets(t)
}

// loopback returns a random address of 127.0.0.0/8.
func loopback(t testing.TB) string {
	t.Helper()
	var b [3]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.%d.%d.%d", 1+b[0]%250, b[1], 1+b[2]%250)
}

// account adds an account whose name begins with a word and whose password
// nobody else has.
func (c *cluster) account(t testing.TB, word, home string) harness.Account {
	t.Helper()
	a := harness.Account{
		Name:     fmt.Sprintf("%s-%s@%s", word, strings.ToLower(rand.Text()[:8]), c.Spec.Domain),
		Password: "pw-" + rand.Text()[:16],
		Home:     home,
	}
	c.set(t, a)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accounts = append(c.accounts, a)
	return a
}

// set writes an account to the directory.
func (c *cluster) set(t testing.TB, a harness.Account) {
	t.Helper()
	if err := c.SetAccount(context.Background(), a); err != nil {
		t.Fatal(err)
	}
}

// eventually asks until there is no error left.
func eventually(t testing.TB, what string, ask func() error) {
	t.Helper()
	eventuallyWithin(t, stepTimeout, what, ask)
}

func eventuallyWithin(t testing.TB, limit time.Duration, what string, ask func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: still not after %v: %v", what, limit, err)
		}
	}
}
