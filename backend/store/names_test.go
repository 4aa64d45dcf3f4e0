package store

import (
	"strings"
	"testing"
)

func TestCanonicalFlags(t *testing.T) {
	got, err := canonicalFlags([]string{"b", `\dRAFT`, "a", "B", `\Draft`})
	if err != nil || strings.Join(got, " ") != `\Draft a b` {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzNames: a name that is accepted is accepted as it comes out, unchanged.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"INBOX", "inbox/a", "a/b", "ü", "a//b", "\xff", "iNBOX "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := canonicalName(s)
		if err != nil {
			return
		}
		if again, err := canonicalName(name); err != nil || again != name || len(name) != len(s) {
			t.Fatalf("%q became %q, then %q, %v", s, name, again, err)
		}
		for _, p := range parents(name) {
			if _, err := canonicalName(p); err != nil || !below(name, p) {
				t.Fatalf("%q has the parent %q: %v", name, p, err)
			}
		}
	})
}
