package sieve

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestVacation holds who is answered, and with what (RFC 5230).
func TestVacation(t *testing.T) {
	const plain = "From: a@b.example\nTo: Ann <ann@example.test>\nSubject: hello\n\nx\n"
	for _, c := range []struct {
		name, script, message, from, want string
	}{
		{"answered", `vacation "away";`, plain, "a@b.example", `vacation to a@b.example from "" subject "" "away" 168h0m0s; keep`},
		{"all tags", `vacation :days 3 :subject "gone" :from "Ann <x@example.test>" :handle "h" "away";`, plain, "a@b.example",
			`vacation to a@b.example from "Ann <x@example.test>" subject "gone" "away" 72h0m0s; keep`},
		{"no time at all", `vacation :days 0 "away";`, plain, "a@b.example", `vacation to a@b.example from "" subject "" "away" 1m0s; keep`},
		{"for ever", `vacation :days 9999999999 "away";`, plain, "a@b.example", `vacation to a@b.example from "" subject "" "away" 2160h0m0s; keep`},
		{"a bounce", `vacation "away";`, plain, "", "keep"},
		{"oneself", `vacation "away";`, plain, "Ann@example.test", "keep"},
		{"not named", `vacation "away";`, "To: list@b.example\n\nx\n", "a@b.example", "keep"},
		{"named by another address", `vacation :addresses ["me@b.example", "list@b.example"] "away";`, "Cc: LIST@b.example\n\nx\n", "a@b.example",
			`vacation to a@b.example from "" subject "" "away" 168h0m0s; keep`},
		{"a list", `vacation "away";`, "List-Id: x\n" + plain, "a@b.example", "keep"},
		{"a machine", `vacation "away";`, "Auto-Submitted: auto-replied\n" + plain, "a@b.example", "keep"},
		{"no machine", `vacation "away";`, "Auto-Submitted: no\n" + plain, "a@b.example", `vacation to a@b.example from "" subject "" "away" 168h0m0s; keep`},
		{"bulk", `vacation "away";`, "Precedence: bulk\n" + plain, "a@b.example", "keep"},
		{"the daemon", `vacation "away";`, plain, "MAILER-DAEMON@b.example", "keep"},
		{"an owner", `vacation "away";`, plain, "owner-x@b.example", "keep"},
		{"twice", `vacation "a"; vacation "b";`, plain, "a@b.example", `vacation to a@b.example from "" subject "" "a" 168h0m0s; keep; error: vacation is there twice`},
		{"and discarded", `vacation "a"; discard;`, plain, "a@b.example", `vacation to a@b.example from "" subject "" "a" 168h0m0s`},
		{"seconds", `vacation :seconds 90 "a";`, plain, "a@b.example", `vacation to a@b.example from "" subject "" "a" 1m30s; keep`},
	} {
		script, err := Compile(`require ["vacation","vacation-seconds"];` + c.script)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		m := mailOf(t, c.message)
		res := script.Run(m, Envelope{From: c.from, To: "ann@example.test"}, environment(), newWorld())
		if got := outcome(m, res); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}

// TestInclude holds what scripts in scripts share (RFC 6609).
func TestInclude(t *testing.T) {
	scripts := map[string]string{
		"spam":    `require ["fileinto","include"]; if header :contains "subject" "present" { fileinto "Spam"; return; } fileinto "never";`,
		"stopper": `stop;`,
		"vars":    `require ["include","variables"]; global "shared"; set "shared" "${shared}+"; set "own" "x";`,
		"loop":    `require "include"; include "loop2";`,
		"loop2":   `require "include"; include "loop";`,
		"broken":  `nonsense`,
		"count":   `require "imap4flags"; addflag "n";`,
		"fail":    `require "fileinto"; fileinto "before"; redirect "${x}";`,
	}
	for n := range 20 {
		scripts[fmt.Sprint("deep", n)] = fmt.Sprintf(`require "include"; include "deep%d";`, n+1)
	}
	m := mailOf(t, sample)
	for script, want := range map[string]string{
		`include "spam"; keep;`:       "fileinto Spam; keep",
		`include "stopper"; discard;`: "keep",
		`global "shared"; set "shared" "a"; include "vars"; include "vars"; fileinto "${shared}${own}${global.shared}";`: "fileinto a++a++",
		`include "loop";`:                                     `keep; error: script "loop" includes itself`,
		`include "missing";`:                                  `keep; error: there is no script "missing" to include`,
		`include :optional "missing"; discard;`:               "discard",
		`include "broken";`:                                   `keep; error: included script "broken": line 1, column 9: a semicolon is missing behind nonsense`,
		`include :once "count"; include :once "count"; keep;`: "keep (n)",
		`include "deep0";`:                                    "keep; error: scripts in scripts, more than 10 deep",
	} {
		s, err := Compile(`require ["include","variables","fileinto"];` + script)
		if err != nil {
			t.Errorf("%s: %v", script, err)
			continue
		}
		w := newWorld()
		w.scripts = scripts
		if got := outcome(m, s.Run(m, Envelope{From: "x@y.example", To: "ann@example.test"}, environment(), w)); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", script, got, want)
		}
	}
}

// TestBounds: a script that wants too much is stopped, and the message is kept.
func TestBounds(t *testing.T) {
	var redirects, variables, actions strings.Builder
	for n := range MaxRedirects + 1 {
		fmt.Fprintf(&redirects, "redirect \"a%d@b.example\";\n", n)
	}
	for n := range maxVariables + 1 {
		fmt.Fprintf(&variables, "set \"v%d\" \"x\";\n", n)
	}
	for n := range maxActions + 1 {
		fmt.Fprintf(&actions, "fileinto \"m%d\";\n", n)
	}
	m := mailOf(t, sample)
	for name, c := range map[string]struct{ script, want string }{
		"redirects": {redirects.String(), "keep; error: more than 4 redirects"},
		"variables": {`require "variables";` + variables.String(), "keep; error: more than 200 variables"},
		"actions":   {`require "fileinto";` + actions.String(), "keep; error: more than 64 actions"},
		"growth":    {`require ["variables","relational","comparator-i;ascii-numeric","fileinto"]; set "a" "xxxxxxxxxxxxxxxx";` + strings.Repeat(`set "a" "${a}${a}${a}${a}";`, 20) + `set :length "n" "${a}"; fileinto "${n}";`, "fileinto 16384"},
		"steps":     {strings.Repeat("if not not not not not not not not not not not not false { keep; }", 1000), "keep; error: the script does more than 5000 steps"},
		"regex":     {`require ["regex","variables"]; if header :matches "subject" "*" { set "a" "${1}(a*)*b"; } if string :regex "` + strings.Repeat("a", 60) + `" "${a}" { discard; }`, "keep"},
	} {
		s, err := Compile(c.script)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := outcome(m, s.Run(m, Envelope{From: "x@y.example", To: "ann@example.test"}, environment(), newWorld()))
		if got != c.want && !strings.HasSuffix(got, c.want) {
			t.Errorf("%s: got %.300s, want %s", name, got, c.want)
		}
	}
}

// TestWorldBroken: what cannot be asked ends the script, and the message is
// kept.
func TestWorldBroken(t *testing.T) {
	m := mailOf(t, sample)
	broken := errors.New("disk on fire")
	for _, script := range []string{
		`require "mailbox"; if mailboxexists "x" { } discard;`, `require "duplicate"; if duplicate { } discard;`,
		`require "include"; include "x"; discard;`, `require ["fileinto","mailboxid"]; fileinto :mailboxid "a" "x"; discard;`,
	} {
		s, err := Compile(script)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld()
		w.broken = broken
		res := s.Run(m, Envelope{}, environment(), w)
		if got := outcome(m, res); got != "keep; error: disk on fire" || !errors.Is(res.Err, broken) {
			t.Errorf("%s: %s", script, got)
		}
	}
}

// TestGlob holds :matches beside its captures.
func TestGlob(t *testing.T) {
	same := func(a, b rune) bool { return a == b }
	for _, c := range []struct{ value, pattern, want string }{
		{"", "", "|"}, {"", "*", "||"}, {"abc", "*", "|abc|abc"}, {"abc", "a?c", "|abc|b"}, {"aXbXc", "*X*", "|aXbXc|a|bXc"},
		{"aaa", "*a", "|aaa|aa"}, {"a*b", `a\*b`, "|a*b"}, {`a\b`, `a\\b`, `|a\b`}, {"grün", "gr?n", "|grün|ü"},
		{"abcabc", "*bc", "|abcabc|abca"}, {"abab", "a*b?", ""}, {"x", "", ""}, {"", "?", ""}, {"abc", "ab", ""}, {"ab", "a*b*c", ""},
	} {
		got := ""
		if found, ok := glob(c.value, c.pattern, same); ok {
			got = "|" + strings.Join(found, "|")
		}
		if got != c.want {
			t.Errorf("%q with %q: got %q, want %q", c.value, c.pattern, got, c.want)
		}
	}
}

// FuzzScript: any script that compiles ends, over a message with everything in
// it, and without a decision the message is kept.
func FuzzScript(f *testing.F) {
	for _, s := range []string{
		`require ["fileinto","variables","regex"]; if header :matches "subject" "*a*" { fileinto "${1}"; } else { keep; }`,
		`require ["vacation","body","date"]; if body :contains "x" { vacation :days 3 "x"; } if date "date" "hour" "1" { stop; }`,
		`require ["imap4flags","editheader","copy"]; addflag "\\Seen"; addheader "X" "${hex:41}"; redirect :copy "a@b.example";`,
		"require \"reject\"; reject text:\na\n.\n;", `if anyof(true, not false) { discard; } elsif size :over 1K {}`,
	} {
		f.Add(s)
	}
	m := mailOf(f, sample)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Compile(text)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 || e.Column < 1 {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		res := s.Run(m, Envelope{From: "a@b.example", To: "ann+x@example.test"}, environment(), newWorld())
		if res.Err != nil && res.Discarded() {
			t.Fatalf("lost: %v", res.Err)
		}
	})
}
