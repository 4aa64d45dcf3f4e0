package sieve

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"switchyard/internal/message"
)

// world is what scripts of the tests see.
type world struct {
	scripts   map[string]string
	mailboxes map[string]bool
	seen      map[string]bool
	broken    error
}

func (w *world) Script(name string) (string, bool, error) {
	s, ok := w.scripts[name]
	return s, ok, w.broken
}
func (w *world) MailboxExists(name string) (bool, error) { return w.mailboxes[name], w.broken }
func (w *world) MailboxOfID(id string) (string, error) {
	if id == "F1" {
		return "Known", w.broken
	}
	return "", w.broken
}
func (w *world) MailboxOfUse(use string) (string, error) {
	if use == `\Junk` {
		return "Spam", w.broken
	}
	return "", w.broken
}
func (w *world) Seen(id string, _ time.Duration, _ bool) (bool, error) {
	return w.seen[id], w.broken
}

func newWorld() *world {
	return &world{scripts: map[string]string{}, mailboxes: map[string]bool{"INBOX": true, "Work": true}, seen: map[string]bool{"\x00old": true}}
}

const sample = `Return-Path: <coyote@desert.example.org>
Received: from b.example by c.example; Tue, 01 Apr 1997 09:06:32 -0500
Received: from a.example by b.example; Tue, 01 Apr 1997 09:06:31 -0500
Date: Tue, 1 Apr 1997 09:06:31 -0800 (PST)
From: Coyote <coyote@desert.example.org>
To: roadrunner@acme.example.com, "Ann" <ann+news@example.test>
Cc: =?utf-8?q?J=C3=BCrgen?= <j@example.test>
Subject: I have a present for you
X-Priority: 15
Message-ID: <1@desert.example.org>
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Look, I'm sorry about the whole anvil thing. Gr=C3=BC=C3=9Fe!
--b
Content-Type: text/html

<b>the html part</b>
--b
Content-Type: application/json

{"secret": 1}
--b--
`

func mailOf(t testing.TB, text string) Mail {
	t.Helper()
	text = strings.ReplaceAll(text, "\n", "\r\n")
	r := strings.NewReader(text)
	root, err := message.Parse(r, int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	return Mail{Body: r, Size: int64(len(text)), Root: root}
}

var noon = time.Date(2026, 11, 25, 12, 30, 45, 0, time.FixedZone("", 3600))

func environment() Environment {
	return Environment{Name: "Switchyard", Version: "1", Domain: "example.test", Host: "b1", Now: noon}
}

// outcome writes a result in one line.
func outcome(m Mail, res Result) string {
	var out []string
	edited := func(h *Header) string {
		if h == nil {
			return ""
		}
		r, size := h.Message(m)
		b, err := io.ReadAll(io.NewSectionReader(r, 0, size))
		if err != nil {
			return err.Error()
		}
		line, _, _ := strings.Cut(string(b), "\r\n")
		return " with " + line
	}
	flags := func(f []string) string {
		if len(f) == 0 {
			return ""
		}
		return " (" + strings.Join(f, " ") + ")"
	}
	for _, a := range res.Actions {
		switch a := a.(type) {
		case Keep:
			out = append(out, "keep"+flags(a.Flags)+edited(a.Header))
		case FileInto:
			create := ""
			if a.Create {
				create = " create"
			}
			out = append(out, "fileinto "+a.Mailbox+create+flags(a.Flags)+edited(a.Header))
		case Redirect:
			out = append(out, "redirect "+a.Address+edited(a.Header))
		case Reject:
			out = append(out, fmt.Sprintf("reject %q %v", a.Reason, a.Strict))
		case Vacation:
			out = append(out, fmt.Sprintf("vacation to %s from %q subject %q %q %v", a.To, a.From, a.Subject, a.Reason, a.Days))
		}
	}
	if res.Err != nil {
		out = append(out, "error: "+res.Err.Error())
	}
	if len(out) == 0 {
		return "discard"
	}
	return strings.Join(out, "; ")
}

// scriptCase is a script and what becomes of the sample.
type scriptCase struct{ script, want string }

func scriptCases() []scriptCase {
	return []scriptCase{
		{``, "keep"},
		{`keep;`, "keep"},
		{`discard;`, "discard"},
		{`discard; keep;`, "keep"},
		{`stop; discard;`, "keep"},
		{`# comment` + "\n" + `/* two */ if true { discard; } else { keep; }`, "discard"},
		{`redirect "a@b.example";`, "redirect a@b.example"},
		{`redirect "a@b.example"; redirect "A@B.example"; keep;`, "redirect a@b.example; redirect A@B.example; keep"},
		{`redirect "a@b.example"; redirect "a@B.Example"; keep;`, "redirect a@b.example; keep"},
		{`require "copy"; redirect :copy "a@b.example";`, "redirect a@b.example; keep"},
		{`require "fileinto"; fileinto "Work"; fileinto "Work"; fileinto "Other";`, "fileinto Work; fileinto Other"},
		{`require "fileinto"; fileinto "inbox"; keep;`, "fileinto inbox"},
		{`require ["fileinto","copy","mailbox"]; fileinto :copy :create "New";`, "fileinto New create; keep"},
		{`require ["fileinto","mailboxid"]; fileinto :mailboxid "F1" "x"; fileinto :mailboxid "F2" "y";`, "fileinto Known; fileinto y"},
		{`require ["fileinto","special-use"]; fileinto :specialuse "\\Junk" "x";`, "fileinto Spam"},
		{`require "reject"; reject "go away";`, `reject "go away" false`},
		{`require "ereject"; ereject text:` + "\ngo\n..away\n.\n;", `reject "go\r\n.away\r\n" true`},
		{`require "reject"; keep; reject "x";`, "keep; error: a message that is refused cannot have other actions"},

		// Tests of the base (RFC 5228 §5).
		{`if header :is "subject" "i HAVE a present for you" { discard; }`, "discard"},
		{`if header :contains ["x","subject"] ["zzz","present"] { discard; }`, "discard"},
		{`if header :matches "Subject" "I have a * for ???" { discard; }`, "discard"},
		{`if header :matches "Subject" "I have a * for ??" { discard; }`, "keep"},
		{`if header :comparator "i;octet" :contains "subject" "PRESENT" { discard; }`, "keep"},
		{`require "comparator-i;ascii-numeric"; if header :comparator "i;ascii-numeric" :is "x-priority" "015" { discard; }`, "discard"},
		{`if header :contains "cc" "jürgen" { discard; }`, "discard"},
		{`require "comparator-i;unicode-casemap"; if header :comparator "i;unicode-casemap" :contains "cc" "JÜRGEN" { discard; }`, "discard"},
		{`if address :is :domain "from" "DESERT.example.org" { discard; }`, "discard"},
		{`if address :localpart ["to","cc"] "roadrunner" { discard; }`, "discard"},
		{`if address :all :is "to" "ann+news@example.test" { discard; }`, "discard"},
		{`require "subaddress"; if address :detail "to" "news" { discard; }`, "discard"},
		{`require "subaddress"; if address :user "to" "ann" { discard; }`, "discard"},
		{`require ["subaddress","envelope"]; if envelope :detail "to" "box" { discard; }`, "discard"},
		{`require "envelope"; if envelope :domain "from" "desert.example.org" { discard; }`, "discard"},
		{`if exists ["from","x-priority"] { discard; }`, "discard"},
		{`if exists ["from","nothing"] { discard; }`, "keep"},
		{`if size :over 1K { keep; } elsif size :under 1K { discard; }`, "discard"},
		{`if allof (true, not false, anyof (false, true)) { discard; }`, "discard"},
		{`if false { keep; } elsif false { keep; } else { discard; }`, "discard"},

		// Variables (RFC 5229).
		{`require ["variables","fileinto"]; if header :matches "subject" "* have * for *" { fileinto "${1}/${2}/${3}/${4}${0}"; }`,
			"fileinto I/a present/you/I have a present for you"},
		{`require ["variables","fileinto"]; set "A" "x"; set :upperfirst :lower "b" "${a}YZ"; fileinto "${B}${unknown}${";`, "fileinto Xyz${"},
		{`require ["variables","fileinto"]; set :length "n" "Grüße"; set :quotewildcard "q" "a*b"; fileinto "${n} ${q}";`, `fileinto 5 a\*b`},
		{`require ["variables","fileinto","encoded-character"]; set "dollar" "$"; fileinto "${dollar}{a} ${hex:24 40} ${unicode:20ac}";`, "fileinto ${a} $@ €"},
		{`require ["variables"]; if string :is "${missing}" "" { discard; }`, "discard"},
		{`require ["variables","relational"]; if string :count "eq" ["a","","b"] "2" { discard; }`, "discard"},
		{`require ["variables","regex","fileinto"]; if header :regex "subject" "(have) a ([a-z]+)" { fileinto "${1} ${2}"; }`, "fileinto have present"},
		{`require ["regex"]; if header :regex "subject" ["^nothing", "^i HAVE .* you$"] { discard; }`, "discard"},

		// Relations (RFC 5231).
		{`require ["relational","comparator-i;ascii-numeric"]; if header :value "gt" :comparator "i;ascii-numeric" "x-priority" "9" { discard; }`, "discard"},
		{`require ["relational","comparator-i;ascii-numeric"]; if header :count "eq" :comparator "i;ascii-numeric" "received" "2" { discard; }`, "discard"},
		{`require ["relational","comparator-i;ascii-numeric"]; if address :count "ge" :comparator "i;ascii-numeric" ["to","cc"] ["3"] { discard; }`, "discard"},

		// Flags (RFC 5232).
		{`require "imap4flags"; setflag "\\Seen"; addflag ["work urgent","\\seen"]; removeflag "urgent"; keep;`, `keep (\Seen work)`},
		{`require "imap4flags"; addflag "\\Flagged";`, `keep (\Flagged)`},
		{`require ["imap4flags","fileinto"]; setflag "a"; fileinto :flags ["b c"] "x"; keep :flags "";`, "fileinto x (b c); keep"},
		{`require ["imap4flags","variables"]; setflag "v" "b"; addflag "v" "c"; if hasflag :contains "v" "B" { keep :flags "${v}"; }`, "keep (b c)"},
		{`require ["imap4flags"]; setflag "b \\Deleted"; if hasflag ["x", "\\deleted z"] { discard; }`, "discard"},

		// Body (RFC 5173).
		{`require "body"; if body :text :contains "ANVIL" { discard; }`, "discard"},
		{`require "body"; if body :contains "grüße" { discard; }`, "discard"},
		{`require "body"; if body :text :contains "secret" { discard; }`, "keep"},
		{`require "body"; if body :content "application" :contains "secret" { discard; }`, "discard"},
		{`require "body"; if body :content "text/html" :matches "*<b>*</b>*" { discard; }`, "discard"},
		{`require "body"; if body :raw :contains "Gr=C3=BC" { discard; }`, "discard"},

		// Dates (RFC 5260).
		{`require "date"; if date :zone "-0800" "date" "hour" "09" { discard; }`, "discard"},
		{`require "date"; if date :originalzone "date" "iso8601" "1997-04-01T09:06:31-08:00" { discard; }`, "discard"},
		{`require "date"; if date "date" "julian" "50539" { discard; }`, "discard"},
		{`require ["date","index"]; if date :index 1 :last :originalzone "received" "second" "31" { discard; }`, "discard"},
		{`require ["date","relational"]; if allof (currentdate :value "ge" "date" "2026-11-25", currentdate "weekday" "3", currentdate :zone "+0000" "time" "11:30:45") { discard; }`, "discard"},
		{`require "date"; if currentdate "std11" "Wed, 25 Nov 2026 12:30:45 +0100" { discard; }`, "discard"},

		// What else there is.
		{`require "environment"; if environment :is "location" "MDA" { discard; }`, "discard"},
		{`require "environment"; if environment :contains "nothing" "" { discard; }`, "keep"},
		{`require "duplicate"; if duplicate { discard; } if duplicate { discard; }`, "keep"},
		{`require "duplicate"; if duplicate :uniqueid "old" { discard; }`, "discard"},
		{`require "duplicate"; if duplicate :handle "a" { stop; } if duplicate :handle "b" { discard; }`, "keep"},
		{`require "mailbox"; if mailboxexists ["Work","INBOX"] { discard; }`, "discard"},
		{`require "mailbox"; if mailboxexists ["Work","Nowhere"] { discard; }`, "keep"},
		{`require "special-use"; if allof (specialuse_exists "\\Junk", not specialuse_exists "Other" "\\Junk") { discard; }`, "discard"},
		{`require "ihave"; if ihave "variables" { set "a" "b"; discard; }`, "discard"},
		{`require "ihave"; if ihave "x-telepathy" { telepathy "x" :deep; } else { discard; }`, "discard"},
		{`require "ihave"; if not ihave "x-telepathy" { error "no telepathy"; }`, "keep; error: no telepathy"},
		{`require ["editheader"]; addheader "X-A" "1"; keep;`, "keep with X-A: 1"},
		{`require ["editheader","fileinto","copy"]; fileinto :copy "before"; deleteheader "Return-Path"; deleteheader :index 1 "Received"; addheader "Subject" "Grüße";`,
			"fileinto before; keep with Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?="},
		{`require ["editheader"]; deleteheader :contains "subject" "nothing"; if exists "subject" { deleteheader :matches "subject" "*present*"; } if exists "subject" { keep; } else { discard; }`, "discard"},
	}
}

// TestScripts runs scripts over one message and holds what becomes of it.
func TestScripts(t *testing.T) {
	m := mailOf(t, sample)
	for _, c := range scriptCases() {
		script, err := Compile(c.script)
		if err != nil {
			t.Errorf("%s\n%v", c.script, err)
			continue
		}
		res := script.Run(m, Envelope{From: "coyote@desert.example.org", To: "ann+box@example.test"}, environment(), newWorld())
		if got := outcome(m, res); got != c.want {
			t.Errorf("%s\ngot  %s\nwant %s", c.script, got, c.want)
		}
	}
}

// TestMistakes holds that what is wrong is told with its place.
func TestMistakes(t *testing.T) {
	for script, want := range map[string]string{
		"keep":                                    "line 1, column 5: a semicolon is missing behind keep",
		"\n  fileinto \"x\";":                     `line 2, column 3: fileinto needs require "fileinto"`,
		"require \"telepathy\";":                  `line 1, column 9: the extension "telepathy" is not supported`,
		"keep; require \"copy\";":                 "line 1, column 7: require comes before all other commands",
		"jump;":                                   "line 1, column 1: unknown command jump",
		"if maybe { keep; }":                      "line 1, column 4: unknown test maybe",
		"if true { keep; ":                        "line 1, column 9: this { has no }",
		"keep; }":                                 "line 1, column 7: a } without its {",
		"else { keep; }":                          "line 1, column 1: else without an if before it",
		"if true { } keep; else { }":              "line 1, column 19: else without an if before it",
		"if true { } else { } else { }":           "line 1, column 22: else without an if before it",
		"keep \"x\";":                             "line 1, column 6: keep has an argument too many",
		"redirect \"nobody\";":                    `line 1, column 1: "nobody" is no address`,
		"redirect [\"a@b\",\"c@d\"];":             "line 1, column 10: redirect wants one string here, not a list",
		"redirect 7;":                             "line 1, column 10: redirect wants an address here",
		"redirect;":                               "line 1, column 1: redirect lacks an address",
		"redirect :copy \"a@b.c\";":               `line 1, column 10: :copy needs require "copy"`,
		"if header :is :contains \"a\" \"b\" { }": "line 1, column 15: header takes one match type",
		"if header :is :is \"a\" \"b\" { }":       "line 1, column 15: :is is there twice",
		"if header :like \"a\" \"b\" { }":         "line 1, column 11: header has no :like",
		"if header \"a b\" \"c\" { }":             `line 1, column 4: "a b" is no name of a header field`,
		"if header :regex \"a\" \"b\" { }":        `line 1, column 11: :regex needs require "regex"`,
		"require \"regex\"; if header :regex \"a\" \"(\" { }": `line 1, column 39: "(" is no regular expression: error parsing regexp: missing closing ): ` + "`(`",
		"if size 10 { }":         "line 1, column 4: size takes :over or :under",
		"if size :over 10X { }":  "line 1, column 15: a number is followed by letters: only K, M and G may be",
		"if not (true) { }":      "line 1, column 4: not takes one test",
		"if allof { }":           "line 1, column 4: allof takes tests in parentheses",
		"if true, false { }":     "line 1, column 8: a semicolon is missing behind if",
		"\"x\";":                 "line 1, column 1: the name of a command or a test is missing",
		"keep; \"abc":            "line 1, column 7: a string does not end",
		"redirect text:\nabc\n":  "line 1, column 10: the text does not end: a line with only a dot is missing",
		"/* x":                   "line 1, column 1: a comment does not end",
		"redirect \"\xff@b.c\";": "line 1, column 10: a string is not UTF-8",
		"if header :comparator \"i;klingon\" \"a\" \"b\" {}":      `line 1, column 23: the comparator "i;klingon" is not supported`,
		"require \"date\"; if currentdate \"eon\" \"1\" {}":       `line 1, column 20: a date has no part "eon"`,
		"require \"variables\"; set \"1a\" \"b\";":                `line 1, column 22: "1a" is no variable's name`,
		"require [\"variables\"]; set :lower :upper \"a\" \"b\";": "line 1, column 35: :lower and :upper exclude each other",
		"require \"vacation\"; vacation :days 3 :days 4 \"x\";":   "line 1, column 38: :days is there twice",
		"require \"editheader\"; addheader \"X-Ü\" \"1\";":        `line 1, column 23: "X-Ü" is no name of a header field`,
		"require \"include\"; include :global \"x\";":             "line 1, column 20: there are no global scripts, only :personal ones",
		"@":                             `line 1, column 1: '@' has no meaning here`,
		strings.Repeat("if true {", 40): "line 1, column 289: blocks in blocks, more than 32 deep",
		"if " + strings.Repeat("not ", 40) + "true {}": "line 1, column 132: tests in tests, more than 32 deep",
	} {
		if _, err := Compile(script); err == nil || err.Error() != want {
			t.Errorf("%.60s\ngot  %v\nwant %s", script, err, want)
		}
	}
}
