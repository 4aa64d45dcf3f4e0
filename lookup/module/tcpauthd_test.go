package module

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"switchyard/lookup"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/nwauth/hash"
	"switchyard/lookup/tcpauth"
)

// asTcpauthd makes the test binary what tcpauthd -stdio is; its value is the
// directory of its users.
const asTcpauthd = "TCPAUTHD_TEST_MODULE"

func beTcpauthd(dir string) error {
	db, err := nwauth.Open(dir, nwauth.Options{Argon2: hash.Argon2{Memory: 64, Passes: 1, Threads: 1}})
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

// TestTcpauthd: our own server and database on pipes stand in for a NetWin
// module. The daemon itself, with -stdio, is tested in cmd/tcpauthd.
func TestTcpauthd(t *testing.T) {
	t.Parallel()
	// One process can have the embedded database open.
	m, err := New([]string{testBinary()}, Options{Processes: 1, Env: append(os.Environ(), asTcpauthd+"="+t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	const name = "jörg@x.test"
	var last uint64
	for round := range 3 {
		added, err := m.Set(t.Context(), name, ptr("pässword"), map[string]string{"tohost": "b1", "note": "a = b"})
		if err != nil || !added {
			t.Fatalf("round %d: set: got %v, %v", round, added, err)
		}
		a, err := m.Check(t.Context(), lookup.Credentials{Name: name, Password: "pässword"})
		if err != nil || a.Home != "b1" || a.Attributes["note"] != "a = b" || a.Generation <= last {
			t.Fatalf("round %d: check: got %+v, %v, last generation %d", round, a, err, last)
		}
		last = a.Generation
		if _, err := m.Check(t.Context(), lookup.Credentials{Name: name, Password: "wrong"}); !errors.Is(err, lookup.ErrRejected) {
			t.Errorf("round %d: check: got %v, want rejected", round, err)
		}
		if _, err := m.Set(t.Context(), name, nil, map[string]string{"tohost": "b2", "note": ""}); err != nil {
			t.Fatal(err)
		}
		if a, err = m.Lookup(t.Context(), name); err != nil || a.Home != "b2" || a.Generation != last+1 || a.Attributes["note"] != "" {
			t.Errorf("round %d: moved: got %+v, %v", round, a, err)
		}
		last = a.Generation
		names, found, total, err := m.Search(t.Context(), "j*", 0, 10)
		if err != nil || fmt.Sprint(names) != "["+name+"]" || found != 1 || total != 1 {
			t.Errorf("round %d: search: got %q, %d, %d, %v", round, names, found, total, err)
		}
		if err := m.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Lookup(t.Context(), name); !errors.Is(err, lookup.ErrAbsent) {
			t.Errorf("round %d: lookup of the deleted: got %v, want absent", round, err)
		}
	}
}
