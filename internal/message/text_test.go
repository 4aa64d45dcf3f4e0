package message

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestDecodeHeader(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                                  "plain",
		"=?utf-8?q?Gr=C3=BC=C3=9Fe?= x":          "Grüße x",
		"=?utf-8?b?SsO8?=  =?utf-8?q?rgen?=":     "Jürgen",
		"=?iso-8859-15?q?=A4?=":                  "€",
		"=?koi8-r?b?8NLJ18XU?=":                  "Привет",
		"=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=":     "日本",
		"J\xfcrgen":                              "Jürgen",
		"Grüße":                                  "Grüße",
		"=?utf-8?q?broken":                       "=?utf-8?q?broken",
		"=?no-such-charset?q?abc?=":              "abc",
		"=?utf-8*de?q?x?=":                       "x",
		"=?utf-8?x?odd?= =?utf-8?q?=ZZ?= follow": "=?utf-8?x?odd?= =?utf-8?q?=ZZ?= follow",
	} {
		if got := DecodeHeader(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestNeedle(t *testing.T) {
	load := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	long := "\r\n" + strings.Repeat("x", 100000) + "needle in" + strings.Repeat(" hay", 50000)
	for name, c := range map[string]struct {
		text, needle string
		header, body bool
	}{
		"plain":               {load("../../testdata/messages/plain.eml"), "ALGEBRAIC pat", false, true},
		"quoted-printable":    {load("../../testdata/messages/alternative.eml"), "which is soft wrapped", false, true},
		"its umlauts":         {load("../../testdata/messages/alternative.eml"), "GRÜSSE", false, false},
		"folded case":         {load("../../testdata/messages/alternative.eml"), "gRÜße", false, true},
		"decomposed":          {load("../../testdata/messages/alternative.eml"), "gru\u0308ße", false, true},
		"encoded header":      {load("../../testdata/messages/encoded-header.eml"), "grüße aus köln", true, true},
		"charset of the body": {load("../../testdata/messages/encoded-header.eml"), "KÖLN AM RHEIN", false, true},
		"raw UTF-8":           {load("../../testdata/messages/utf8-header.eml"), "日本語", true, true},
		"file name":           {load("../../testdata/messages/attachment.eml"), "picture.png", false, true},
		"inner header":        {load("../../testdata/messages/forwarded.eml"), "simple inside", false, true},
		"not in base64":       {load("../../testdata/messages/attachment.eml"), "AAAA", false, false},
		"folded header":       {load("../../testdata/messages/attachment.eml"), "picture attached, in", true, false},
		"across buffers":      {long, "xneedle in hay hay", false, true},
		"absent":              {long, "needles", false, false},
		"base64 text":         {"Content-Transfer-Encoding: base64\r\n\r\naGVs\r\n bG8=\r\ntrailing", "hello", false, true},
		"damaged base64":      {"Content-Transfer-Encoding: base64\r\n\r\naGVsbG8gd29ybGQ!!!a", "hello wor", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := parse(t, c.text)
			n := NewNeedle(c.needle)
			if got, err := n.InHeader(strings.NewReader(c.text), p, ""); err != nil || got != c.header {
				t.Errorf("header: got %v, %v", got, err)
			}
			if got, err := n.InBody(strings.NewReader(c.text), p); err != nil || got != c.body {
				t.Errorf("body: got %v, %v", got, err)
			}
		})
	}
}

type brokenDisk struct {
	io.ReaderAt
	from int64
}

var errDisk = errors.New("disk error")

func (b brokenDisk) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.from {
		return 0, errDisk
	}
	return b.ReaderAt.ReadAt(p, off)
}

// TestDiskErrors holds that a broken disk is never taken for the end of a
// text or a message.
func TestDiskErrors(t *testing.T) {
	body := strings.Repeat("QUJD\r\n", 50000)
	for _, encoding := range []string{"7bit", "base64", "quoted-printable"} {
		text := "Content-Transfer-Encoding: " + encoding + "\r\n\r\n" + body
		p := parse(t, text)
		disk := brokenDisk{strings.NewReader(text), 200000}
		if _, err := NewNeedle("nowhere").InBody(disk, p); !errors.Is(err, errDisk) {
			t.Errorf("%s: got %v", encoding, err)
		}
	}
	disk := brokenDisk{strings.NewReader(body), 100}
	if _, err := Parse(disk, int64(len(body))); !errors.Is(err, errDisk) {
		t.Errorf("parse: got %v", err)
	}
}

func TestReadFields(t *testing.T) {
	const text = "From: a\r\nX-Long: 1\r\n\t2\r\n  3\r\nno colon\r\nTO : b\r\nfrom: c\r\n\r\nbody: x\r\n"
	p := parse(t, text)
	for _, c := range []struct {
		names string
		not   bool
		want  string
	}{
		{"from", false, "From: a\r\nfrom: c\r\n\r\n"},
		{"FROM to", false, "From: a\r\nTO : b\r\nfrom: c\r\n\r\n"},
		{"x-long", false, "X-Long: 1\r\n\t2\r\n  3\r\n\r\n"},
		{"nothing", false, "\r\n"},
		{"from to", true, "X-Long: 1\r\n\t2\r\n  3\r\nno colon\r\n\r\n"},
	} {
		var got strings.Builder
		spans := 0
		err := ReadFields(strings.NewReader(text), p, strings.Fields(c.names), c.not, func(s Span) error {
			spans++
			got.WriteString(text[s.Start:s.End])
			return nil
		})
		if err != nil || got.String() != c.want {
			t.Errorf("%s, not %v: got %q, %v", c.names, c.not, got.String(), err)
		}
	}
	noBlank := parse(t, "From: a\r\n")
	err := ReadFields(strings.NewReader("From: a\r\n"), noBlank, []string{"to"}, false, func(Span) error { return errors.New("called") })
	if err != nil {
		t.Error(err)
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string][]Address{
		"":                     nil,
		"a@b":                  {{Mailbox: "a", Host: "b"}},
		"A. Name <a@b>":        {{Name: "A. Name", Mailbox: "a", Host: "b"}},
		`"Last, F" <a@b>, c@d`: {{Name: "Last, F", Mailbox: "a", Host: "b"}, {Mailbox: "c", Host: "d"}},
		"a . b @ c . d":        {{Mailbox: "a.b", Host: "c.d"}},
		"a@b (Joe (the) Doe)":  {{Name: "Joe (the) Doe", Mailbox: "a", Host: "b"}},
		"<@r,@s:a@b>":          {{Mailbox: "a", Host: "b"}},
		"g:;":                  {{Mailbox: "g", Group: true}, {Group: true}},
		"g: a@b, c@d":          {{Mailbox: "g", Group: true}, {Mailbox: "a", Host: "b"}, {Mailbox: "c", Host: "d"}, {Group: true}},
		`"a b"@c`:              {{Mailbox: "a b", Host: "c"}},
		"a@b@c":                {{Mailbox: "a@b", Host: "c"}},
		"nobody":               {{Mailbox: "nobody"}},
		"x <a@b> junk, c@d":    {{Name: "x", Mailbox: "a", Host: "b"}, {Mailbox: "c", Host: "d"}},
		"<a@b":                 {{Mailbox: "a", Host: "b"}},
		">>,a@b":               {{Mailbox: ">>"}, {Mailbox: "a", Host: "b"}},
	} {
		if got := ParseAddresses(in); !slices.Equal(got, want) {
			t.Errorf("%q: got %+v, want %+v", in, got, want)
		}
	}
}

func FuzzAddresses(f *testing.F) {
	f.Add("a: <@b:c@d>, (x) \"y\"; z")
	f.Fuzz(func(t *testing.T, v string) {
		open := false
		for _, a := range ParseAddresses(v) {
			if a.Group {
				if open == (a.Mailbox != "") {
					t.Fatalf("groups out of order in %q", v)
				}
				open = !open
			}
		}
		if open {
			t.Fatalf("a group of %q does not end", v)
		}
	})
}

func FuzzSearch(f *testing.F) {
	f.Add("Content-Type: text/plain; charset=koi8-r\r\nContent-Transfer-Encoding: base64\r\n\r\n8NLJ18XU", "x")
	f.Fuzz(func(t *testing.T, text, needle string) {
		p := parse(t, text)
		n := NewNeedle(needle)
		if _, err := n.InBody(strings.NewReader(text), p); err != nil {
			t.Fatal(err)
		}
		if _, err := n.InHeader(strings.NewReader(text), p, ""); err != nil {
			t.Fatal(err)
		}
	})
}
