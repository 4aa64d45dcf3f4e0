package message

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestParseDate(t *testing.T) {
	for field, want := range map[string]string{ // the moment, and the day as written
		"Mon, 02 Mar 2026 09:15:00 +0100":        "2026-03-02T08:15:00Z 2",
		"31 Dec 2000 16:01:33 -0800":             "2001-01-01T00:01:33Z 31",
		"2 Mar 2026 09:15 GMT":                   "2026-03-02T09:15:00Z 2",
		"Mon,  2-Mar-2026 9:15:07 EST":           "2026-03-02T14:15:07Z 2",
		"Monday, 02-Mar-26 09:15:00 UT":          "2026-03-02T09:15:00Z 2",
		"Fri, 21 Nov 97 09:55:06 -0600":          "1997-11-21T15:55:06Z 21",
		"Fri, 21 Nov 101 09:55:06 Z":             "2001-11-21T09:55:06Z 21",
		"Tue, 3 Mar 2026 10:00:00 +0100 (CET)":   "2026-03-03T09:00:00Z 3",
		"(a) Tue (b), 3 (c) March 2026 10:00:00": "2026-03-03T10:00:00Z 3",
		"Tue Mar  3 10:00:00 2026":               "2026-03-03T10:00:00Z 3",
		"3 Mar 2026":                             "2026-03-03T00:00:00Z 3",
		"3 Mar 2026 25:00:00 +0100":              "2026-03-03T00:00:00Z 3",
		"3 Mar 2026 10:00:00 XYZ":                "2026-03-03T10:00:00Z 3",
		"3 Mar 2026 10:00:00 +9999":              "2026-03-03T10:00:00Z 3",
		"3 Mar 2026 23:59:60 +0000":              "2026-03-04T00:00:00Z 3",
		"":                                       "",
		"yesterday":                              "",
		"32 Mar 2026 10:00:00 +0000":             "",
		"31 Feb 2026 10:00:00 +0000":             "",
		"3 M 2026":                               "",
		"3 Mar 99999":                            "",
		"Mon, Tue, 3 Mar 2026 10:00:00 +0000":    "",
		"Tue, 3 Mar 0000 10:00:00":               "",
	} {
		d, ok := ParseDate(field)
		got := ""
		if ok {
			got = d.Moment.Format(time.RFC3339) + " " + d.Day.Format("2")
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", field, got, want)
		}
	}
}

func FuzzParseDate(f *testing.F) {
	f.Add("Mon, 02 Mar 2026 09:15:00 +0100 (x)")
	f.Add("Mon Mar  2 09:15:00 2026")
	f.Fuzz(func(t *testing.T, field string) {
		d, ok := ParseDate(field)
		if !ok {
			return
		}
		if off := d.Moment.Sub(d.Day); off < -100*time.Hour || off > 130*time.Hour || d.Day.Hour() != 0 || d.Moment.Location() != time.UTC {
			t.Fatalf("%q: %v %v", field, d.Moment, d.Day)
		}
		again, ok := ParseDate(d.Moment.Format("2 Jan 2006 15:04:05 -0700"))
		if ok && !again.Moment.Equal(d.Moment) {
			t.Fatalf("%q: %v came back as %v", field, d.Moment, again.Moment)
		}
	})
}

func TestBaseSubject(t *testing.T) {
	for field, want := range map[string]string{
		"hello":                               "hello",
		"Re: hello":                           "hello +",
		"RE : re: Fw: FWD:  hello":            "hello +",
		"Re[2]: hello":                        "hello +",
		"re [list]: hello":                    "hello +",
		"[list] Re: [list] hello":             "hello +",
		"[list] hello":                        "hello",
		"[a] [b]":                             "[b]",
		"[a]":                                 "[a]",
		"Re: [a]":                             "[a] +",
		"hello (fwd)":                         "hello +",
		"hello (FWD)  (fwd) ":                 "hello +",
		"[fwd: hello]":                        "hello +",
		"[Fwd: Re: [fwd: hello (fwd)] (fwd)]": "hello +",
		"[fwd: hello":                         "[fwd: hello",
		"hello\t  big   world":                "hello big world",
		"=?utf-8?q?Re=3A_gr=C3=BC=C3=9Fe?=":   "grüße +",
		"Re:":                                 " +",
		"":                                    "",
		"reply: no":                           "reply: no",
		"Re hello":                            "Re hello",
		"[unclosed Re: x":                     "[unclosed Re: x",
		"[[x]] Re: y":                         "[[x]] Re: y",
	} {
		base, reply := BaseSubject(field)
		if reply {
			base += " +"
		}
		if base != want {
			t.Errorf("%q: got %q, want %q", field, base, want)
		}
	}
}

// FuzzBaseSubject holds that a base subject is its own base subject, and no
// reply.
func FuzzBaseSubject(f *testing.F) {
	f.Add("[a] Re: [fwd: [b] x (fwd)]")
	f.Add(strings.Repeat("[a]", 50) + "Re:")
	f.Fuzz(func(t *testing.T, field string) {
		base, _ := BaseSubject(field)
		if strings.Contains(base, "=?") || !utf8.ValidString(base) {
			return
		}
		if again, reply := BaseSubject(base); again != base || reply {
			t.Fatalf("%q: %q, and then %q %v", field, base, again, reply)
		}
	})
}

func TestMessageIDs(t *testing.T) {
	for field, want := range map[string][]string{
		"<a@b>":                          {"a@b"},
		" <a@b>\r\n <c@d><e@f> ":         {"a@b", "c@d", "e@f"},
		`<"a"@b>`:                        {"a@b"},
		`<"a\"c>"@b>`:                    {`a"c>@b`},
		"Your message of Monday <a@b> x": {"a@b"},
		"<no-at> <a@b>":                  {"a@b"},
		"<unclosed <a@b>":                {"a@b"},
		"<@b> <a@> <a@b":                 nil,
		"a@b":                            nil,
		"<a @ b>":                        {"a@b"},
		"":                               nil,
	} {
		if got := slices.Collect(MessageIDs(field)); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", field, got, want)
		}
	}
}

func FuzzMessageIDs(f *testing.F) {
	f.Add(`x <"a\"b"@c> <<d@e>`)
	f.Fuzz(func(t *testing.T, field string) {
		for id := range MessageIDs(field) {
			if strings.IndexByte(id, '@') < 0 || len(id) > len(field) {
				t.Fatalf("%q: %q", field, id)
			}
		}
	})
}

func TestPreview(t *testing.T) {
	alternative := "Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\n%s\r\n--b\r\nContent-Type: text/html; charset=utf-8\r\n" +
		"Content-Transfer-Encoding: quoted-printable\r\n\r\n<html><head><title>no</title><style>p { x }</style></head><!-- > no --><p>A <b>gr=C3=BC</b>=C3=9Fe&nbsp;&amp; <script>if (a<b) x()</script>1 < 2</p></html>\r\n--b--"
	for name, c := range map[string]struct{ text, want string }{
		"plain":      {"Subject: x\r\n\r\nHello,\r\n\r\n  big\tworld\r\n", "Hello, big world"},
		"quotes":     {"\r\n> old words\r\nnew words\r\n-- \r\nme\r\n", "new words"},
		"first":      {strings.Replace(alternative, "%s", "plain words", 1), "plain words"},
		"html":       {strings.Replace(alternative, "%s", " ", 1), "A grüße & 1 < 2"},
		"attachment": {"Content-Disposition: attachment\r\n\r\nsecret", ""},
		"image":      {"Content-Type: image/png\r\n\r\nPNG", ""},
		"charset":    {"Content-Type: text/plain; charset=iso-8859-1\r\n\r\ngr\xfc\xdfe", "grüße"},
		"not utf-8":  {"Content-Type: text/plain; charset=utf-8\r\n\r\na\xffb", "a\uFFFDb"},
		"long":       {"\r\n" + strings.Repeat("ü ", 500), strings.TrimSpace(strings.Repeat("ü ", 100))},
		"nothing":    {"Subject: x\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Preview(strings.NewReader(c.text), parse(t, c.text))
			if err != nil || got != c.want {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func FuzzPreview(f *testing.F) {
	f.Add("Content-Type: text/html\r\n\r\n<p>a<!-- b --><style>c</style>&lt;</p>")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Preview(strings.NewReader(text), parse(t, text))
		if err != nil || !utf8.ValidString(got) || utf8.RuneCountInString(got) > previewLen || strings.ContainsAny(got, "\r\n\x00") {
			t.Fatalf("%q, %v", got, err)
		}
	})
}
