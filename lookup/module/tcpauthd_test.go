package module

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"switchyard/lookup"
)

// TestTcpauthd runs our own daemon as the module: tcpauthd -stdio stands in for
// a NetWin one.
func TestTcpauthd(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the daemon")
	}
	dir := t.TempDir()
	daemon := filepath.Join(dir, "tcpauthd")
	if out, err := exec.Command("go", "build", "-o", daemon, "switchyard/cmd/tcpauthd").CombinedOutput(); err != nil {
		t.Fatalf("build tcpauthd: %v\n%s", err, out)
	}
	config := filepath.Join(dir, "tcpauthd.toml")
	if err := os.WriteFile(config, []byte("[tcpauthd]\naddress = \"127.0.0.1:0\"\ndata = \"users\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// One process can have the embedded database open.
	m, err := New([]string{daemon, "-stdio", "-config", config}, Options{Processes: 1})
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
