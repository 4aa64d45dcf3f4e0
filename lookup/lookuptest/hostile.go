package lookuptest

import (
	"iter"
	"math/rand/v2"
	"strings"
	"testing"

	"switchyard/lookup"
)

// pieces returns what hostile names are made of.
func pieces() []string {
	out := []string{
		"*", ")(", "(", ")", "(|(", "(&(", "=", "~=", ">=", ":=", ":dn:=", `\`, `\2a`, `\00`, "\x00", "\n", "\r\n", "\t", " ", `"`, "'",
		"`", ";", ",", "+", "#", "<", ">", "|", "&", "!", "@", "%", "%s", "%n", "${x}", "{name}", "{{.}}", "-max", "(NULL)",
		"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf8\x88\x80\x80\x80", "\u00ad", "\u200b", "\u200d", "\u202e", "\ufeff", "\u0130", "\u212a",
		"\u017f", "ﬁ", "ａ", "＊", "（", "）", "\u0301", "\u0000", "\u0085", "\u2028", "\U000e0041", "uid", "objectClass", "userPassword", "1",
	}
	for _, r := range Accounts() {
		out = append(out, r.Name, r.Password)
	}
	return out
}

// ManyHostileNames yields n names, the same in each run: random compositions of
// what could leave its place in a line, a filter or a statement, now and then
// of a megabyte. None is an account's.
func ManyHostileNames(n int) iter.Seq[string] {
	return func(yield func(string) bool) {
		r := rand.New(rand.NewPCG(3, 4))
		parts := pieces()
		accounts := make(map[string]bool)
		for _, a := range Accounts() {
			accounts[a.Name] = true
		}
		for i := 0; i < n; {
			var b strings.Builder
			for range 1 + r.IntN(8) {
				b.WriteString(parts[r.IntN(len(parts))])
			}
			name := b.String()
			if i%2000 == 1999 {
				name = strings.Repeat(name, 1<<20/len(name)+1)
			}
			if accounts[name] {
				continue
			}
			i++
			if !yield(name) {
				return
			}
		}
	}
}

// RunHostile asks for 10,000 hostile names (1,000 with -short), which must all
// be absent, and now and then for an account, which must be found as it is.
func RunHostile(t *testing.T, open func(t *testing.T) lookup.Directory) {
	t.Helper()
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	d := open(t)
	i := 0
	for name := range ManyHostileNames(n) {
		if got, err := d.Lookup(t.Context(), name); lookup.AnswerOf(err) != lookup.AnswerAbsent {
			t.Fatalf("lookup of %.200q: got %s, %v, want absent", name, got.Name, err)
		}
		if i++; i%100 == 0 {
			c := lookup.Credentials{Name: name, Password: "sesame-1"}
			if _, err := d.Check(t.Context(), c); lookup.AnswerOf(err) != lookup.AnswerRejected {
				t.Fatalf("check of %.200q: got %v, want rejected", name, err)
			}
			if !stillRight(t, d, "name", name[:min(len(name), 200)]) {
				return
			}
		}
	}
}
