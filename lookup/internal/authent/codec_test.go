package authent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
)

// word is a password.
func word(s string) *string { return &s }

var requestEqual = cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}

// Each request is written as a line, and the line is read as the request.
func TestRequestBothWays(t *testing.T) {
	const anna = "anna@x.test"
	for line, r := range map[string]Request{
		"lookup anna@x.test":                      {Verb: Lookup, Name: anna},
		"check anna@x.test sesame":                {Verb: Check, Name: anna, Password: word("sesame")},
		"check anna@x.test sesame 192.0.2.7":      {Verb: Check, Name: anna, Password: word("sesame"), Client: netip.MustParseAddr("192.0.2.7")},
		"check anna@x.test sesame 2001:db8::1":    {Verb: Check, Name: anna, Password: word("sesame"), Client: netip.MustParseAddr("2001:db8::1")},
		"check jörg@x.test pässwörd-ß":            {Verb: Check, Name: "jörg@x.test", Password: word("pässwörd-ß")},
		"check anna@x.test %41":                   {Verb: Check, Name: anna, Password: word("%41")},
		"xcheck anna@x.test a%20b":                {Verb: Check, Name: anna, Password: word("a b")},
		"xcheck anna@x.test a%22%25%0A 192.0.2.7": {Verb: Check, Name: anna, Password: word("a\"%\n"), Client: netip.MustParseAddr("192.0.2.7")},
		"set anna@x.test sesame":                  {Verb: Set, Name: anna, Password: word("sesame")},
		"set anna@x.test (NULL)":                  {Verb: Set, Name: anna},
		`set anna@x.test (NULL) a="b c" d=""`:     {Verb: Set, Name: anna, Labels: map[string]string{"a": "b c", "d": ""}},
		`set anna@x.test ends: quota="200"`:       {Verb: Set, Name: anna, Password: word("ends:"), Labels: map[string]string{"quota": "200"}},
		`xset anna@x.test %20 a="b"`:              {Verb: Set, Name: anna, Password: word(" "), Labels: map[string]string{"a": "b"}},
		"del anna@x.test":                         {Verb: Delete, Name: anna},
		"search *":                                {Verb: Search, Pattern: "*"},
		"search bo?@x.test -from 3 -max 10":       {Verb: Search, Pattern: "bo?@x.test", From: 3, Max: 10},
		"search -max":                             {Verb: Search, Pattern: "-max"},
		"version":                                 {Verb: Version},
		"help":                                    {Verb: Help},
		"quit":                                    {Verb: Quit},
		"exit":                                    {Verb: Exit},
		"auth open sesame":                        {Verb: Auth, Secret: "open sesame"},
		"feed":                                    {Verb: Feed},
		"xkeys anna@x.test SCRAM-SHA-256":         {Verb: XKeys, Name: anna, Mechanism: "SCRAM-SHA-256"},
		"xkeymechs":                               {Verb: XKeyMechs},
		"replicate":                               {Verb: Replicate},
		"replicate 12-0123456789abcdef":           {Verb: Replicate, Mark: "12-0123456789abcdef"},
	} {
		if got, err := r.Line(true); err != nil || got != line {
			t.Errorf("write %s: got %q, %v, want %q", r, got, err, line)
		}
		got, err := ParseRequest(line)
		if diff := cmp.Diff(r, got, requestEqual); err != nil || diff != "" {
			t.Errorf("read %q: %v (-want +got):\n%s", line, err, diff)
		}
	}
}

func TestParseRequestLeniently(t *testing.T) {
	for line, want := range map[string]Request{
		"LOOKUP Anna@X.test":                 {Verb: Lookup, Name: "anna@x.test"},
		"lookup  anna@x.test ":               {Verb: Lookup, Name: "anna@x.test"},
		`set anna@x.test p tohost=b1 A=b`:    {Verb: Set, Name: "anna@x.test", Password: word("p"), Labels: map[string]string{"tohost": "b1", "a": "b"}},
		"search x  -max 1  -from 2":          {Verb: Search, Pattern: "x", From: 2, Max: 1},
		"check anna@x.test p ::ffff:1.2.3.4": {Verb: Check, Name: "anna@x.test", Password: word("p"), Client: netip.MustParseAddr("1.2.3.4")},
		"xset anna@x.test (NULL)":            {Verb: Set, Name: "anna@x.test"},
	} {
		got, err := ParseRequest(line)
		if diff := cmp.Diff(want, got, requestEqual); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", line, err, diff)
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"":                                "unknown command",
		"nonsense":                        "unknown command",
		" lookup anna@x.test":             "unknown command",
		"lookup":                          "user name is missing",
		"lookup a b":                      "U+0020",
		"lookup \"anna@x.test\"":          "U+0022",
		"lookup anna@x.test\x00":          "control character",
		"lookup anna@x.test\rquit":        "control character",
		"del":                             "user name is missing",
		"check":                           "check takes",
		"check anna@x.test":               "check takes",
		"check anna@x.test open sesame":   "a password has no space",
		"check anna@x.test a b c":         "check takes",
		"check anna@x.test  p":            "the address is none",
		`check anna@x.test p"q`:           "quote",
		"xcheck anna@x.test a%2":          "percent",
		"xcheck anna@x.test a%zz":         "percent",
		"set":                             "set takes",
		"set anna@x.test":                 "set takes",
		`set anna@x.test quota="200" a="`: "quote",
		`set anna@x.test p a="`:           "closing quote",
		`set anna@x.test p a="b" a="c"`:   "twice",
		"set anna@x.test p word":          "something",
		"xset anna@x.test %28NULL%29":     "never a password",
		"search":                          "search takes",
		"search a b":                      "search takes",
		"search a -max":                   "search takes",
		"search a -max x":                 "take a number",
		"search a -max -1":                "take a number",
		"search a -max 99999999999999":    "take a number",
		"search a -up 1":                  "search takes",
		"version 2":                       "no argument",
		"xkeys anna@x.test":               "xkeys takes",
		"xkeys anna@x.test scram":         "xkeys takes",
		"xkeys anna@x.test A B":           "xkeys takes",
		"xkeys  SCRAM-SHA-1":              "user name is missing",
		"xkeymechs all":                   "no argument",
		"auth":                            "needs a secret",
		"auth ":                           "needs a secret",
	} {
		_, err := ParseRequest(line)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error that says %q", line, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("%q: the error shows a password: %v", line, err)
		}
	}
}

func TestRequestThatCannotBeCarried(t *testing.T) {
	const anna = "anna@x.test"
	for what, c := range map[string]struct {
		r       Request
		encoded bool
	}{
		"space in a name":           {Request{Verb: Lookup, Name: "a b"}, true},
		"newline in a name":         {Request{Verb: Lookup, Name: "a\nquit"}, true},
		"unclean name":              {Request{Verb: Lookup, Name: "Anna@x.test"}, true},
		"no name":                   {Request{Verb: Delete}, true},
		"space in a password":       {Request{Verb: Check, Name: anna, Password: word("a b")}, false},
		"quote in a password":       {Request{Verb: Check, Name: anna, Password: word(`a"`)}, false},
		"newline in a password":     {Request{Verb: Check, Name: anna, Password: word("a\nquit")}, false},
		"NUL in a password":         {Request{Verb: Set, Name: anna, Password: word("a\x00")}, false},
		"no password":               {Request{Verb: Check, Name: anna}, true},
		"empty password":            {Request{Verb: Check, Name: anna, Password: word("")}, true},
		"the word for no password":  {Request{Verb: Check, Name: anna, Password: word("(NULL)")}, true},
		"setting it":                {Request{Verb: Set, Name: anna, Password: word("(NULL)")}, true},
		"newline in encoded's name": {Request{Verb: Check, Name: "a\nb", Password: word("a b")}, true},
		"quote in a value":          {Request{Verb: Set, Name: anna, Labels: map[string]string{"a": `"`}}, true},
		"newline in a value":        {Request{Verb: Set, Name: anna, Labels: map[string]string{"a": "\n"}}, true},
		"space in a label":          {Request{Verb: Set, Name: anna, Labels: map[string]string{"a b": "c"}}, true},
		"no mechanism":              {Request{Verb: XKeys, Name: anna}, true},
		"newline in a mechanism":    {Request{Verb: XKeys, Name: anna, Mechanism: "A\nB"}, true},
		"newline in a name of keys": {Request{Verb: XKeys, Name: "a\nb", Mechanism: "A"}, true},
		"no pattern":                {Request{Verb: Search}, true},
		"space in a pattern":        {Request{Verb: Search, Pattern: "a b"}, true},
		"newline in a pattern":      {Request{Verb: Search, Pattern: "a\n"}, true},
		"negative from":             {Request{Verb: Search, Pattern: "a", From: -1}, true},
		"newline in a secret":       {Request{Verb: Auth, Secret: "a\nb"}, true},
		"a verb of somebody's own":  {Request{Verb: "quit\nlookup"}, true},
		"a megabyte":                {Request{Verb: Check, Name: anna, Password: word(strings.Repeat("p", 1<<20))}, true},
	} {
		line, err := c.r.Line(c.encoded)
		var refused *netwin.RefusedError
		if line != "" || !errors.As(err, &refused) {
			t.Errorf("%s: got %q, %v, want a refusal", what, line, err)
		}
	}
}

func TestRequestHidesSecrets(t *testing.T) {
	r := Request{Verb: Check, Name: "anna@x.test", Password: word("sesame"), Secret: "sesame"}
	if s := r.String() + r.GoString(); strings.Contains(s, "sesame") {
		t.Errorf("printed %s", s)
	}
}

func TestReplyLine(t *testing.T) {
	for what, c := range map[string]struct {
		r    Reply
		want string
	}{
		"ok":      {Reply{OK, ""}, "+OK"},
		"text":    {Reply{Data, "anna@x.test"}, "+DATA anna@x.test"},
		"error":   {Reply{Err, strings.Repeat("x", 200)}, "-ERR " + strings.Repeat("x", 94)},
		"dead":    {Reply{Dead, strings.Repeat("x", 200)}, "-DEAD " + strings.Repeat("x", 93)},
		"whole":   {Reply{Dead, strings.Repeat("ß", 200)}, "-DEAD " + strings.Repeat("ß", 46)},
		"control": {Reply{OK, "a\nb"}, ""},
		"long":    {Reply{OK, strings.Repeat("x", netwin.MaxLine)}, ""},
	} {
		got, err := c.r.Line()
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: got %q, %v, want %q", what, got, err, c.want)
		}
		if c.r.Kind != OK && len(got) >= 100 {
			t.Errorf("%s: %d bytes, want less than 100", what, len(got))
		}
	}
}

func TestParseReply(t *testing.T) {
	for line, want := range map[string]Reply{
		"+OK": {OK, ""}, "+OK bob config 0": {OK, "bob config 0"}, "+DATA x": {Data, "x"}, "-ERR no": {Err, "no"}, "-DEAD": {Dead, ""},
	} {
		if got, err := ParseReply(line); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", line, got, err, want)
		}
	}
	for _, line := range []string{"", "OK", "+ok x", "+OKAY", " +OK", "-ERROR", "220 hello", "+OK a\x00b", "+OK a\rb"} {
		if got, err := ParseReply(line); !errors.Is(err, ErrGarbage) {
			t.Errorf("%q: got %v, %v, want garbage", line, got, err)
		}
	}
}

// What other servers answer, as the sources print it.
func TestParseAccount(t *testing.T) {
	const bob = "bob@test.com"
	for text, want := range map[string]lookup.Account{
		"bob@test.com config 0":                                  {Name: bob},
		`bob@test.com config 0 quota="200" fwd="fred@test.com"`:  {Name: bob, Quota: 200, Forwards: []string{"fred@test.com"}, Attributes: map[string]string{"quota": "200", "fwd": "fred@test.com"}},
		"BOB@Test.com /var/mail/bob 1001":                        {Name: bob},
		"bob@test.com /var/mail/bob":                             {Name: bob},
		"bob@test.com":                                           {Name: bob},
		`bob@test.com config 0 tohost=b1.test`:                   {Name: bob, Home: "b1.test", Attributes: map[string]string{"tohost": "b1.test"}},
		`bob@test.com config 0 tohost="b1.test" homegen=3`:       {Name: bob, Home: "b1.test", Generation: 3, Attributes: map[string]string{"tohost": "b1.test", "homegen": "3"}},
		`bob@test.com config 0 mailaccess="nowebmail" quota=big`: {Name: bob, Attributes: map[string]string{"mailaccess": "nowebmail", "quota": "big"}},
	} {
		got, err := ParseAccount(text, bob)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", text, err, diff)
		}
	}
	for _, text := range []string{
		"", "fred@test.com config 0", "bob@test.com. config 0", `bob@test.com tohost="b1"`, `bob@test.com config tohost="b1"`,
		`bob@test.com config 0 tohost="b1" tohost="b2"`, `bob@test.com config 0 tohost="b1`, `bob@test.com config 0 b1`,
		`bob@test.com config 0 tohost="b1"x`, `bob@test.com config 0 homegen="x"`, `bob@test.com config 0 +OK`,
	} {
		if got, err := ParseAccount(text, bob); !errors.Is(err, ErrGarbage) {
			t.Errorf("%q: got %+v, %v, want garbage", text, got, err)
		}
	}
}

func TestAccountReplyRefuses(t *testing.T) {
	for _, a := range []lookup.Account{
		{Name: "a b"}, {Name: "a@b", Home: `x"y`}, {Name: "a@b", Home: "x\ny"},
		{Name: "a@b", Attributes: map[string]string{"Upper": "x"}}, {Name: "a@b", Attributes: map[string]string{"a": strings.Repeat("x", 40000)}},
	} {
		if r, err := AccountReply(a); err == nil {
			t.Errorf("%+v: got %.80q, want a refusal", a, r.Text)
		}
	}
}

func TestSearchReply(t *testing.T) {
	if found, total := ParseFound(SearchReply(2, 1510).Text); found != 2 || total != 1510 {
		t.Errorf("got %d of %d", found, total)
	}
	for _, text := range []string{"", "done", "Search Complete 2", "Search Complete 2 items found out of x", "Search Complete -2 items found out of 3", "Search Complete 2 items found out of 3x"} {
		if found, total := ParseFound(text); found != -1 || total != -1 {
			t.Errorf("%q: got %d of %d, want unknown", text, found, total)
		}
	}
}

// FuzzRequest: what is read can be written, and is read as the same again.
func FuzzRequest(f *testing.F) {
	for _, line := range []string{
		"lookup bob@test.com", "check bob@test.com bob 192.0.2.1", `set bob@test.com (NULL) quota="200" fwd=x`, "xset a@b %20 a=b",
		"search bo* -from 1 -max 2", "xcheck a@b %41", "auth x", "del a", "HELP", "feed", "replicate 1-0123456789abcdef",
		"xkeys a@b SCRAM-SHA-1", "xkeymechs",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, in string) {
		r, err := ParseRequest(in)
		if err != nil {
			return
		}
		line, err := r.Line(true)
		if err != nil {
			// What is read leniently and not written.
			if (r.Verb == Check || r.Verb == Set) && r.Password != nil && *r.Password == netwin.NoPassword || strings.Contains(err.Error(), "bytes") {
				return
			}
			t.Fatalf("%q was read as %+v and cannot be written: %v", in, r, err)
		}
		if strings.ContainsAny(line, "\n\r\x00") {
			t.Fatalf("%q became %q", in, line)
		}
		again, err := ParseRequest(line)
		if err != nil || !cmp.Equal(r, again, requestEqual) {
			t.Fatalf("%q became %q: %v\n%s", in, line, err, cmp.Diff(r, again, requestEqual))
		}
	})
}

// FuzzRequestLine: whatever is asked becomes one line or is refused.
func FuzzRequestLine(f *testing.F) {
	f.Add("anna@x.test", "a b", "label", "value", "*", true)
	f.Add("anna@x.test", "(NULL)", "a", "\"", "x\n", false)
	f.Fuzz(func(t *testing.T, name, password, label, value, pattern string, encoded bool) {
		for _, r := range []Request{
			{Verb: Lookup, Name: name}, {Verb: Delete, Name: name}, {Verb: Check, Name: name, Password: &password},
			{Verb: Set, Name: name, Password: &password, Labels: map[string]string{label: value}},
			{Verb: Set, Name: name, Labels: map[string]string{label: value}}, {Verb: Search, Pattern: pattern, Max: 7},
			{Verb: XKeys, Name: name, Mechanism: value},
		} {
			line, err := r.Line(encoded)
			if err != nil {
				continue
			}
			if strings.ContainsAny(line, "\n\r\x00") {
				t.Fatalf("%+v became %q", r, line)
			}
			if !encoded && r.Verb != XKeys && strings.HasPrefix(line, "x") {
				t.Fatalf("an old server gets %q", line)
			}
			got, err := ParseRequest(line)
			if err != nil || !cmp.Equal(r, got, requestEqual) {
				t.Fatalf("%q: %v\n%s", line, err, cmp.Diff(r, got, requestEqual))
			}
		}
	})
}

// FuzzReply: a reply about an account is read as the account that was written,
// and no line is read as another account's.
func FuzzReply(f *testing.F) {
	f.Add(`+OK bob@test.com config 0 quota="200" fwd="fred@test.com"`)
	f.Add("+OK bob@test.com")
	f.Add("-ERR no such user")
	f.Add(`+OK bob@test.com config 0 tohost=b1 homegen=7 mailstatus="ok"`)
	f.Fuzz(func(t *testing.T, line string) {
		r, err := ParseReply(line)
		if err != nil {
			return
		}
		account, err := ParseAccount(r.Text, "bob@test.com")
		if err != nil {
			return
		}
		if account.Name != "bob@test.com" {
			t.Fatalf("%q is about %q", line, account.Name)
		}
		written, err := AccountReply(account)
		if err != nil {
			return // longer than is kept
		}
		text, err := written.Line()
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		again, err := ParseReply(text)
		if err != nil {
			t.Fatalf("%q became %q: %v", line, text, err)
		}
		got, err := ParseAccount(again.Text, account.Name)
		if diff := cmp.Diff(account, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Fatalf("%q became %q: %v\n%s", line, text, err, diff)
		}
	})
}

// FuzzParseAccount: what is believed is about the account that was asked for.
func FuzzParseAccount(f *testing.F) {
	for _, seed := range []string{`bob@test.com config 0 quota="200" fwd="fred@test.com"`, "bob@test.com", "bob@test.com config", "Bob@test.com /var/x 12 tohost=b1",
		`bob@test.com config 0 a="`, `bob@test.com tohost="b1"`, `bob@test.com config 0 homegen="x"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAccount(text, "bob@test.com")
		if err == nil && (a.Name != "bob@test.com" || !strings.HasPrefix(strings.ToLower(text), "bob@test.com") || a.Home != a.Attributes["tohost"]) {
			t.Errorf("%q: got %+v", text, a)
		}
		if err != nil && !errors.Is(err, ErrGarbage) {
			t.Errorf("%q: got %v", text, err)
		}
	})
}
