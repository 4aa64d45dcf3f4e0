package ldap_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"switchyard/lookup/ldap"
)

func TestMain(m *testing.M) {
	// The bound on messages is the library's and for the whole process: set it
	// before the tests' own servers use the library.
	if _, err := ldap.New(nil, "", ldap.Options{}); err == nil {
		panic("a directory without a server")
	}
	// The tests wait more than they work.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(run{m})
}

// run is the tests and the end of the server that they have in common.
type run struct{ *testing.M }

func (r run) Run() int {
	code := r.M.Run()
	for _, cleanup := range shared.keeper.cleanups {
		cleanup()
	}
	return code
}

// shared is a server for the tests that neither change nor stop it.
var shared struct {
	once   sync.Once
	server *slapd
	keeper keeper
}

// common returns the server that is loaded with all of testdata/ldif. It has no
// feed.
func common(t testing.TB) *slapd {
	t.Helper()
	program(t, "slapd")
	shared.once.Do(func() {
		schema, err := filepath.Abs("../../testdata/ldif/shapes.schema")
		if err != nil {
			t.Fatal(err)
		}
		shared.keeper.TB = t
		shared.server = startSlapdWith(&shared.keeper, "", []string{schema}, "accounts.ldif", "faults.ldif", "shapes.ldif")
	})
	if shared.server == nil {
		t.Fatal("the server of all tests did not start")
	}
	return shared.server
}

// keeper is a test for which things are started that outlive it, until TestMain
// ends them.
type keeper struct {
	testing.TB
	cleanups []func() // the last one first
}

func (k *keeper) Helper() {}

func (k *keeper) Cleanup(f func()) { k.cleanups = append([]func(){f}, k.cleanups...) }

func (k *keeper) TempDir() string {
	dir, err := os.MkdirTemp("", "slapd")
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (k *keeper) Errorf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
