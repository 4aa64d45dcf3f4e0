package smtp

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"switchyard/internal/smtpd"
	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/lookup/resolve"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// aliases are added to the directory of a proxy.
func aliases(d *routertest.Directory) {
	for name, to := range map[string]string{
		"team": "anna,berta", "both": "team,dora,anna", "more": "berta dora", "detail": "anna+news",
		"ring": "gnir", "gnir": "ring", "gone": "nobody,nowhere", "shut": "closed", "half": "anna,closed,nobody",
		"abroad": "berta,Anna@Far.test", "only-abroad": "x@far.test", "lost": "anna,unlucky", "stray": "anna,erna",
		"to-partner": "info@partner.test", "two-foreign": "franz,gerda",
	} {
		d.Add(lookup.Account{Name: name + "@example.test", Attributes: map[string]string{"alias": to}}, "")
	}
	d.Add(lookup.Account{Name: "fwd@example.test", Home: "b2", Forwards: []string{"anna@example.test", "x@far.test"}}, "")
	d.Add(lookup.Account{Name: "*@catch.test", Attributes: map[string]string{"alias": "berta@example.test"}}, "")
	d.Add(lookup.Account{Name: "franz@example.test", Home: "f1"}, "")
	d.Add(lookup.Account{Name: "gerda@example.test", Home: "f2"}, "")
	d.Fail(func(_, name string) error {
		if strings.HasPrefix(name, "unlucky") {
			return lookup.Unavailable("search", errors.New("down"))
		}
		return nil
	})
}

// aliasProxy is a proxy that resolves, in front of two backends of ours and two
// foreign ones.
func aliasProxy(t *testing.T, o Options, stores ...*store) *routertest.Proxy {
	o.Domains = []string{"example.test", "catch.test"}
	o.Resolve = resolve.Options{Relayed: []string{"partner.test"}}
	p, d := inboundProxy(t, o, stores...)
	aliases(d)
	return p
}

// TestInboundAliases: what each backend is told for an address, and what the sender
// hears; one mailbox hears of a message once by each of its names.
func TestInboundAliases(t *testing.T) {
	const ok = "250 2.1.5 *"
	for name, c := range map[string]struct {
		to     []string
		want   []string
		b1, b2 string
	}{
		"two backends":                     {[]string{"Team@Example.test"}, []string{ok}, "anna@example.test", "berta@example.test"},
		"an alias of an alias":             {[]string{"both@example.test"}, []string{ok}, "anna@example.test dora@example.test", "berta@example.test"},
		"two aliases with one mailbox":     {[]string{"team@example.test", "more@example.test"}, []string{ok, ok}, "anna@example.test dora@example.test", "berta@example.test"},
		"an alias and who is behind it":    {[]string{"team@example.test", "ANNA@example.test"}, []string{ok, ok}, "anna@example.test", "berta@example.test"},
		"who is behind it, and the alias":  {[]string{"ANNA@example.test", "team@example.test"}, []string{ok, ok}, "ANNA@example.test", "berta@example.test"},
		"a detail":                         {[]string{"Anna+News@example.test"}, []string{ok}, "Anna+News@example.test", ""},
		"a detail behind an alias":         {[]string{"detail@example.test"}, []string{ok}, "anna+news@example.test", ""},
		"a detail of an alias":             {[]string{"team+x@example.test"}, []string{ok}, "anna@example.test", "berta@example.test"},
		"a detail and none":                {[]string{"anna+x@example.test", "anna@example.test"}, []string{ok, ok}, "anna+x@example.test anna@example.test", ""},
		"a catch-all":                      {[]string{"who@catch.test"}, []string{ok}, "", "berta@example.test"},
		"forwards are the home's":          {[]string{"fwd@example.test"}, []string{ok}, "", "fwd@example.test"},
		"a circle":                         {[]string{"ring@example.test"}, []string{"550 5.4.6 *ring@example.test -> gnir@example.test -> ring@example.test"}, "", ""},
		"nobody behind it":                 {[]string{"gone@example.test"}, []string{"550 5.1.1 *"}, "", ""},
		"all closed":                       {[]string{"shut@example.test"}, []string{"550 5.2.1 *"}, "", ""},
		"some closed, some gone":           {[]string{"half@example.test"}, []string{ok}, "anna@example.test", ""},
		"absent":                           {[]string{"nobody@example.test"}, []string{"550 5.1.1 *"}, "", ""},
		"absent with a detail":             {[]string{"nobody+x@example.test"}, []string{"550 5.1.1 *"}, "", ""},
		"not known now":                    {[]string{"unlucky@example.test"}, []string{"451 4.4.3 *"}, "", ""},
		"not known now, with a detail":     {[]string{"unlucky+x@example.test"}, []string{"451 4.4.3 *"}, "", ""},
		"a member not known now":           {[]string{"lost@example.test"}, []string{"451 4.4.3 *"}, "", ""},
		"a member's home is no backend":    {[]string{"stray@example.test"}, []string{"451 4.3.5 *"}, "", ""},
		"an unknown domain":                {[]string{"anna@far.test"}, []string{"550 5.7.1 relaying denied"}, "", ""},
		"a member in another domain":       {[]string{"abroad@example.test"}, []string{ok}, "", "berta@example.test Anna@Far.test!"},
		"all in another domain":            {[]string{"only-abroad@example.test"}, []string{ok}, "x@far.test!", ""},
		"a relayed domain":                 {[]string{"Info@partner.test"}, []string{ok}, "Info@partner.test!", ""},
		"a relayed domain behind an alias": {[]string{"to-partner@example.test", "info@PARTNER.test"}, []string{ok, ok}, "info@partner.test!", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b1, b2 := newStore(t, "b1"), newStore(t, "b2")
			p := aliasProxy(t, Options{}, b1, b2)
			script := helo + "C: MAIL FROM:<x@far.test>\nS: 250 *\n"
			accepted := false
			for i, to := range c.to {
				script += "C: RCPT TO:<" + to + ">\nS: " + c.want[i] + "\n"
				accepted = accepted || c.want[i] == ok
			}
			if accepted {
				script += "C: DATA\nS: 354 *\nC: x\nC: .\nS: 250 *\n"
			}
			p.Play(script + "C: QUIT\nS: 221 *")
			p.Session()
			for _, s := range []struct {
				store *store
				want  string
			}{{b1, c.b1}, {b2, c.b2}} {
				got := ""
				if letters := s.store.letters(); len(letters) == 1 {
					got = strings.Join(letters[0].to, " ")
				} else if len(letters) > 1 {
					t.Fatalf("%s got %d letters", s.store.name, len(letters))
				}
				if got != s.want {
					t.Errorf("%s got a letter for %q, want %q", s.store.name, got, s.want)
				}
			}
		})
	}
}

// TestInboundUTF8Alias: an alias outside of ASCII leads where it should.
func TestInboundUTF8Alias(t *testing.T) {
	b1 := newStore(t, "b1")
	p, d := inboundProxy(t, inboundOptions, b1)
	d.Add(lookup.Account{Name: "größe@example.test", Attributes: map[string]string{"alias": "anna, dora+ä"}}, "")
	p.Play(helo + "C: MAIL FROM:<x@far.test> SMTPUTF8\nS: 250 *\nC: RCPT TO:<größe@example.test>\nS: 250 *\nC: DATA\nS: 354 *\nC: x\nC: .\nS: 250 *\nC: QUIT\nS: 221 *")
	p.Session()
	if got := b1.letters(); len(got) != 1 || fmt.Sprint(got[0].to) != "[anna@example.test dora+ä@example.test]" {
		t.Errorf("b1 got %q", got)
	}
}

// TestInboundAliasFaults: what one backend says at RCPT about a member of an alias.
// Not now puts the alias off as a whole, and nobody gets the message by it; no is
// reported while another takes the mail; and beside an alias that is put off others
// get theirs.
func TestInboundAliasFaults(t *testing.T) {
	for name, c := range map[string]struct {
		says  error
		want  string
		alone string // when all members say so
	}{
		"not now":   {smtpd.NewReply(452, "4.2.2", "mailbox full"), "452 4.2.2 *", "452 4.2.2 *"},
		"no":        {smtpd.NewReply(550, "5.2.1", "closed"), "250 *", "550 5.2.1 *"},
		"elsewhere": {smtpd.NewReply(451, "4.1.6", "moved"), "451 4.3.0 *", "451 4.3.0 *"},
		"rubbish":   {smtpd.NewReply(503, "5.5.1", "what?"), "451 4.3.5 *", "451 4.3.5 *"},
		"lost":      {io.EOF, "451 4.4.1 *", "451 4.4.1 *"},
	} {
		t.Run(name, func(t *testing.T) {
			b1, b2 := newStore(t, "b1"), newStore(t, "b2")
			b2.rcpt = func(address string) error {
				if address == "berta@example.test" {
					return c.says
				}
				return nil
			}
			p := aliasProxy(t, Options{}, b1, b2)
			p.Play(helo + `
				C: MAIL FROM:<anna@far.test>
				S: 250 *
				C: RCPT TO:<dora@example.test>
				S: 250 *
				C: RCPT TO:<team@example.test> ORCPT=rfc822;t@far.test
				S: ` + c.want + `
				C: RCPT TO:<who@catch.test>
				S: ` + c.alone + `
				C: DATA
				S: 354 *
				C: Message-ID: <1@far.test>
				C: Subject: secret
				C:
				C: x
				C: .
				S: 250 *
				C: QUIT
				S: 221 *`)
			p.Session()
			if got := b2.letters(); len(got) != 0 {
				t.Errorf("b2 got %q", got)
			}
			letters := b1.letters()
			if name != "no" {
				if len(letters) != 1 || fmt.Sprint(letters[0].to) != "[dora@example.test]" {
					t.Errorf("b1 got %q, want Dora's alone", letters)
				}
				return
			}
			if len(letters) != 2 || fmt.Sprint(letters[0].to, letters[1].to) != "[dora@example.test anna@example.test] [anna@far.test!]" {
				t.Fatalf("b1 got %q, want Dora's and Anna's, and a report", letters)
			}
			report := letters[1]
			for _, want := range []string{
				"To: <anna@far.test>\r\n", "Auto-Submitted: auto-replied\r\n", "multipart/report; report-type=delivery-status",
				"Reporting-MTA: dns; example.test\r\n\r\nOriginal-Recipient: rfc822; t@far.test\r\nFinal-Recipient: rfc822; berta@example.test\r\nAction: failed\r\nStatus: 5.2.1\r\nDiagnostic-Code: smtp; 550 5.2.1 closed\r\n",
				"text/rfc822-headers", "Subject: secret\r\n",
			} {
				if !strings.Contains(report.body, want) {
					t.Errorf("the report lacks %q: %q", want, report.body)
				}
			}
			if report.from != "" || strings.Contains(report.body, "\r\nx\r\n") || !strings.Contains(report.trace, "Received: ") || !strings.Contains(report.trace, "\r\nDate: ") {
				t.Errorf("the report: %q", report)
			}
		})
	}
}

// TestInboundSuccess: the wish to hear of success goes to one of those behind an
// alias, and the others' wishes are as they were.
func TestInboundSuccess(t *testing.T) {
	for notify, others := range map[string]string{"SUCCESS": "NEVER", "SUCCESS,FAILURE,DELAY": "FAILURE,DELAY", "FAILURE": "FAILURE", "NEVER": "NEVER"} {
		t.Run(notify, func(t *testing.T) {
			b1, b2 := newStore(t, "b1"), newStore(t, "b2")
			p := aliasProxy(t, Options{}, b1, b2)
			p.Play(helo + `
				C: MAIL FROM:<x@far.test>
				S: 250 *
				C: RCPT TO:<team@example.test> NOTIFY=` + notify + `
				S: 250 *
				C: QUIT
				S: 221 *`)
			p.Session()
			if got, want := b1.heard(), "anna@example.test NOTIFY="+notify; !strings.HasSuffix(got, want) {
				t.Errorf("b1 heard %q, want %q", got, want)
			}
			if got, want := b2.heard(), "berta@example.test NOTIFY="+others; !strings.HasSuffix(got, want) {
				t.Errorf("b2 heard %q, want %q", got, want)
			}
		})
	}
}

// TestInboundReports: whether a mix of yes and no is accepted, and what is reported:
// nothing to the null sender or to one who does not want to hear of it, the whole
// message to one who asked for it; and without a queue that takes the report the
// sender has to come back.
func TestInboundReports(t *testing.T) {
	for name, c := range map[string]struct {
		mail, rcpt string
		want       string
		reports    int
		has        string
		queue      func(address string) error
	}{
		"a sender":         {"<x@far.test>", "", "250 *", 1, "Message-ID: <1@far.test>\r\n\r\n--", nil},
		"the whole":        {"<x@far.test> RET=FULL ENVID=e+2B1", "", "250 *", 1, "Message-ID: <1@far.test>\r\n\r\nbody\r\n\r\n--", nil},
		"an envelope's id": {"<x@far.test> ENVID=e+2B1", "", "250 *", 1, "\r\nOriginal-Envelope-Id: e+1\r\n", nil},
		"the null sender":  {"<>", "", "250 *", 0, "", nil},
		"never":            {"<x@far.test>", " NOTIFY=NEVER", "250 *", 0, "", nil},
		"success alone":    {"<x@far.test>", " NOTIFY=SUCCESS,DELAY", "250 *", 0, "", nil},
		"failure":          {"<x@far.test>", " NOTIFY=DELAY,FAILURE", "250 *", 1, "", nil},
		"a full queue":     {"<x@far.test>", "", "451 4.3.0 *", 0, "", func(string) error { return smtpd.NewReply(451, "4.3.0", "full") }},
		"no relay":         {"<x@far.test>", "", "451 4.3.0 *", 0, "", func(string) error { return smtpd.NewReply(451, "4.3.5", "no relay") }},
		"lost":             {"<x@far.test>", "", "451 4.3.0 *", 0, "", func(string) error { return io.EOF }},
	} {
		t.Run(name, func(t *testing.T) {
			b1, b2 := newStore(t, "b1"), newStore(t, "b2")
			b1.rcpt = func(address string) error {
				if c.queue != nil && address == "x@far.test" {
					return c.queue(address)
				}
				return nil
			}
			b2.data = outcomes["5xx"]
			p := aliasProxy(t, Options{}, b1, b2)
			p.Play(helo + `
				C: MAIL FROM:` + c.mail + `
				S: 250 *
				C: RCPT TO:<anna@example.test>
				S: 250 *
				C: RCPT TO:<berta@example.test>` + c.rcpt + `
				S: 250 *
				C: DATA
				S: 354 *
				C: Message-ID: <1@far.test>
				C:
				C: body
				C: .
				S: ` + c.want + `
				C: QUIT
				S: 221 *`)
			p.Session()
			letters := b1.letters()
			if len(letters) != 1+c.reports {
				t.Fatalf("b1 got %q, want %d reports", letters, c.reports)
			}
			if c.reports > 0 && !strings.Contains(letters[1].body, c.has) {
				t.Errorf("the report lacks %q: %q", c.has, letters[1].body)
			}
		})
	}
}

// TestInboundForeignAlias: an alias that leads to two foreign backends goes to one of
// them, and to the other by a queue; one member that is put off takes the others back,
// since a foreign backend would have them twice.
func TestInboundForeignAlias(t *testing.T) {
	b1, f1, f2 := newStore(t, "b1"), newStore(t, "f1"), newStore(t, "f2")
	f1.foreign, f2.foreign = true, true
	p := aliasProxy(t, Options{}, b1, f1, f2)
	const rest = "C: DATA\nS: 354 *\nC: x\nC: .\nS: 250 *\n"
	p.Play(helo + "C: MAIL FROM:<x@far.test>\nS: 250 *\nC: RCPT TO:<two-foreign@example.test>\nS: 250 *\n" + rest + "C: QUIT\nS: 221 *")
	p.Session()
	if got := fmt.Sprint(f1.letters()[0].to, len(f2.letters()), b1.letters()[0].to); got != "[franz@example.test] 0 [gerda@example.test!]" {
		t.Errorf("got %s", got)
	}

	full := newStore(t, "f1")
	full.foreign = true
	full.rcpt = func(address string) error {
		if address == "fritz@example.test" {
			return smtpd.NewReply(452, "4.2.2", "mailbox full")
		}
		return nil
	}
	b1 = newStore(t, "b1")
	p, d := inboundProxy(t, inboundOptions, b1, full)
	aliases(d)
	d.Add(lookup.Account{Name: "mixed@example.test", Attributes: map[string]string{"alias": "franz+a,anna,fritz"}}, "")
	d.Add(lookup.Account{Name: "fritz@example.test", Home: "f1"}, "")
	p.Play(helo + `
		C: MAIL FROM:<x@far.test>
		S: 250 *
		C: RCPT TO:<franz@example.test>
		S: 250 *
		C: RCPT TO:<mixed@example.test>
		S: 452 4.2.2 *
		C: RCPT TO:<franz+b@example.test>
		S: 250 *
		` + rest + `
		C: QUIT
		S: 221 *`)
	p.Session()
	if got := full.letters(); len(got) != 1 || fmt.Sprint(got[0].to) != "[franz@example.test franz+b@example.test]" || len(b1.letters()) != 0 {
		t.Errorf("f1 got %q, b1 %q", got, b1.letters())
	}
}

// TestLMTP: each recipient gets its own answer, in the order of the commands; what two
// have in common is delivered once.
func TestLMTP(t *testing.T) {
	b1, b2 := newStore(t, "b1"), newStore(t, "b2")
	b2.data = func(_ *wire.Conn, body io.Reader, n int) []smtpd.Reply {
		io.Copy(io.Discard, body)
		return smtpd.Repeat(smtpd.NewReply(452, "4.2.2", "mailbox full"), n)
	}
	protocol, err := NewLMTP(Options{Domains: []string{"example.test"}, Deliverers: Deliverers{Networks: loopback}})
	if err != nil {
		t.Fatal(err)
	}
	c := config(protocol, upstream.LMTP)
	c.Backends = []upstream.Backend{b1.backend(), b2.backend()}
	aliases(c.Directory.(*routertest.Directory))
	p := routertest.Start(t, c)
	p.Play(`
		S: 220 px1.example.test LMTP
		C: EHLO filter.test
		S: 500 5.5.1 *
		C: LHLO filter.test
		S: 250-px1.example.test
		S: 250-PIPELINING
		S: 250-8BITMIME
		S: 250-ENHANCEDSTATUSCODES
		S: 250-CHUNKING
		S: 250-SMTPUTF8
		S: 250-DSN
		S: 250-SIZE
		S: 250 LIMITS RCPTMAX=100
		C: MAIL FROM:<x@far.test>
		C: RCPT TO:<team@example.test>
		C: RCPT TO:<anna@example.test>
		C: RCPT TO:<nobody@example.test>
		C: RCPT TO:<berta@example.test>
		C: RCPT TO:<ANNA@example.test>
		C: RCPT TO:<dora@example.test>
		C: DATA
		S: 250 *
		S: 250 *
		S: 250 *
		S: 550 5.1.1 *
		S: 250 *
		S: 250 *
		S: 250 *
		S: 354 *
		C: x
		C: .
		S: 451 4.3.0 *
		S: 250 2.0.0 accepted as *
		S: 451 4.3.0 *
		S: 250 2.0.0 accepted as *
		S: 250 2.0.0 accepted as *
		C: QUIT
		S: 221 *`)
	check(t, p.Session(), map[string]any{"protocol": "lmtp", "messages": int64(1)})
	if got := b1.letters(); len(got) != 1 || fmt.Sprint(got[0].to) != "[anna@example.test dora@example.test]" || !strings.Contains(got[0].trace, "with LMTP id") {
		t.Errorf("b1 got %q", got)
	}
}

// TestLMTPDeliverers: mail is taken from the operator's own servers and from nobody
// else: from their networks, or with their login, which must not go in clear.
func TestLMTPDeliverers(t *testing.T) {
	const login = "AGZpbHRlcgBzaWV2ZQ==" // filter, sieve
	const lhlo = "S: 220 *\nC: LHLO filter.test\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\n"
	const mail = "C: MAIL FROM:<x@far.test>\nS: 250 *\nC: RCPT TO:<anna@example.test>\nS: 250 *\nC: QUIT\nS: 221 *"
	for name, c := range map[string]struct {
		who    Deliverers
		clear  bool
		script string
	}{
		"a network":         {Deliverers{Networks: loopback}, false, "S: 250 LIMITS *\n" + mail},
		"a stranger":        {Deliverers{}, true, "S: 250 LIMITS *\nC: MAIL FROM:<x@far.test>\nS: 550 5.7.1 *\nC: AUTH PLAIN " + login + "\nS: 502 *\nC: QUIT\nS: 221 *"},
		"no login":          {Deliverers{Name: "filter", Secret: "sieve"}, true, "S: 250-LIMITS *\nS: 250 AUTH PLAIN LOGIN\nC: MAIL FROM:<x@far.test>\nS: 530 *\nC: QUIT\nS: 221 *"},
		"a login":           {Deliverers{Name: "filter", Secret: "sieve"}, true, "S: 250-LIMITS *\nS: 250 AUTH PLAIN LOGIN\nC: AUTH PLAIN " + login + "\nS: 235 *\n" + mail},
		"another login":     {Deliverers{Name: "filter", Secret: "sieves"}, true, "S: 250-LIMITS *\nS: 250 AUTH PLAIN LOGIN\nC: AUTH PLAIN " + login + "\nS: 535 5.7.8 *\nC: MAIL FROM:<x@far.test>\nS: 530 *\nC: QUIT\nS: 221 *"},
		"the secret's name": {Deliverers{Name: "other", Secret: "sieve"}, true, "S: 250-LIMITS *\nS: 250 AUTH PLAIN LOGIN\nC: AUTH PLAIN " + login + "\nS: 535 5.7.8 *\nC: QUIT\nS: 221 *"},
		"a login in clear":  {Deliverers{Name: "filter", Secret: "sieve"}, false, "S: 250 LIMITS *\nC: AUTH PLAIN " + login + "\nS: 538 *\nC: QUIT\nS: 221 *"},
	} {
		t.Run(name, func(t *testing.T) {
			b1 := newStore(t, "b1")
			protocol, err := NewLMTP(Options{Domains: []string{"example.test"}, Deliverers: c.who})
			if err != nil {
				t.Fatal(err)
			}
			rc := config(protocol, upstream.LMTP)
			rc.Listener = router.Listener{AllowCleartextLogin: c.clear}
			rc.Backends = []upstream.Backend{b1.backend()}
			p := routertest.Start(t, rc)
			p.Play(lhlo + c.script)
			p.Session()
		})
	}
}
