package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"

	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/postgres/postgrestest"
)

// from makes Import's source of a slice of records and errors.
func from(items ...any) func() (Record, error) {
	return func() (Record, error) {
		if len(items) == 0 {
			return Record{}, io.EOF
		}
		item := items[0]
		items = items[1:]
		if err, ok := item.(error); ok {
			return Record{}, err
		}
		return item.(Record), nil
	}
}

// numbered is a source of n records.
func numbered(n int, home string) func() (Record, error) {
	i := 0
	return func() (Record, error) {
		if i == n {
			return Record{}, io.EOF
		}
		i++
		return Record{Name: fmt.Sprintf("user%07d@x.test", i-1), Hash: "{TEST}", Labels: map[string]string{"tohost": home}}, nil
	}
}

func dump(t *testing.T, db *DB) []string {
	t.Helper()
	var lines []string
	err := db.Export(t.Context(), func(r Record) error {
		lines = append(lines, r.Name+":"+r.Hash+":"+string(netwin.AppendLabels(nil, r.Labels)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func testImport(t *testing.T, c *postgrestest.Server) {
	db := open(t, c.NewDatabase(t), Options{})
	for name, labels := range map[string]map[string]string{
		"stays@x.test": {"tohost": "b1"}, "moves@x.test": {"tohost": "b1", "old": "1"},
		"same@x.test": {"tohost": "b1"}, "gone@x.test": {"tohost": "b1", "homegen": "41"},
	} {
		if _, err := db.Set(t.Context(), name, ptr("p"), labels); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Delete(t.Context(), "gone@x.test"); err != nil {
		t.Fatal(err)
	}
	in, err := db.Import(t.Context(), from(
		Record{Name: "new@x.test", Hash: "{TEST}n"},
		Record{Name: "moves@x.test", Hash: "{TEST}m", Labels: map[string]string{"tohost": "b2", "note": `50% \ 'q' `}},
		Record{Name: "same@x.test", Hash: "{TEST}s", Labels: map[string]string{"tohost": "b1"}},
		Record{Name: "gone@x.test", Hash: "{TEST}g", Labels: map[string]string{"tohost": "b1", "homegen": "3"}},
		netwin.Refuse("line 5 is no record"),
		Record{Name: "Upper@x.test"},
		Record{Name: "new@x.test", Hash: "{TEST}twice"},
	), nil)
	if err != nil || in.Added != 2 || in.Replaced != 2 || in.Bad != 3 || len(in.Errors) != 3 {
		t.Errorf("import: got %+v, %v", in, err)
	}
	stays, _ := db.passwords.Hash("p")
	want := []string{
		`gone@x.test:{TEST}g:homegen="42" tohost="b1"`,
		`moves@x.test:{TEST}m:homegen="2" note="50% \ 'q' " tohost="b2"`,
		`new@x.test:{TEST}n:`,
		`same@x.test:{TEST}s:homegen="1" tohost="b1"`,
		`stays@x.test:` + stays + `:homegen="1" tohost="b1"`,
	}
	if got := dump(t, db); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("after the import:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	broken := errors.New("the disk is gone")
	if in, err := db.Import(t.Context(), from(Record{Name: "a@x.test"}, broken), nil); !errors.Is(err, broken) || in.Added != 0 {
		t.Errorf("import from a broken source: got %+v, %v", in, err)
	}
	stop := errors.New("enough")
	if err := db.Export(t.Context(), func(Record) error { return stop }); err != stop {
		t.Errorf("export that is stopped: got %v", err)
	}
}

// testImportRace: an import of accounts that others change and add meanwhile.
// Generations count every move.
func testImportRace(t *testing.T, c *postgrestest.Server) {
	const n = 2*importBatch + 10
	dsn := c.NewDatabase(t)
	db := open(t, dsn, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	moves := 0
	wg.Go(func() {
		other := open(t, dsn, Options{})
		for ctx.Err() == nil {
			if _, err := other.Set(context.Background(), "user0000005@x.test", ptr("p"), map[string]string{"tohost": "b" + strconv.Itoa(moves)}); err != nil {
				t.Errorf("set: %v", err)
				return
			}
			moves++
		}
	})
	var steps []int
	for round := range 2 {
		in, err := db.Import(t.Context(), numbered(n, "home"+strconv.Itoa(round)), func(in Imported) { steps = append(steps, in.Added+in.Replaced) })
		if err != nil || in.Added+in.Replaced != n || in.Bad > 0 {
			t.Errorf("import: got %+v, %v", in, err)
		}
	}
	cancel()
	wg.Wait()
	if got := fmt.Sprint(steps); got != fmt.Sprint([]int{importBatch, 2 * importBatch, n, importBatch, 2 * importBatch, n}) {
		t.Errorf("progress: %s", got)
	}
	a, err := db.Lookup(t.Context(), "user0000005@x.test")
	if err != nil || a.Generation < uint64(moves) || a.Generation > uint64(moves)+2 {
		t.Errorf("generation %d, %v, after %d moves and two imports", a.Generation, err, moves)
	}
	if count, err := db.Count(t.Context()); count != n || err != nil {
		t.Errorf("%d accounts, %v, want %d", count, err, n)
	}
}
