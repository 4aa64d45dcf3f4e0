package resolve_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/resolve"
)

var down = lookup.Unavailable("script", errors.New("unplugged"))

// record is an account that says how the mail for it goes: "a@x, b" makes an
// alias, "> a@x" a mailbox with forwards, ">> a@x" one that keeps nothing, and
// "" a mailbox.
func record(name, text string) lookuptest.Record {
	a := lookup.Account{Name: name, Home: "b1"}
	switch {
	case strings.HasPrefix(text, ">>"):
		a.Forwards = strings.Fields(text[2:])
		a.Attributes = map[string]string{"fwdonly": "Yes"}
	case strings.HasPrefix(text, ">"):
		a.Forwards = strings.Fields(text[1:])
	case text == "closed" || text == "suspended":
		a.Status = lookup.Status(text)
	case text != "":
		a.Attributes = map[string]string{"alias": text}
	}
	return lookuptest.Record{Account: a}
}

func directory(records map[string]string) *lookuptest.Scripted {
	d := lookuptest.NewScripted()
	for name, text := range records {
		if text == "down" {
			d.FailName(name, down)
			continue
		}
		d.Set(record(name, text))
	}
	return d
}

// short writes a result as the tables do: mailboxes by name, with their detail
// behind a slash, other addresses with their kind.
func short(r resolve.Result) string {
	var out []string
	for _, t := range r.Targets {
		switch {
		case t.Kind == resolve.Mailbox && t.Detail != "":
			out = append(out, t.Account.Name+"/"+t.Detail)
		case t.Kind == resolve.Mailbox:
			out = append(out, t.Account.Name)
		default:
			out = append(out, fmt.Sprintf("%s:%s", t.Kind, t.Address))
		}
	}
	for _, d := range r.Dangling {
		out = append(out, "dangling:"+d)
	}
	return strings.Join(out, " ")
}

func TestResolve(t *testing.T) {
	records := map[string]string{
		"anna@example.test":    "",
		"berta@example.test":   "> anna@example.test Out@Elsewhere.test",
		"carla@example.test":   ">> carla@home.test",
		"dora@example.test":    ">> dora@example.test copy@elsewhere.test",
		"emil+x@example.test":  "",
		"emil@example.test":    "",
		"sales@example.test":   "anna@example.test, berta@example.test\n\tpartner@elsewhere.test",
		"local@example.test":   "anna",
		"deep@example.test":    "sales@example.test, local@example.test",
		"detail@example.test":  "anna+lists@example.test",
		"half@example.test":    "anna@example.test nobody@example.test |/bin/sh /etc/passwd :include:/x <> b<c@d",
		"empty@example.test":   "nobody@example.test",
		"nothing@example.test": " , ",
		"passed@example.test":  "x@relayed.test, X@relayed.test",
		"shut@example.test":    "closed",
		"team@example.test":    "shut@example.test, anna@example.test",
		"allshut@example.test": "shut@example.test",
		"later@example.test":   "suspended",
		"down@example.test":    "down",
		"partly@example.test":  "anna@example.test, down@example.test",
		"loop@example.test":    "one@example.test",
		"one@example.test":     "two@example.test",
		"two@example.test":     "loop@example.test",
		"self@example.test":    "self@example.test",
		"ping@example.test":    "> pong@example.test",
		"pong@example.test":    "> ping@example.test",
		"*@caught.test":        "anna@example.test",
		"known@caught.test":    "",
		"gone@caught.test":     "missing@caught.test",
		"*@trap.test":          "missing@trap.test",
		"*@down.test":          "down",
		"bare":                 "",
	}
	const loop = "address leads in a circle: "
	for address, want := range map[string]string{
		"anna@example.test":           "anna@example.test",
		"ANNA@Example.Test":           "anna@example.test",
		"anna+News@example.test":      "anna@example.test/news",
		"anna+a+b@example.test":       "anna@example.test/a+b",
		"anna+@example.test":          "anna@example.test",
		"+anna@example.test":          "absent",
		"emil+x@example.test":         "emil+x@example.test",
		"emil+y@example.test":         "emil@example.test/y",
		"anna-news@example.test":      "absent",
		"nobody@example.test":         "absent",
		"nobody+x@example.test":       "absent",
		"*@example.test":              "absent",
		"an na@example.test":          "absent",
		"anna@example.test@x":         "absent",
		"":                            "absent",
		"anna":                        "anna@example.test",
		"berta@example.test":          "berta@example.test anna@example.test remote:Out@Elsewhere.test",
		"carla@example.test":          "remote:carla@home.test",
		"dora@example.test":           "dora@example.test remote:copy@elsewhere.test",
		"sales@example.test":          "anna@example.test berta@example.test remote:Out@Elsewhere.test remote:partner@elsewhere.test",
		"sales+x@example.test":        "anna@example.test berta@example.test remote:Out@Elsewhere.test remote:partner@elsewhere.test",
		"local@example.test":          "anna@example.test",
		"deep@example.test":           "anna@example.test berta@example.test remote:Out@Elsewhere.test remote:partner@elsewhere.test",
		"detail@example.test":         "anna@example.test/lists",
		"half@example.test":           "anna@example.test dangling:nobody@example.test dangling:|/bin/sh dangling:/etc/passwd dangling::include:/x dangling:<> dangling:b<c@d",
		"empty@example.test":          "absent",
		"nothing@example.test":        "absent",
		"passed@example.test":         "relay:x@relayed.test",
		"shut@example.test":           "shut@example.test",
		"team@example.test":           "anna@example.test",
		"allshut@example.test":        "shut@example.test",
		"later@example.test":          "later@example.test",
		"down@example.test":           "unavailable",
		"down+x@example.test":         "unavailable",
		"partly@example.test":         "unavailable",
		"loop@example.test":           loop + "loop@example.test -> one@example.test -> two@example.test -> loop@example.test",
		"loop+x@example.test":         loop + "loop+x@example.test -> loop@example.test -> one@example.test -> two@example.test -> loop@example.test",
		"self@example.test":           loop + "self@example.test -> self@example.test",
		"ping@example.test":           loop + "ping@example.test -> pong@example.test -> ping@example.test",
		"known@caught.test":           "known@caught.test",
		"known+x@caught.test":         "known@caught.test/x",
		"who@caught.test":             "anna@example.test",
		"gone@caught.test":            "anna@example.test",
		"who@trap.test":               loop + "who@trap.test -> *@trap.test -> missing@trap.test -> *@trap.test",
		"who@down.test":               "unavailable",
		"x@relayed.test":              "relay:x@relayed.test",
		"MiXed@Relayed.test":          "relay:MiXed@Relayed.test",
		"x@elsewhere.test":            "unknown",
		"x@sub.example.test":          "unknown",
		"down@relayed.test@elsewhere": "absent",
	} {
		r, err := resolve.New(directory(records), resolve.Options{
			Domains: []string{"Example.test", "caught.test", "trap.test", "down.test"}, Relayed: []string{"relayed.test"},
			DefaultDomain: "example.test",
		})
		if err != nil {
			t.Fatal(err)
		}
		result, err := r.Resolve(t.Context(), address)
		got := short(result)
		var chain *resolve.ChainError
		switch {
		case err == nil:
		case errors.As(err, &chain):
			got = err.Error()
			if lookup.AnswerOf(err) != lookup.AnswerUnavailable {
				t.Errorf("%s: a chain must not look absent", address)
			}
		case errors.Is(err, resolve.ErrUnknownDomain):
			got = "unknown"
		default:
			got = lookup.AnswerOf(err).String()
		}
		if got != want {
			t.Errorf("%s: got %s (%v), want %s", address, got, err, want)
		}
	}
}

func TestOptions(t *testing.T) {
	d := directory(map[string]string{
		"anna@a.test": "", "*@a.test": "anna@a.test", "all@b.test": "anna@a.test", "fwd@a.test": ">> x@y.test", "bare": "",
	})
	for name, c := range map[string]struct {
		opts          resolve.Options
		address, want string
	}{
		"no options":           {resolve.Options{}, "anna@a.test", "anna@a.test"},
		"a bare name":          {resolve.Options{}, "bare", "bare"},
		"relayed all the same": {resolve.Options{Relayed: []string{"A.test"}}, "anna@a.test", "relay:anna@a.test"},
		"other separators":     {resolve.Options{Separator: "-_"}, "anna_x-y@a.test", "anna@a.test/x-y"},
		"no separator":         {resolve.Options{Separator: "none", CatchAll: "none"}, "anna+x@a.test", "absent"},
		"no catch-all":         {resolve.Options{CatchAll: "none"}, "who@a.test", "absent"},
		"another catch-all":    {resolve.Options{CatchAll: "All"}, "who@b.test", "anna@a.test"},
		"left forwards":        {resolve.Options{LeaveForwards: true}, "fwd@a.test", "fwd@a.test"},
		"no local domain":      {resolve.Options{Domains: []string{}}, "anna@a.test", "unknown"},
	} {
		r, err := resolve.New(d, c.opts)
		if err != nil {
			t.Fatal(err)
		}
		result, err := r.Resolve(t.Context(), c.address)
		got := short(result)
		if errors.Is(err, resolve.ErrUnknownDomain) {
			got = "unknown"
		} else if err != nil {
			got = lookup.AnswerOf(err).String()
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
	for want, opts := range map[string]resolve.Options{
		"domain a.test is local and relayed":                          {Domains: []string{"a.test"}, Relayed: []string{"A.TEST"}},
		`separator "@" has a character that ends an address`:          {Separator: "@"},
		`catch-all "a b": bad account name: has the character U+0020`: {CatchAll: "a b"},
	} {
		if _, err := resolve.New(d, opts); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestLocal(t *testing.T) {
	r, err := resolve.New(directory(nil), resolve.Options{Domains: []string{"a.test"}, Relayed: []string{"b.test"}, DefaultDomain: "a.test"})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string][2]bool{
		"x@A.test": {true, false}, "x@b.TEST": {false, true}, "x@c.test": {false, false}, "postmaster": {true, false},
		"\"odd one\"@c.test": {false, false},
	} {
		if local, relayed := r.Local(address); local != want[0] || relayed != want[1] {
			t.Errorf("%s: got %v and %v, want %v", address, local, relayed, want)
		}
	}
}

func TestVia(t *testing.T) {
	r, err := resolve.New(directory(map[string]string{
		"list@a.test": "sub@a.test", "sub@a.test": "anna+x@a.test, out@b.test", "anna@a.test": "",
	}), resolve.Options{Domains: []string{"a.test"}})
	if err != nil {
		t.Fatal(err)
	}
	result, err := r.Resolve(t.Context(), "list+y@a.test")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"list+y@a.test list@a.test sub@a.test anna+x@a.test",
		"list+y@a.test list@a.test sub@a.test",
	} {
		if got := strings.Join(result.Targets[i].Via, " "); got != want {
			t.Errorf("target %d: got %s, want %s", i, got, want)
		}
	}
	if result, err = r.Resolve(t.Context(), "anna@a.test"); err != nil || len(result.Targets[0].Via) != 0 {
		t.Errorf("got %v, %v, want no chain", result, err)
	}
}

// However the directory is filled, an address costs a bounded number of
// questions.
func TestBounds(t *testing.T) {
	records := make(map[string]string)
	for i := range 40 {
		records[fmt.Sprintf("chain%d@a.test", i)] = fmt.Sprintf("chain%d@a.test", i+1)
		var next []string
		for j := range 40 {
			next = append(next, fmt.Sprintf("layer%d.%d@a.test", i+1, j))
		}
		for j := range 40 {
			records[fmt.Sprintf("layer%d.%d@a.test", i, j)] = strings.Join(next, ",")
		}
	}
	records["wide@a.test"] = strings.Repeat("x@b.test ", 1000)
	for i := range 1000 {
		records["wide@a.test"] += fmt.Sprintf("x%d@b.test ", i)
	}
	d := directory(records)
	for address, want := range map[string]string{
		"chain0@a.test":    "for more than 10 steps",
		"chain0+x@a.test":  "for more than 10 steps",
		"layer0.0@a.test":  "for more than 10 steps",
		"layer35.0@a.test": "to more than 200 names",
		"wide@a.test":      "to more than 200 names",
	} {
		r, err := resolve.New(d, resolve.Options{Domains: []string{"a.test"}})
		if err != nil {
			t.Fatal(err)
		}
		before := d.Lookups()
		_, err = r.Resolve(t.Context(), address)
		var chain *resolve.ChainError
		if !errors.As(err, &chain) || !strings.Contains(err.Error(), want) || chain.Chain[0] != address {
			t.Errorf("%s: got %v, want %s", address, err, want)
		}
		if n := d.Lookups() - before; n > 3*200 {
			t.Errorf("%s: %d questions", address, n)
		}
	}
	r, err := resolve.New(d, resolve.Options{Domains: []string{"a.test"}, MaxDepth: 100})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(t.Context(), "chain0@a.test"); !errors.Is(err, lookup.ErrAbsent) {
		t.Errorf("got %v, want absent at the end of a chain within its bounds", err)
	}
}

// A directory with a bug does not make addresses absent.
func TestOddAnswers(t *testing.T) {
	d := directory(map[string]string{"list@a.test": "odd@a.test, anna@a.test", "anna@a.test": ""})
	for _, err := range []error{errors.New("?"), lookup.ErrRejected} {
		d.FailName("odd@a.test", err)
		r, e := resolve.New(d, resolve.Options{})
		if e != nil {
			t.Fatal(e)
		}
		for _, address := range []string{"odd@a.test", "list@a.test", "odd+x@a.test"} {
			if _, err := r.Resolve(t.Context(), address); !errors.Is(err, lookup.ErrUnavailable) {
				t.Errorf("%s: got %v, want unavailable", address, err)
			}
		}
	}
	if !slices.Contains([]string{"mailbox", "relay", "remote"}, resolve.Relay.String()) {
		t.Error(resolve.Relay)
	}
}
