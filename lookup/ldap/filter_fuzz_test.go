package ldap

import (
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"switchyard/lookup/lookuptest"
)

// FuzzFilter: a template is refused, or no name changes what it asks: the shape
// stays, and the values are the name as it is.
func FuzzFilter(f *testing.F) {
	for _, name := range lookuptest.HostileNames() {
		if len(name) < 1000 {
			f.Add(DefaultFilter, name)
		}
	}
	f.Add("(|(mail={name})(mail=smtp:{name}))", "anna@example.test")
	f.Add("(!(a={name}))", ")")
	f.Add("(a=*{name}*)", "*")
	f.Add("(a:dn:2.4.6.8:={name})", ":=")
	f.Add("(a>={name})", "\\")
	f.Add("({name}=a)", "b)(c")
	f.Add(`(a=\{name})`, "41")
	f.Add(`(a=\5{name})`, "c")
	f.Add("{name}", "(a=b)")
	f.Add("((:{name}))", "(") // was taken for a filter, with the name in its escaped form
	f.Fuzz(func(t *testing.T, template, name string) {
		parsed, err := parseFilter(template)
		if err != nil {
			if parsed != nil {
				t.Fatal("a filter beside an error")
			}
			return
		}
		plain, err := ldap.CompileFilter(parsed.of("x"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ldap.CompileFilter(parsed.of(name))
		if err != nil {
			t.Fatalf("%q with the name %q: %v", template, name, err)
		}
		if name == "" {
			return // never looked up; an empty substring is not one
		}
		if !sameShape(plain, got) {
			t.Fatalf("%q with the name %q has another shape", template, name)
		}
		// Values are copied as they are, at each placeholder.
		if n := strings.Count(template, placeholder); n > 0 && strings.Count(values(got), name) < n-overlaps(template, name) {
			t.Fatalf("%q with the name %q asks for %q", template, name, values(got))
		}
	})
}

// overlaps is how many placeholders' names may hide in each other when they are
// counted: adjacent placeholders and text that repeats the name.
func overlaps(template, name string) int {
	if strings.Contains(template, placeholder+placeholder) {
		return strings.Count(template, placeholder) - 1
	}
	return 0
}

func TestFilter(t *testing.T) {
	parsed, err := parseFilter("(|(mail={name})(uid={name}))")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"anna@example.test": "(|(mail=anna@example.test)(uid=anna@example.test))",
		"*)(a=b":            `(|(mail=\2a\29\28a=b)(uid=\2a\29\28a=b))`,
		"{name}":            "(|(mail={name})(uid={name}))",
		"jörg\\\x00":        `(|(mail=j\c3\b6rg\5c\00)(uid=j\c3\b6rg\5c\00))`,
	} {
		if got := parsed.of(name); got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}
