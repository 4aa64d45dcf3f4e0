package netwin

import (
	"errors"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/lookup"
)

func TestParseLabels(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want map[string]string
		err  string
	}{
		"empty":            {"", map[string]string{}, ""},
		"two":              {`quota="200" fwd="fred@test.com"`, map[string]string{"quota": "200", "fwd": "fred@test.com"}, ""},
		"unquoted":         {`tohost=b1.test quota="2"`, map[string]string{"tohost": "b1.test", "quota": "2"}, ""},
		"empty values":     {`a="" b= c=x`, map[string]string{"a": "", "b": "", "c": "x"}, ""},
		"spaces in values": {`  a=" x  y "   b="z" `, map[string]string{"a": " x  y ", "b": "z"}, ""},
		"upper case label": {`ToHost="B1"`, map[string]string{"tohost": "B1"}, ""},
		"= in a value":     {`a="b=c" d=e=f`, map[string]string{"a": "b=c", "d": "e=f"}, ""},
		"no value":         {`word`, nil, `not label="value"`},
		"twice":            {`tohost="b1" tohost="b2"`, nil, "twice"},
		"twice, by case":   {`tohost="b1" TOHOST="b2"`, nil, "twice"},
		"open quote":       {`a="b`, nil, "no closing quote"},
		"behind the quote": {`a="b"c="d"`, nil, "goes on behind its quote"},
		"quote inside":     {`a=b"c`, nil, "quote inside"},
		"no label":         {`="b"`, nil, "empty"},
		"space in a label": {`a b="c"`, nil, "space"},
		"control":          {"a=\"b\x01\"", nil, "control"},
		"too many":         {strings.Repeat("a", 0) + manyLabels(MaxLabels+1), nil, "more than"},
	} {
		got, err := ParseLabels(c.in)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		wantRefused(t, name, err, c.err)
	}
}

func manyLabels(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("l" + strings.Repeat("x", i%60) + string(rune('a'+i/60)) + `="v" `)
	}
	return b.String()
}

func wantRefused(t *testing.T, name string, err error, reason string) {
	t.Helper()
	if reason == "" {
		if err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
		}
		return
	}
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, reason) {
		t.Errorf("%s: got error %v, want a refusal that says %q", name, err, reason)
	}
}

func TestCheckLabels(t *testing.T) {
	for name, c := range map[string]struct {
		label, value, err string
	}{
		"plain":            {"full_name", "Anna, of: Örtchen = 5", ""},
		"quote":            {"a", `x"y`, "quote"},
		"newline":          {"a", "x\ny", "control"},
		"NUL":              {"a", "\x00", "control"},
		"delete":           {"a", "\x7f", "control"},
		"quote in label":   {`a"`, "x", "label"},
		"space in label":   {"a b", "x", "label"},
		"equals in label":  {"a=b", "x", "label"},
		"newline in label": {"a\n", "x", "label"},
		"upper case":       {"A", "x", "lower case"},
		"long label":       {strings.Repeat("a", 65), "x", "longer"},
		"long value":       {"a", strings.Repeat("x", MaxRecord), "bytes"},
	} {
		wantRefused(t, name, CheckLabels(map[string]string{c.label: c.value}), c.err)
	}
}

func TestParseQuota(t *testing.T) {
	for in, want := range map[string]int64{
		"": 0, "0": 0, "200": 200, "1k": 1024, "200M": 200 << 20, "5G": 5 << 30, "1T": 1 << 40,
		"9223372036854775807": math.MaxInt64,
	} {
		if got, err := ParseQuota(in); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"-1", "+1", "1.5G", "G", "lots", " 1", "9223372036854775808", "9007199254740992K"} {
		if got, err := ParseQuota(in); err == nil {
			t.Errorf("%q: got %d, want an error", in, got)
		}
	}
}

func TestAccountAndLabels(t *testing.T) {
	labels := map[string]string{
		"tohost": "b1", "homegen": "7", "mailstatus": "PayDue", "quota": "5G", "fwd": "a@x.test, b@x.test,", "note": "hello",
	}
	a, err := Account("anna@example.test", labels)
	if err != nil {
		t.Fatal(err)
	}
	want := lookup.Account{
		Name: "anna@example.test", Home: "b1", Generation: 7, Status: "paydue", Quota: 5 << 30,
		Forwards: []string{"a@x.test", "b@x.test"}, Attributes: labels,
	}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Errorf("account (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(labels, Labels(a)); diff != "" {
		t.Errorf("labels of an unchanged account (-want +got):\n%s", diff)
	}
	a.Home, a.Generation, a.Quota, a.Forwards, a.Status = "b2", 8, 9, []string{"c@x.test"}, "ok"
	got := Labels(a)
	wantLabels := map[string]string{"tohost": "b2", "homegen": "8", "mailstatus": "ok", "quota": "9", "fwd": "c@x.test", "note": "hello"}
	if diff := cmp.Diff(wantLabels, got); diff != "" {
		t.Errorf("labels of a changed account (-want +got):\n%s", diff)
	}
	if labels["tohost"] != "b1" {
		t.Error("Labels wrote to the account's own map")
	}
	if got := Labels(lookup.Account{Name: "x@y"}); len(got) != 0 {
		t.Errorf("labels of a bare account: got %v, want none", got)
	}
	if _, err := Account("x@y", map[string]string{"homegen": "-1"}); err == nil {
		t.Error("homegen -1: got no error")
	}
	if a, err := Account("x@y", map[string]string{"quota": "lots"}); err != nil || a.Quota != 0 || a.Attributes["quota"] != "lots" {
		t.Errorf("quota lots: got %+v, %v", a, err)
	}
}

func FuzzLabels(f *testing.F) {
	f.Add(`quota="200" fwd="fred@test.com"`)
	f.Add(`tohost=b1 a="" B=x`)
	f.Fuzz(func(t *testing.T, in string) {
		labels, err := ParseLabels(in)
		if err != nil {
			return
		}
		if err := CheckLabels(labels); err != nil {
			if strings.Contains(err.Error(), "bytes") {
				return
			}
			t.Fatalf("%q was read and cannot be written: %v", in, err)
		}
		written := string(AppendLabels(nil, labels))
		again, err := ParseLabels(written)
		if err != nil || !maps.Equal(labels, again) {
			t.Fatalf("%q became %q, then %v, %v", in, written, again, err)
		}
	})
}
