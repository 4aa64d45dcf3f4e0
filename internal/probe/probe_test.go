package probe

import (
	"strings"
	"testing"
)

// TestParse: what a node says is what a proxy hears, and a refusal that is no
// answer is none.
func TestParse(t *testing.T) {
	for text, want := range map[string]*Answer{
		"[X-PROBE READY] serves":                 {Ready, "serves"},
		"[x-probe ready]":                        {Ready, ""},
		"[X-PROBE DRAIN] moves house":            {Drain, "moves house"},
		"[X-PROBE DRAIN 60] moves house":         {Drain, "moves house"},
		"[X-PROBE NOT-READY] is behind its peer": {NotReady, "is behind its peer"},
		"[X-PROBE SLEEPY] zzz":                   {NotReady, "zzz"},
		"[X-PROBE ] ?":                           {NotReady, "?"},
		"[X-PROBE READY":                         nil,
		"[X-PROBED READY]":                       nil,
		"X-PROBE READY":                          nil,
		"[X-PROBE]":                              nil,
		"[AUTH] wrong name or password":          nil,
		"":                                       nil,
	} {
		got, ok := Parse(text)
		if ok != (want != nil) || ok && got != *want {
			t.Errorf("%q: got %+v, %v, want %+v", text, got, ok, want)
		}
	}
	if got := (Answer{Ready, "a\r\nb"}).String(); got != "[X-PROBE READY] ab" {
		t.Errorf("got %q", got)
	}
	if got := (Answer{"", "x"}).Code(); got != "X-PROBE NOT-READY" {
		t.Errorf("got %q", got)
	}
}

// FuzzParse: any text is read, and what was read is said again alike.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"[X-PROBE READY] serves", "[x-probe drain 1] a\x00b", "[X-PROBE ", "[X-PROBE ] \xff", strings.Repeat("[X-PROBE", 99)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, ok := Parse(text)
		if !ok {
			return
		}
		if strings.ContainsAny(a.Text, "\r\n\x00") || len(a.Text) > maxText {
			t.Fatalf("%q: got %q", text, a.Text)
		}
		again, ok := Parse(a.String())
		if !ok || again.Word != a.Word || again.Text != strings.TrimSpace(a.Text) {
			t.Fatalf("%q: %+v, then %+v", text, a, again)
		}
	})
}
