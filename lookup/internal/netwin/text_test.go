package netwin

import (
	"strings"
	"testing"
)

// What is canonical is written again as it was.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{
		"", `a="b"`, `a="" b="c d"`, `b="1" a="2"`, `a="1" a="2"`, `a=1`, `A="1"`, `a="1"  b="2"`, `a="1" `, ` a="1"`, `a="1"b="2"`, `a="`, `="x"`, "a=\"\t\"", `ä="1"`, `a="ä"`,
		`tohost="b1" x=" tohost=b2"`, `homegen="7" tohost="b1"`,
	} {
		f.Add(s, "tohost")
	}
	f.Fuzz(func(t *testing.T, s, label string) {
		labels, err := ParseLabels(s)
		if err == nil {
			err = CheckLabels(labels)
		}
		if !Canonical(s) {
			if err == nil && s == string(AppendLabels(nil, labels)) && isASCII(s) {
				t.Fatalf("%q is canonical", s)
			}
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if again := string(AppendLabels(nil, labels)); again != s {
			t.Fatalf("%q is written as %q", s, again)
		}
		if got := Value(s, label); got != labels[label] {
			t.Fatalf("%q: %s is %q, want %q", s, label, got, labels[label])
		}
	})
}

func isASCII(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r >= 0x7f }) < 0 }

func TestMark(t *testing.T) {
	m := Mark{Position: 12, Sum: 0xabc}
	if got, err := ParseMark(m.String()); err != nil || got != m {
		t.Errorf("%s: got %v, %v", m, got, err)
	}
	for _, bad := range []string{"", "12", "-0000000000000000", "12-abc", "x-0000000000000abc", "12-000000000000zabc", "-1-0000000000000abc"} {
		if got, err := ParseMark(bad); err == nil {
			t.Errorf("%q: got %v", bad, got)
		}
	}
	a, b := m.Next("x"), m.Next("y")
	if a == b || a.Position != 13 || a.Next("y") == b.Next("x") || a.Next("yz") == a.Next("y").Next("z") {
		t.Error("different histories have one mark")
	}
}
