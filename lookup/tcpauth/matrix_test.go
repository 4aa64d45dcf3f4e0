package tcpauth_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/module"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/nwauth/hash"
	"switchyard/lookup/postgres"
	"switchyard/lookup/postgres/postgrestest"
	"switchyard/lookup/tcpauth"
)

// The matrix of the directories. Each row passes one suite, lookuptest.RunAll,
// in each of these settings:
//
//	                       bare                                    cached
//	contract               ✓                                       ✓
//	… while it stops       ✓                                       ✓
//	… while it hangs       ✓                                       ✓
//	slow                   ✓                                       ✓
//	truncated              ✓                                       ✓
//	garbled                ✓ but for LDAP in clear                 ✓ likewise
//
// The rows, and where they are driven:
//
//	static                 lookup/static     TestMatrix            faults: an injector before it
//	TCPAuth, embedded      here                                    faults: the wire to tcpauthd
//	TCPAuth, PostgreSQL    here                                    likewise
//	TCPAuth, child module  here                                    likewise
//	LDAP, ldap and ldaps   lookup/ldap       TestMatrix            faults: the wire to a real slapd
//
// Faults behind tcpauthd have their own tests: PostgreSQL stopped, frozen and
// cut off in lookup/postgres, a child that does each of twenty things wrong in
// lookup/module, a disk that fails and a crash at each step in lookup/nwauth.
func TestMatrix(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) tcpauth.Database{
		"embedded":     embedded,
		"PostgreSQL":   inPostgreSQL,
		"child module": inModule,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const secret = "open sesame"
			address := serve(t, open(t), secret)
			lookuptest.RunAll(t, lookuptest.Row{Open: func(t *testing.T, timeout time.Duration) (lookup.Directory, lookuptest.Faults) {
				w := lookuptest.NewWire(t, "tcp", address)
				c, err := tcpauth.NewClient([]string{w.Addr()}, tcpauth.ClientOptions{Secret: secret, Timeout: timeout, MaxBackoff: 50 * time.Millisecond})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c, w
			}})
		})
	}
}

// serve starts a server of a database that holds the suite's accounts.
func serve(t *testing.T, db tcpauth.Database, secret string) string {
	t.Helper()
	s, err := tcpauth.NewServer(db, tcpauth.ServerOptions{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestKeysContract: the keys of an embedded database, over the wire.
func TestKeysContract(t *testing.T) {
	lookuptest.RunKeys(t, lookuptest.KeyFixture{Open: func(t *testing.T, hashes map[string]string) lookup.KeyHolder {
		db, err := nwauth.Open(t.TempDir(), nwauth.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		var text bytes.Buffer
		for name, stored := range hashes {
			fmt.Fprintf(&text, "%s:%s:\n", name, stored)
		}
		if _, err := db.Import(t.Context(), &text, nil); err != nil {
			t.Fatal(err)
		}
		const secret = "open sesame"
		c, err := tcpauth.NewClient([]string{serve(t, db, secret)}, tcpauth.ClientOptions{Secret: secret})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}})
}

// cheap are the costs of a hash that make tests quick.
var cheap = hash.Argon2{Memory: 64, Passes: 1, Threads: 1}

// accounts are those of the suite as NWAuth text.
func accounts() []byte {
	var b bytes.Buffer
	for _, r := range lookuptest.Accounts() {
		stored, err := hash.New(r.Password, cheap)
		if err != nil {
			panic(err) // the suite's passwords can be hashed
		}
		fmt.Fprintf(&b, "%s:%s:%s\n", r.Name, stored, netwin.AppendLabels(nil, labelsOf(r)))
	}
	return b.Bytes()
}

// labelsOf gives the generation too, so that no store makes its own.
func labelsOf(r lookuptest.Record) map[string]string {
	labels := netwin.Labels(r.Account)
	labels[netwin.Generation] = strconv.FormatUint(r.Generation, 10)
	return labels
}

func openEmbedded(dir string) (*nwauth.DB, error) {
	db, err := nwauth.Open(dir, nwauth.Options{Argon2: cheap, HashWait: time.Minute})
	if err != nil {
		return nil, err
	}
	if _, err := db.Import(context.Background(), bytes.NewReader(accounts()), nil); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func embedded(t *testing.T) tcpauth.Database {
	t.Helper()
	db, err := openEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func inPostgreSQL(t *testing.T) tcpauth.Database {
	t.Helper()
	s := postgrestest.New(t)
	db, err := postgres.Open(t.Context(), s.NewDatabase(t), postgres.Passwords{
		Hash:   func(password string) (string, error) { return hash.New(password, cheap) },
		Verify: hash.Verify,
	}, postgres.Options{HashWait: time.Minute, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for _, r := range lookuptest.Accounts() {
		if _, err := db.Set(t.Context(), r.Name, &r.Password, labelsOf(r)); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

// asModule names the environment variable that makes the test binary an
// authent module.
const asModule = "TCPAUTH_TEST_MODULE"

func inModule(t *testing.T) tcpauth.Database {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m, err := module.New([]string{binary}, module.Options{
		Processes: 2, Timeout: time.Minute, Env: append(os.Environ(), asModule+"="+t.TempDir()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// beModule serves a child's own copy of the accounts.
func beModule(dir string) error {
	dir, err := os.MkdirTemp(dir, "users")
	if err != nil {
		return err
	}
	db, err := openEmbedded(dir)
	if err != nil {
		return err
	}
	defer db.Close()
	s, err := tcpauth.NewServer(db, tcpauth.ServerOptions{})
	if err != nil {
		return err
	}
	s.ServeModule(context.Background(), os.Stdin, os.Stdout)
	return nil
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(asModule); dir != "" {
		if err := beModule(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}
