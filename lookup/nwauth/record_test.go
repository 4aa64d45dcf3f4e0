package nwauth

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRecord(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want Record
		err  string
	}{
		"NetWin's own": {
			`marijn@mydomain.com:{ssha}tVANQo:created="1060034937" mailaccess="free_user"`,
			Record{"marijn@mydomain.com", "{ssha}tVANQo", map[string]string{"created": "1060034937", "mailaccess": "free_user"}}, "",
		},
		"no labels":          {"bob@x.test:abnqrLigH.z/s:", Record{"bob@x.test", "abnqrLigH.z/s", map[string]string{}}, ""},
		"no second colon":    {"bob@x.test:abnqrLigH.z/s", Record{"bob@x.test", "abnqrLigH.z/s", map[string]string{}}, ""},
		"no hash":            {"bob@x.test::a=\"b\"", Record{"bob@x.test", "", map[string]string{"a": "b"}}, ""},
		"upper case":         {`Bob@X.Test:*:ToHost=b1`, Record{"bob@x.test", "*", map[string]string{"tohost": "b1"}}, ""},
		"colon in a value":   {`bob@x.test:*:a="b:c"`, Record{"bob@x.test", "*", map[string]string{"a": "b:c"}}, ""},
		"no colon":           {"bob@x.test", Record{}, "no colon"},
		"no name":            {":x:", Record{}, "empty"},
		"bad name":           {"bob smith:x:", Record{}, "U+0020"},
		"space in the hash":  {"bob@x.test:a b:", Record{}, "hash has"},
		"long hash":          {"bob@x.test:" + strings.Repeat("x", 2000) + ":", Record{}, "longer"},
		"bad labels":         {`bob@x.test:x:a="b`, Record{}, "closing quote"},
		"bad homegen":        {`bob@x.test:x:homegen="new"`, Record{}, "homegen"},
		"bad quota":          {`bob@x.test:x:quota="lots"`, Record{}, "quota"},
		"control character":  {"bob@x.test:x\x01:", Record{}, "control"},
		"long line":          {"bob@x.test:x:a=" + strings.Repeat("y", 70000), Record{}, "longer"},
		"more than is kept":  {"bob@x.test:x:a=" + strings.Repeat("y", 40000), Record{}, "bytes"},
		"binary":             {"\x00\x01\x02", Record{}, "no colon"},
		"two labels, no gap": {`bob@x.test:x:a="b"c="d"`, Record{}, "behind its quote"},
	} {
		got, err := ParseRecord(c.in)
		if c.err != "" {
			var refused *RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: got error %v, want a refusal that says %q", name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRecordHidesHash(t *testing.T) {
	r := Record{Name: "bob@x.test", Hash: "{SSHA}secret"}
	for _, s := range []string{fmt.Sprint(r), fmt.Sprintf("%+v", r), fmt.Sprintf("%#v", r)} {
		if strings.Contains(s, "secret") {
			t.Errorf("printed %s", s)
		}
	}
}

func TestReadRecords(t *testing.T) {
	records, err := ReadRecords(strings.NewReader("anna@x.test:h:a=\"1\"\r\n\nBob@x.test:h2:\nlast@x.test:h3:"))
	want := []Record{
		{"anna@x.test", "h", map[string]string{"a": "1"}},
		{"bob@x.test", "h2", map[string]string{}},
		{"last@x.test", "h3", map[string]string{}},
	}
	if diff := cmp.Diff(want, records); err != nil || diff != "" {
		t.Errorf("got %v (-want +got):\n%s", err, diff)
	}
	in := "anna@x.test:h:\nno record\n\n" + strings.Repeat("x", 100000) + "\nANNA@x.test:h:\nbob@x.test:h:\n"
	records, err = ReadRecords(strings.NewReader(in))
	if records != nil || err == nil {
		t.Fatalf("got %v, %v, want an error", records, err)
	}
	for _, want := range []string{"line 2: there is no colon", "line 4: the line is longer", "line 5: anna@x.test is there twice, first in line 1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
	_, err = ReadRecords(strings.NewReader(strings.Repeat("bad\n", 1000)))
	if err == nil || !strings.Contains(err.Error(), "and 980 more bad lines") || len(err.Error()) > 3000 {
		t.Errorf("a thousand bad lines: got %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(`marijn@mydomain.com:{ssha}tVANQo:created="1060034937" mailaccess="free_user"`)
	f.Add(`:gone@x.test:homegen="7"`)
	f.Add("bob@x.test:x")
	f.Fuzz(func(t *testing.T, in string) {
		if strings.ContainsAny(in, "\n") {
			return
		}
		name, st, err := parseLine(in)
		if err != nil {
			return
		}
		written := st.appendLine(nil, name)
		if bytes.ContainsAny(written, "\n\r\x00") {
			t.Fatalf("%q became %q", in, written)
		}
		name2, st2, err := parseLine(string(written))
		if err != nil || name2 != name || !cmp.Equal(st, st2, cmp.AllowUnexported(state{})) {
			t.Fatalf("%q became %q, then %v, %v", in, written, st2, err)
		}
		if st.live() {
			want, err := ParseRecord(in)
			if err != nil {
				t.Fatalf("%q is a line and no record: %v", in, err)
			}
			l := newTable(0)
			l.put(name, st)
			if got, found := l.get(name); !found || !cmp.Equal(got, want) {
				t.Fatalf("%q in the table: %+v, want %+v", in, got, want)
			}
		}
	})
}

// FuzzOpen gives files with any content to Open: it fails, or opens a database
// that reads the same once more.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("anna@x.test:h:\n"), []byte("anna@x.test:h2:\n:anna@x.test:homegen=\"3\"\ntorn"))
	f.Add([]byte(""), []byte("\n\n"))
	f.Fuzz(func(t *testing.T, base, log []byte) {
		dir := t.TempDir()
		write := func(file string, content []byte) {
			if err := os.WriteFile(dir+"/"+file, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(baseFile, base)
		write(logFile, log)
		db, err := Open(dir, Options{})
		if err != nil {
			return
		}
		first := contents(t, db)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db, err = Open(dir, Options{})
		if err != nil {
			t.Fatalf("opened once, then: %v", err)
		}
		defer db.Close()
		if diff := cmp.Diff(first, contents(t, db)); diff != "" {
			t.Fatal(diff)
		}
	})
}
