package message

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func parse(t testing.TB, text string) *Part {
	t.Helper()
	p, err := Parse(strings.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestGolden parses every test message and compares the whole description.
func TestGolden(t *testing.T) {
	var files []string
	for _, pattern := range []string{"testdata/*.eml", "../../testdata/messages/*.eml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 15 {
		t.Fatalf("found only %d messages", len(files))
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".eml")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := parse(t, string(text))
			checkShape(t, p, int64(len(text)))
			got, err := json.MarshalIndent(p, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimSpace(string(want)), string(got)); diff != "" {
				t.Errorf("description differs (-want +got):\n%s", diff)
			}
			checkCodec(t, p)
		})
	}
}

// checkShape holds what every description promises.
func checkShape(t testing.TB, root *Part, size int64) {
	t.Helper()
	if root.HeaderStart != 0 || root.End != size {
		t.Fatalf("the message spans %d to %d, want 0 to %d", root.HeaderStart, root.End, size)
	}
	var walk func(p *Part, lo, hi int64, depth int)
	count := 0
	walk = func(p *Part, lo, hi int64, depth int) {
		count++
		if p.HeaderStart < lo || p.BodyStart < p.HeaderStart || p.End < p.BodyStart || p.End > hi {
			t.Fatalf("part %d/%d/%d outside of %d to %d", p.HeaderStart, p.BodyStart, p.End, lo, hi)
		}
		if p.Lines < 0 || p.Lines > p.End-p.BodyStart {
			t.Fatalf("%d lines in %d bytes", p.Lines, p.End-p.BodyStart)
		}
		if p.Type == "" || p.Subtype == "" || p.Encoding == "" {
			t.Fatal("a part without type or encoding")
		}
		if depth > maxDepth+1 || count > maxParts+maxDepth+1 {
			t.Fatal("too deep or too many parts")
		}
		if p.encapsulates() && len(p.Parts) != 1 {
			t.Fatal("a message part without its message")
		}
		last := p.BodyStart
		for _, c := range p.Parts {
			walk(c, last, p.End, depth+1)
			last = c.End
		}
	}
	walk(root, 0, size, 0)
}

func checkCodec(t testing.TB, p *Part) {
	t.Helper()
	data := p.AppendBinary(nil)
	back, err := DecodePart(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(p, back) {
		t.Fatalf("encoding loses something: %s", cmp.Diff(p, back))
	}
	if again := back.AppendBinary(nil); !bytes.Equal(again, data) {
		t.Fatal("encoding is not stable")
	}
}

// outline writes a structure in one line.
func outline(p *Part) string {
	s := p.Type + "/" + p.Subtype
	if len(p.Parts) > 0 {
		var in []string
		for _, c := range p.Parts {
			in = append(in, outline(c))
		}
		s += "(" + strings.Join(in, " ") + ")"
	}
	return s
}

func TestStructure(t *testing.T) {
	multi := func(body string) string {
		return "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + body
	}
	deep := strings.Repeat("Content-Type: message/rfc822\r\n\r\n", maxDepth+50)
	many := multi(strings.Repeat("--b\r\n\r\nx\r\n", maxParts+50) + "--b--\r\n")
	for name, c := range map[string]struct{ text, want string }{
		"empty":                {"", "text/plain"},
		"only a header":        {"Subject: x\r\n", "text/plain"},
		"only a body":          {"\r\nhello", "text/plain"},
		"unreadable type":      {"Content-Type: nonsense\r\n\r\n", "text/plain"},
		"type with comment":    {"Content-Type: (hm) text (a) / (b) HTML (c); charset=x\r\n\r\n", "text/html"},
		"no boundary":          {"Content-Type: multipart/mixed\r\n\r\nx", "text/plain"},
		"no parts":             {multi("preamble"), "multipart/mixed"},
		"one":                  {multi("--b\r\n\r\nx\r\n--b--\r\n"), "multipart/mixed(text/plain)"},
		"not closed":           {multi("--b\r\n\r\nx\r\n--b\r\n\r\ny"), "multipart/mixed(text/plain text/plain)"},
		"padding":              {multi("--b \t\r\n\r\nx\r\n--b-- \r\n--b\r\n\r\n"), "multipart/mixed(text/plain)"},
		"longer word":          {multi("--b\r\n\r\n--bb\r\n--b-\r\n--b--x\r\n--b--\r\n"), "multipart/mixed(text/plain)"},
		"header meets edge":    {multi("--b\r\nContent-Type: text/html\r\n--b\r\n\r\n--b--"), "multipart/mixed(text/html text/plain)"},
		"inner not closed":     {multi("--b\r\nContent-Type: multipart/x; boundary=c\r\n\r\n--c\r\n\r\n1\r\n--b\r\n\r\n2\r\n--b--"), "multipart/mixed(multipart/x(text/plain) text/plain)"},
		"one begins the other": {multi("--b\r\nContent-Type: multipart/x; boundary=\"b-1\"\r\n\r\n--b-1\r\n\r\n1\r\n--b-1--\r\n--b--"), "multipart/mixed(multipart/x(text/plain))"},
		"boundary in pieces":   {"Content-Type: multipart/mixed; boundary*0=a; boundary*1*=%2Db\r\n\r\n--a-b\r\n\r\nx\r\n--a-b--\r\n", "multipart/mixed(text/plain)"},
		"boundary extended":    {"Content-Type: multipart/mixed; boundary*=us-ascii'en'a%20b\r\n\r\n--a b\r\n\r\nx\r\n--a b--\r\n", "multipart/mixed(text/plain)"},
		"digest":               {"Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: 1\r\n\r\n1\r\n--b\r\nContent-Type: text/plain\r\n\r\n2\r\n--b--", "multipart/digest(message/rfc822(text/plain) text/plain)"},
		"encoded message":      {"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA", "application/octet-stream"},
		"global":               {"Content-Type: message/global\r\n\r\nContent-Type: image/png\r\n\r\n", "message/global(image/png)"},
		"other message":        {"Content-Type: message/delivery-status\r\n\r\nx: y", "message/delivery-status"},
		"too deep":             {deep, strings.Repeat("message/rfc822(", maxDepth) + "application/octet-stream" + strings.Repeat(")", maxDepth)},
		"too many":             {many, "multipart/mixed(" + strings.Repeat("text/plain ", maxParts-1) + "application/octet-stream)"},
	} {
		t.Run(name, func(t *testing.T) {
			p := parse(t, c.text)
			checkShape(t, p, int64(len(c.text)))
			checkCodec(t, p)
			if got := outline(p); got != c.want {
				t.Errorf("got %.300s\nwant %.300s", got, c.want)
			}
		})
	}
}

// TestSpans holds that every section's bytes are the right ones, with CRLF
// and with bare LF line ends.
func TestSpans(t *testing.T) {
	const text = "Subject: outer\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n" +
		"--b\r\nContent-ID: one\r\n\r\nfirst\r\nsecond\r\n\r\n" +
		"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninner body\r\n" +
		"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: multi\r\nContent-Type: multipart/x; boundary=c\r\n\r\n--c\r\n\r\n\r\n--c\r\n\r\nsub two\r\n--c--\r\nepilogue\r\n" +
		"--b--\r\nthe end\r\n"
	cases := []struct {
		path []int
		text Text
		want string // "-": there is no such section
	}{
		{nil, Whole, text},
		{nil, Header, "Subject: outer\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"},
		{nil, Body, text[strings.Index(text, "preamble"):]},
		{nil, MIME, "-"},
		{[]int{1}, Whole, "first\r\nsecond\r\n"},
		{[]int{1}, MIME, "Content-ID: one\r\n\r\n"},
		{[]int{1}, Header, "-"},
		{[]int{1, 1}, Whole, "-"},
		{[]int{2}, Whole, "Subject: inner\r\n\r\ninner body"},
		{[]int{2}, Header, "Subject: inner\r\n\r\n"},
		{[]int{2}, Body, "inner body"},
		{[]int{2}, MIME, "Content-Type: message/rfc822\r\n\r\n"},
		{[]int{2, 1}, Whole, "inner body"},
		{[]int{2, 1}, MIME, "Subject: inner\r\n\r\n"},
		{[]int{2, 2}, Whole, "-"},
		{[]int{3, 1}, Whole, ""},
		{[]int{3, 2}, Whole, "sub two"},
		{[]int{3}, Body, "--c\r\n\r\n\r\n--c\r\n\r\nsub two\r\n--c--\r\nepilogue"},
		{[]int{4}, Whole, "-"},
		{[]int{0}, Whole, "-"},
	}
	for _, lf := range []bool{false, true} {
		form := func(s string) string {
			if lf {
				return strings.ReplaceAll(s, "\r\n", "\n")
			}
			return s
		}
		msg := form(text)
		p := parse(t, msg)
		checkShape(t, p, int64(len(msg)))
		for _, c := range cases {
			got := "-"
			if span, ok := p.Span(Section{c.path, c.text}); ok {
				got = msg[span.Start:span.End]
			}
			if got != form(c.want) {
				t.Errorf("LF %v, section %v %d: got %q, want %q", lf, c.path, c.text, got, form(c.want))
			}
		}
		first, _ := p.Find([]int{1})
		if first.Lines != 2 {
			t.Errorf("got %d lines, want 2", first.Lines)
		}
	}
}

// TestLongLine holds that a line longer than the buffer neither hides the
// next boundary nor costs its length.
func TestLongLine(t *testing.T) {
	long := strings.Repeat("x", 3*maxLine)
	text := "Subject: " + long + "\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n" + long + "\r\n--b\r\n\r\n" + long[:maxLine-1] + "\r\n--b--\r\n"
	p := parse(t, text)
	checkShape(t, p, int64(len(text)))
	if len(p.Parts) != 2 || p.Parts[0].End-p.Parts[0].BodyStart != int64(len(long)) || p.Parts[1].End-p.Parts[1].BodyStart != maxLine-1 {
		t.Errorf("got %s", outline(p))
	}
	if n := len(p.Envelope.Subject); n == 0 || n > maxLine {
		t.Errorf("got a subject of %d bytes", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n")
	f.Add("Content-Type: message/rfc822\n\nTo: a: <@x,@y:b@c>, \"q\" (d) <e>;\n\n")
	f.Add("From: =?utf-8?q?x?= <a@b>\r\nContent-Disposition: attachment; filename*0=\"a;b\"; x (y) = z\r\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		p := parse(t, text)
		checkShape(t, p, int64(len(text)))
		checkCodec(t, p)
		var header strings.Builder
		err := ReadHeader(strings.NewReader(text), p, func(field Field) bool {
			header.WriteString(text[field.Start:field.End])
			return true
		})
		if err != nil || header.String() != text[:p.BodyStart] {
			t.Fatalf("the fields are not the header: %v", err)
		}
	})
}

func FuzzDecodePart(f *testing.F) {
	f.Add((&Part{Type: "text", Envelope: &Envelope{To: []Address{{Group: true}}}, Params: []Param{{"a", "b"}}, Parts: []*Part{{}}}).AppendBinary(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := DecodePart(data); err == nil {
			if _, err := DecodePart(p.AppendBinary(nil)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
