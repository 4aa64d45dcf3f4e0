package smtpd

import (
	"strings"
	"testing"
	"unicode"
)

func TestPath(t *testing.T) {
	tests := []struct {
		in   string
		path Path
		out  string // String; "!" stands for an error
		rest string
	}{
		{"<>", Path{}, "", ""},
		{"<> SIZE=1", Path{}, "", " SIZE=1"},
		{"<a@x.test>", Path{"a", "x.test"}, "a@x.test", ""},
		{"<a.b+c@x.test>x", Path{"a.b+c", "x.test"}, "a.b+c@x.test", "x"},
		{"<postmaster>", Path{"postmaster", ""}, "postmaster", ""},
		{`<"a b"@x.test>`, Path{"a b", "x.test"}, `"a b"@x.test`, ""},
		{`<"a@b"@c.test>`, Path{"a@b", "c.test"}, `"a@b"@c.test`, ""},
		{`<"ab"@x.test>`, Path{"ab", "x.test"}, "ab@x.test", ""},
		{`<"a\"\\\b>"@x.test>`, Path{`a"\b>`, "x.test"}, `"a\"\\b>"@x.test`, ""},
		{"<@one.test,@two.test:a@x.test>", Path{"a", "x.test"}, "a@x.test", ""},
		{"<a@[192.0.2.1]>", Path{"a", "[192.0.2.1]"}, "a@[192.0.2.1]", ""},
		{"<a@[IPv6:2001:db8::1]>", Path{"a", "[IPv6:2001:db8::1]"}, "a@[IPv6:2001:db8::1]", ""},
		{"<a@[x-tag:content]>", Path{"a", "[x-tag:content]"}, "a@[x-tag:content]", ""},
		{"<ü@ä.test>", Path{"ü", "ä.test"}, "ü@ä.test", ""},
		{"<a@under_score.test>", Path{"a", "under_score.test"}, "a@under_score.test", ""},
		{"a@x.test", Path{}, "!", ""},
		{"", Path{}, "!", ""},
		{"<", Path{}, "!", ""},
		{"<a@x.test", Path{}, "!", ""},
		{"<a@>", Path{}, "!", ""},
		{"<@x.test>", Path{}, "!", ""},
		{"<@x.test:>", Path{}, "!", ""},
		{"<.a@x.test>", Path{}, "!", ""},
		{"<a.@x.test>", Path{}, "!", ""},
		{"<a..b@x.test>", Path{}, "!", ""},
		{"<a b@x.test>", Path{}, "!", ""},
		{"<a@b@c.test>", Path{}, "!", ""},
		{`<""@x.test>`, Path{}, "!", ""},
		{`<"a@x.test>`, Path{}, "!", ""},
		{`<"a\`, Path{}, "!", ""},
		{`<"a"b@x.test>`, Path{}, "!", ""},
		{"<a@x..test>", Path{}, "!", ""},
		{"<a@-x.test>", Path{}, "!", ""},
		{"<a@x.test.>", Path{}, "!", ""},
		{"<a@[300.0.2.1]>", Path{}, "!", ""},
		{"<a@[IPv6:fe80::1%eth0]>", Path{}, "!", ""},
		{"<a@[]>", Path{}, "!", ""},
		{"<a@[192.0.2.1>", Path{}, "!", ""},
		{"<a\xff@x.test>", Path{}, "!", ""},
		{"<a@" + strings.Repeat("x", 64) + ".test>", Path{}, "!", ""},
		{"<a@" + strings.Repeat("x.", 130) + "test>", Path{}, "!", ""},
		{"<" + strings.Repeat("a", 257) + "@x.test>", Path{}, "!", ""},
	}
	for _, test := range tests {
		p, rest, err := parsePath(test.in)
		out := p.String()
		if err != nil {
			out = "!"
		}
		if p != test.path || out != test.out || rest != test.rest {
			t.Errorf("%q: got %+v, %q, rest %q, %v", test.in, p, out, rest, err)
		}
	}
}

// A path that is accepted has no character that could end it early, and reads
// back as itself.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"<>", "<a@x.test>", `<"a\"b"@x.test>`, "<@a,@b:c@d>", "<a@[IPv6:::1]>", "<ü@ä>", "<postmaster> X=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		p, rest, err := parsePath(in)
		if err != nil {
			if p != (Path{}) || rest != "" {
				t.Fatalf("%q: an error, and %+v", in, p)
			}
			return
		}
		if !strings.HasSuffix(in, rest) {
			t.Fatalf("%q: rest %q", in, rest)
		}
		out := p.String()
		if strings.ContainsFunc(out, unicode.IsControl) && !strings.ContainsFunc(in, unicode.IsControl) {
			t.Fatalf("%q: control characters in %q", in, out)
		}
		again, rest, err := parsePath("<" + out + ">")
		if err != nil || rest != "" || again != p {
			t.Fatalf("%q: %+v reads back from %q as %+v, %q, %v", in, p, out, again, rest, err)
		}
	})
}

func FuzzParams(f *testing.F) {
	for _, s := range []string{" SIZE=1 BODY=8BITMIME", " SMTPUTF8 RET=FULL ENVID=a+2B", " NOTIFY=NEVER ORCPT=rfc822;a+40b", " XTRACELEN=9 AUTH=<>", " XRCPTFORWARD=aG9tZS1nZW5lcmF0aW9uPTc="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		all := offers{auth: true, private: true}
		if p, err := parseMail(in, all); err == nil {
			for _, s := range []string{p.EnvID, p.Auth, p.Body, p.Ret} {
				if strings.ContainsFunc(s, notASCIIText) {
					t.Fatalf("%q: %+v", in, p)
				}
			}
			if p.Size < 0 || p.Trace < 0 {
				t.Fatalf("%q: %+v", in, p)
			}
			if p.Trace > 0 || p.Auth != "" {
				if _, err := parseMail(in, offers{}); err == nil {
					t.Fatalf("%q: taken though not offered", in)
				}
			}
		}
		if p, err := parseRcpt(in, all); err == nil {
			for _, s := range []string{p.Notify, p.ORcptType, p.ORcpt} {
				if strings.ContainsFunc(s, notASCIIText) {
					t.Fatalf("%q: %+v", in, p)
				}
			}
		}
	})
}

func notASCIIText(r rune) bool { return r < ' ' || r > '~' }
