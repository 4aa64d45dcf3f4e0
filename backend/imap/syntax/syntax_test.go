package syntax

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"switchyard/internal/message"

	"pgregory.net/rapid"
)

// text is a Source over bytes, with CRLF lines.
type text struct {
	rest    []byte
	most    int64 // literals above are refused
	invited int
}

func (s *text) Line() ([]byte, error) {
	line, rest, found := bytes.Cut(s.rest, []byte("\r\n"))
	if !found {
		return nil, io.EOF
	}
	s.rest = rest
	return line, nil
}

func (s *text) discard(n int64) error {
	if n > int64(len(s.rest)) {
		return io.EOF
	}
	s.rest = s.rest[n:]
	return nil
}

func (s *text) Literal(l Literal) (string, error) {
	if l.Size > s.most {
		if !l.Waits {
			if err := s.discard(l.Size); err != nil {
				return "", err
			}
		}
		return "", &Refused{"too big"}
	}
	if l.Waits {
		s.invited++
	}
	if l.Size > int64(len(s.rest)) {
		return "", io.EOF
	}
	lit := string(s.rest[:l.Size])
	s.rest = s.rest[l.Size:]
	return lit, nil
}

func lex(s string) (*Lexer, *text) {
	src := &text{rest: []byte(s + "\r\n"), most: 1000}
	line, _ := src.Line()
	return NewLexer(src, line), src
}

func TestAString(t *testing.T) {
	for in, want := range map[string]string{
		"abc":                     "abc",
		"a]b":                     "a]b",
		`"a b"`:                   "a b",
		`"a\"\\b"`:                `a"\b`,
		`"grün"`:                  "grün",
		`""`:                      "",
		"{3}\r\na\r\n":            "a\r\n",
		"{3+}\r\nabc":             "abc",
		"{0}\r\n":                 "",
		"a b":                     "a",
		`"\a"`:                    "-",
		`"a`:                      "-",
		"\"\xff\"":                "-",
		"\"a\rb\"":                "-",
		"\"a\x00b\"":              "-",
		"{3+}\r\na\x00c":          "-",
		"{3":                      "-",
		"{}":                      "-",
		"{3}x":                    "-",
		"{-3}":                    "-",
		"{3++}":                   "-",
		"{99999999999999999999}":  "-",
		"{99999999999999999999+}": "-",
		"{1001}":                  "-",
		"":                        "-",
		"(":                       "-",
		"é":                       "-",
	} {
		l, _ := lex(in)
		got, err := l.AString()
		if err != nil {
			got = "-"
		}
		if got != want {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
}

// TestSkip holds that the end of a command that is not run is found.
func TestSkip(t *testing.T) {
	for name, c := range map[string]struct {
		command string
		rest    string // what is left for the next command
		err     error
	}{
		"plain":             {"a b c", "", nil},
		"literal":           {"a {5+}\r\nx\r\ny\r b", "", nil},
		"two":               {"a {5+}\r\n12345 {3+}\r\nabc d", "", nil},
		"waiting":           {"a {5}\r\nnext one", "next one\r\n", nil},
		"no literal":        {"a {5+} b\r\nnext", "next\r\n", nil},
		"binary":            {"a ~{2+}\r\n\r\n\r\nnext", "next\r\n", nil},
		"no end":            {"a {99999999999999999999+}", "", ErrLost},
		"no end, waiting":   {"a {99999999999999999999}\r\nnext", "next\r\n", nil},
		"more than is left": {"a {50+}\r\nabc", "", io.EOF},
	} {
		l, src := lex(c.command)
		l.Tag()
		err := l.Skip(src.discard)
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || err == nil && string(src.rest) != c.rest {
			t.Errorf("%s: got %v, left %q", name, err, src.rest)
		}
	}
	// The size that nobody knows was read as an argument already.
	l, src := lex("{99999999999999999999+}")
	if _, err := l.AString(); err == nil {
		t.Error("no error")
	}
	if err := l.Skip(src.discard); !errors.Is(err, ErrLost) {
		t.Errorf("got %v", err)
	}
	// A refused literal was thrown away, and the command goes on behind it.
	l, src = lex("{1005+}\r\n" + strings.Repeat("x", 1005) + " {3+}\r\nabc\r\nnext")
	var refused *Refused
	if _, err := l.AString(); !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
	if err := l.Skip(src.discard); err != nil || string(src.rest) != "next\r\n" {
		t.Errorf("got %v, left %q", err, src.rest)
	}
}

func TestMailboxNames(t *testing.T) {
	for coded, name := range map[string]string{
		"INBOX":               "INBOX",
		"~peter/mail":         "~peter/mail",
		"&U,BTFw-/&ZeVnLIqe-": "台北/日本語",
		"a&-b":                "a&b",
		"&AOkA6Q-":            "éé",
		"&2D3eAA-":            "😀",
	} {
		if got, ok := DecodeUTF7(coded); !ok || got != name {
			t.Errorf("decode %q: got %q, %v", coded, got, ok)
		}
		if got := EncodeUTF7(name); got != coded {
			t.Errorf("encode %q: got %q", name, got)
		}
	}
	for _, bad := range []string{"&", "&AOk", "&AOk-&AOk-", "&AGEAYg-", "&A-", "&2D0-", "&AOk=-", "a&b"} {
		if got, ok := DecodeUTF7(bad); ok {
			t.Errorf("decode %q: got %q", bad, got)
		}
	}
	for in, want := range map[string]string{"inbox": "INBOX", "Inbox/x": "INBOX/x", "inboxes": "inboxes"} {
		if got, err := DecodeMailbox(in, false); err != nil || got != want {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
	if got, err := DecodeMailbox("a&b", true); err != nil || got != "a&b" {
		t.Errorf("UTF-8: got %q, %v", got, err)
	}
}

func TestUTF7RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Draw(t, "name")
		if got, ok := DecodeUTF7(EncodeUTF7(name)); !ok || got != name {
			t.Fatalf("%q became %q, %v", name, got, ok)
		}
	})
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "a/b/c", true}, {"%", "a", true}, {"%", "a/b", false}, {"a/%", "a/b", true}, {"a/%", "a/b/c", false},
		{"a*c", "a/b/c", true}, {"a%c", "a/c", false}, {"%/%", "a/b", true}, {"", "", true}, {"", "a", false},
		{"*b", "ab", true}, {"*b", "abc", false}, {"a", "A", false}, {"%%%%", "abc", true}, {"*%*", "", true},
	} {
		if got := Match(c.pattern, c.name); got != c.want {
			t.Errorf("%q, %q: got %v", c.pattern, c.name, got)
		}
	}
	begin := time.Now()
	Match(strings.Repeat("*a", 500), strings.Repeat("a", 2000)+"b")
	if took := time.Since(begin); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func TestSets(t *testing.T) {
	for in, want := range map[string]string{
		"1": "1", "3,1:2": "1:3", "5:3,9": "3:5,9", "*": "10", "2:*": "2:10", "*:8": "8:10", "12:*": "10:12", "1:4,2:3,5": "1:5",
		"4294967295:1": "1:4294967295", "": "-", "0": "-", "1,": "-", "1:": "-", "a": "-", "4294967296": "-", "1:0": "-",
	} {
		l, _ := lex(in)
		set, err := l.Set()
		got := "-"
		if err == nil {
			got = ""
			for i, r := range set.Resolve(10) {
				if i > 0 {
					got += ","
				}
				got = string(AppendSet([]byte(got), slices.Values([]uint32{r.First})))
				if r.Last != r.First {
					got += ":" + string(AppendSet(nil, slices.Values([]uint32{r.Last})))
				}
			}
		}
		if got != want {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
	if l, _ := lex(strings.Repeat("1,", maxRanges) + "1"); true {
		if _, err := l.Set(); err == nil {
			t.Error("a set without bound")
		}
	}
	for want, numbers := range map[string][]uint32{
		"": nil, "7": {7}, "1:3": {1, 2, 3}, "1:2,4": {1, 2, 4}, "5,3:4": {5, 3, 4},
	} {
		if got := string(AppendSet(nil, slices.Values(numbers))); got != want {
			t.Errorf("%v: got %q", numbers, got)
		}
	}
}

func TestWriterStrings(t *testing.T) {
	for _, c := range []struct {
		in   string
		utf8 bool
		want string
	}{
		{"plain", false, `"plain"`}, {`a"\b`, false, `"a\"\\b"`}, {"", false, `""`},
		{"a\r\nb", false, "{4}\r\na\r\nb"}, {"grün", false, "{5}\r\ngrün"}, {"grün", true, `"grün"`},
		{"\xff", true, "{1}\r\n\xff"}, {"a\x00b", false, `"ab"`}, {strings.Repeat("x", 1001), false, "{1001}\r\n" + strings.Repeat("x", 1001)},
	} {
		var b bytes.Buffer
		w := NewWriter(&b)
		w.UTF8 = c.utf8
		w.String(c.in).End()
		if got := strings.TrimSuffix(b.String(), "\r\n"); got != c.want {
			t.Errorf("%q: got %q", c.in, got)
		}
	}
}

// readString reads back what the writer wrote, with the lexer.
func readString(wrote []byte) (string, error) {
	src := &text{rest: wrote, most: 1 << 20}
	line, err := src.Line()
	if err != nil {
		return "", err
	}
	return NewLexer(src, line).String()
}

func FuzzString(f *testing.F) {
	f.Add("a\r\n\"", true)
	f.Fuzz(func(t *testing.T, s string, asUTF8 bool) {
		var b bytes.Buffer
		w := NewWriter(&b)
		w.UTF8 = asUTF8
		w.String(s).End()
		got, err := readString(b.Bytes())
		if want := strings.ReplaceAll(s, "\x00", ""); err != nil || got != want {
			t.Fatalf("%q came back as %q, %v", s, got, err)
		}
	})
}

// FuzzCommand runs every parser over one command, and holds that the lexer
// never takes more than the command, and finds its end.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"a LOGIN \"x\" {3+}\r\nabc", "a SEARCH RETURN (MIN) CHARSET UTF-8 OR (NOT 1:*) UID $ HEADER x {1+}\r\ny ON 1-Jan-2026",
		"a FETCH 1:* (BODY.PEEK[1.2.HEADER.FIELDS (a \"b\")]<0.5> BINARY[1]) (CHANGEDSINCE 5)", "a LIST \"\" (% *) RETURN (x)",
		"a x (\\Seen $a) \"01-Jan-2026 00:00:00 +0000\" ~{2+}\r\n\x00\x01", "a {99999999999999999999+}",
		"a SORT RETURN (PARTIAL -1:-5) (REVERSE SUBJECT DISPLAYFROM) UTF-8 ALL", "a THREAD REFERENCES {5+}\r\nUTF-8 TEXT x",
		"a FETCH 1 (PREVIEW (LAZY) UID) (PARTIAL 1:5 VANISHED CHANGEDSINCE 7)", "a SELECT (67890007 90060115194045000 41:211,214:541 (5,7:9 15,17:19))",
	} {
		f.Add(s)
	}
	parsers := []func(*Lexer){
		func(l *Lexer) { l.Search() },
		func(l *Lexer) { l.FetchItems() },
		func(l *Lexer) { l.Sort() },
		func(l *Lexer) { l.Thread() },
		func(l *Lexer) {
			l.SP()
			if q, err := l.QResync(); err == nil && (q.UIDValidity == 0 || q.ModSeq == 0 || q.Known != nil && q.Known.Saved) {
				panic("a QRESYNC parameter without its numbers")
			}
		},
		func(l *Lexer) {
			l.SP()
			if p, err := l.Partial(); err == nil {
				for _, n := range []int{0, 1, 7} {
					if from, to := p.Of(n); p.First > p.Last || from < 0 || to < from || to > n {
						panic("a partial range out of its bounds")
					}
				}
			}
		},
		func(l *Lexer) { l.Set(); l.SP(); l.FetchItems() },
		func(l *Lexer) {
			l.SP()
			l.Mailbox(false)
			l.SP()
			l.Flags()
			l.SP()
			l.DateTime()
			l.SP()
			l.Literal()
		},
		func(l *Lexer) {
			l.Pattern(true)
			l.SP()
			l.Number64()
			l.NString()
			l.Date()
			l.Base64()
			l.End()
		},
	}
	f.Fuzz(func(t *testing.T, command string) {
		for _, parse := range parsers {
			const next = "NEXT COMMAND\r\n"
			src := &text{rest: []byte(command + "\r\n" + next), most: 100}
			line, _ := src.Line()
			l := NewLexer(src, line)
			l.Tag()
			if l.SP() == nil {
				l.Word()
			}
			parse(l)
			err := l.Skip(src.discard)
			// With no literal in it, the command is its first line.
			if err == nil && !strings.Contains(command, "{") && !strings.HasSuffix(string(src.rest), next) {
				t.Fatalf("the next command is gone: %q", src.rest)
			}
		}
	})
}

// FuzzStructure writes the structure of any message and reads it back as
// balanced IMAP data in one line.
func FuzzStructure(f *testing.F) {
	f.Add("Content-Type: multipart/mixed; boundary=b; x=\"\xc3\xbc\x00\"\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nFrom: a:b;\r\n\r\n", true)
	f.Fuzz(func(t *testing.T, msg string, asUTF8 bool) {
		part, err := message.Parse(strings.NewReader(msg), int64(len(msg)))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w := NewWriter(&b)
		w.UTF8 = asUTF8
		w.Raw("(").Structure(part, true).Raw(" ").Structure(part, false).Raw(" ").Envelope(part.Envelope).Raw(")").End()
		src := &text{rest: b.Bytes(), most: 1 << 20}
		line, err := src.Line()
		if err != nil {
			t.Fatal(err)
		}
		l := NewLexer(src, line)
		if err := balanced(l); err != nil {
			t.Fatalf("%v in %q", err, b.Bytes())
		}
		if err := l.End(); err != nil || len(src.rest) > 0 {
			t.Fatalf("more than one value: %q", b.Bytes())
		}
		if bytes.IndexByte(b.Bytes(), 0) >= 0 || asUTF8 && utf8.ValidString(msg) && !utf8.Valid(b.Bytes()) {
			t.Fatalf("bytes that may not be: %q", b.Bytes())
		}
	})
}

// balanced reads one value: a list, a string, NIL or a number. Body parts
// follow each other without a space.
func balanced(l *Lexer) error {
	switch c := l.Peek(); {
	case c == '(':
		l.Is('(')
		for first := true; !l.Is(')'); first = false {
			if !first && l.Peek() != '(' {
				if err := l.SP(); err != nil {
					return err
				}
			}
			if err := balanced(l); err != nil {
				return err
			}
		}
		return nil
	case c >= '0' && c <= '9':
		_, err := l.Number64()
		return err
	default:
		_, _, err := l.NString()
		return err
	}
}

// TestURL holds what of RFC 5092 is understood, and that the rest is refused.
func TestURL(t *testing.T) {
	for text, want := range map[string]URL{
		"/Drafts;UIDVALIDITY=7/;UID=20/;section=HEADER": {Mailbox: "Drafts", UIDValidity: 7, UID: 20, Item: Item{Section: message.Section{Text: message.Header}}},
		"/INBOX/;uid=1/;SECTION=1.2":                    {Mailbox: "INBOX", UID: 1, Item: Item{Section: message.Section{Path: []int{1, 2}}}},
		"/a%2Fb/c/;UID=1/;PARTIAL=3.4":                  {Mailbox: "a/b/c", UID: 1, Item: Item{Partial: true, Offset: 3, Count: 4}},
		"/inbox/;UID=1/;PARTIAL=3":                      {Mailbox: "INBOX", UID: 1, Item: Item{Partial: true, Offset: 3, Count: 1 << 62}},
		";UID=4294967295":                               {UID: 1<<32 - 1},
		"/;UID=3":                                       {UID: 3},
		"imap://joe@Example.COM/INBOX/;UID=2":           {User: "joe", Host: "example.com", Mailbox: "INBOX", UID: 2},
		"IMAP://joe;AUTH=*@h:143/%C3%BC/;UID=2":         {User: "joe", Host: "h:143", Mailbox: "ü", UID: 2},
	} {
		got, err := ParseURL(text)
		want.Item.Kind, want.Item.Peek = Body, true
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "/", "/INBOX", "/INBOX/;UID=0", "/INBOX/;UID=x", "/INBOX/;UID=1;WHAT=2", "/INBOX/;UID=1/;SECTION=1.",
		"/INBOX/;UID=1/;SECTION=HEADER.FIELDS%20({1}",
		"/INBOX/;UID=1/;PARTIAL=1.0", "/INBOX/;UID=1/;PARTIAL=-1", "/%zz/;UID=1", "/%00/;UID=1", "/%ff/;UID=1", "imap:///INBOX/;UID=1",
		"/INBOX/;UID=4294967296", "/" + strings.Repeat("x", maxURL) + "/;UID=1",
	} {
		if got, err := ParseURL(text); err == nil {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

// FuzzURL: whatever comes, a URL that is understood names a message.
func FuzzURL(f *testing.F) {
	f.Add("/Drafts;UIDVALIDITY=7/;UID=20/;section=HEADER.FIELDS%20(A%20B)/;PARTIAL=1.2")
	f.Add("imap://joe@example.com/INBOX/;UID=2")
	f.Fuzz(func(t *testing.T, text string) {
		if u, err := ParseURL(text); err == nil && (u.UID == 0 || u.Item.Kind != Body) {
			t.Fatalf("%+v", u)
		}
	})
}
