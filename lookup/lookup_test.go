package lookup

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestAnswerOf(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want Answer
	}{
		"nil":                       {nil, AnswerFound},
		"absent":                    {fmt.Errorf("ldap: %w", ErrAbsent), AnswerAbsent},
		"rejected":                  {ErrRejected, AnswerRejected},
		"unavailable":               {Unavailable("dial", errors.New("refused")), AnswerUnavailable},
		"unavailable beats absent":  {Unavailable("search", ErrAbsent), AnswerUnavailable},
		"unknown means unavailable": {errors.New("a bug"), AnswerUnavailable},
		"bad name means absent":     {&NameError{}, AnswerAbsent},
	} {
		if got := AnswerOf(c.err); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestCleanName(t *testing.T) {
	for _, c := range []struct{ typed, domain, want, reason string }{
		{"Anna@Example.TEST", "", "anna@example.test", ""},
		{"anna", "example.test", "anna@example.test", ""},
		{"anna", "", "anna", ""},
		{"jörg@example.test", "", "jörg@example.test", ""},
		{"", "example.test", "", "empty"},
		{"@example.test", "", "", "empty"},
		{"anna@", "", "", "empty domain"},
		{"a@b@c", "", "", "more than one @"},
		{"an na@b", "", "", "U+0020"},
		{"an\x00na@b", "", "", "U+0000"},
		{"an\r\nna@b", "", "", "U+000D"},
		{`"anna"@b`, "", "", "U+0022"},
		{"\xff@b", "", "", "not UTF-8"},
		{strings.Repeat("a", 321), "", "", "longer"},
		{strings.Repeat("a", 319), "b.c", "", "longer"},
	} {
		got, err := CleanName(c.typed, c.domain)
		if got != c.want {
			t.Errorf("CleanName(%q, %q): got %q, want %q", c.typed, c.domain, got, c.want)
		}
		if c.reason == "" && err != nil {
			t.Errorf("CleanName(%q): %v", c.typed, err)
		}
		if c.reason != "" && (!errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), c.reason)) {
			t.Errorf("CleanName(%q): got error %v, want an absent one that says %q", c.typed, err, c.reason)
		}
	}
}

func TestStatus(t *testing.T) {
	for s, want := range map[Status][2]bool{
		"": {true, true}, StatusOK: {true, true}, StatusGood: {true, true}, StatusPayDue: {true, true},
		StatusPayUp: {false, true}, StatusSuspended: {false, true}, "typo": {false, true},
		StatusBanned: {false, false}, StatusCancelled: {false, false}, StatusClosed: {false, false},
	} {
		if got := [2]bool{s.MayLogin(), s.MayReceive()}; got != want {
			t.Errorf("%q: login, receive: got %v, want %v", s, got, want)
		}
	}
}

func TestCredentialsHidePassword(t *testing.T) {
	c := Credentials{Name: "anna@example.test", Password: "sesame"}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c)} {
		if strings.Contains(s, "sesame") {
			t.Errorf("printed %s", s)
		}
	}
}

func FuzzCleanName(f *testing.F) {
	f.Add("Anna", "example.test")
	f.Add("a@b", "")
	f.Fuzz(func(t *testing.T, typed, domain string) {
		name, err := CleanName(typed, domain)
		if err != nil {
			if name != "" || !errors.Is(err, ErrAbsent) {
				t.Fatalf("got %q, %v", name, err)
			}
			return
		}
		if domain == "" {
			again, err := CleanName(name, "")
			if err != nil || again != name {
				t.Fatalf("not a fixed point: %q, then %q, %v", name, again, err)
			}
		}
	})
}
