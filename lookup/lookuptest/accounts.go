// Package lookuptest holds the contract of lookup.Directory as a test suite,
// the accounts that the suite needs, and a directory for the tests of other
// packages whose answers the test sets (Scripted).
//
//	lookuptest.Run(t, lookuptest.Fixture{
//		Open: func(t *testing.T) lookup.Directory { … loaded with Accounts() … },
//	})
//
// A directory passes the same suite bare, behind a cache and behind a fault
// injector.
package lookuptest

import (
	"strings"

	"switchyard/lookup"
)

// Record is an account of the suite and what its owner types to log in.
type Record struct {
	lookup.Account

	// Stored is the name as the directory's own data spells it. It may differ
	// from Account.Name, the clean form, in upper and lower case.
	Stored string

	Password string
}

// Accounts returns the accounts that a directory under test holds, and no
// others. Every call returns fresh values.
//
// Passwords have no space, quote or control character and attribute values
// have no quote or control character, because NetWin's grammar cannot carry
// them; everything else may occur. Attribute labels are legal LDAP attribute
// names in lower case.
func Accounts() []Record {
	records := []Record{
		{Password: "sesame-1", Account: lookup.Account{
			Name: "anna@example.test", Home: "b1", Generation: 7, Status: lookup.StatusOK, Quota: 5 << 30,
			Forwards: []string{"anna@elsewhere.test", "copy+anna@elsewhere.test"},
			Attributes: map[string]string{
				"displayname": "Anna Example",
				"description": `uid=0; (&(a=*)) {x} 100% C:\mail, end`,
			},
		}},
		// Found, without a home: the default backend's.
		{Password: "sesame-2", Account: lookup.Account{Name: "berta@example.test"}},
		{Password: "Sesame-3", Stored: "Carla@Example.TEST", Account: lookup.Account{
			Name: "carla@example.test", Home: "b2", Generation: 1, Status: lookup.StatusPayDue,
		}},
		// The same local part in another domain is somebody else.
		{Password: "sesame-org", Account: lookup.Account{Name: "anna@example.org", Home: "b2", Quota: 1}},
		{Password: "pässwörd-ß", Account: lookup.Account{
			Name: "jörg@example.test", Home: "b2", Generation: 1<<63 + 11,
			Attributes: map[string]string{"displayname": "Jörg Größe 山田"},
		}},
		{Password: "p*)(uid=*)", Account: lookup.Account{Name: "o'neil+news=1@example.test", Home: "b1"}},
		longRecord(),
	}
	for word, status := range map[string]lookup.Status{
		"good": lookup.StatusGood, "payup": lookup.StatusPayUp, "suspended": lookup.StatusSuspended,
		"banned": lookup.StatusBanned, "cancelled": lookup.StatusCancelled, "closed": lookup.StatusClosed,
		"odd": "holiday",
	} {
		records = append(records, Record{Password: "status-" + word, Account: lookup.Account{
			Name: word + "@status.test", Home: "b1", Status: status,
		}})
	}
	for i := range records {
		if records[i].Stored == "" {
			records[i].Stored = records[i].Name
		}
	}
	return records
}

// longRecord has a name and values as long as a directory must carry.
func longRecord() Record {
	name := strings.Repeat("l", 64) + "@" + strings.Repeat("sub.", 40) + "example.test"
	account := lookup.Account{
		Name: name, Home: strings.Repeat("b", 63), Quota: 1<<63 - 1,
		Attributes: map[string]string{"description": strings.Repeat("long value ", 400) + "end"},
	}
	for range 20 {
		account.Forwards = append(account.Forwards, strings.Repeat("f", len(account.Forwards)+1)+"@elsewhere.test")
	}
	return Record{Account: account, Password: strings.Repeat("p", 128)}
}

// Account returns the suite's record of that name.
func Account(name string) Record {
	for _, r := range Accounts() {
		if r.Name == name {
			return r
		}
	}
	panic("lookuptest: no account " + name)
}

// HostileNames returns names that try to leave the place where a name
// belongs: in a line, a filter, a statement, a file. No account has any of
// them. Most do not pass lookup.CleanName; a directory must survive them all
// the same, since it is the last to look.
func HostileNames() map[string]string {
	return map[string]string{
		"empty":                "",
		"star":                 "*",
		"star in a name":       "ann*@example.test",
		"star domain":          "anna@*",
		"question mark":        "ann?@example.test",
		"filter breakout":      "anna@example.test)(uid=*",
		"filter or":            "*)(|(uid=*",
		"filter escape":        `anna@example.test\29`,
		"escaped letter":       `\61nna@example.test`,
		"filter NUL":           "anna@example.test\x00)(uid=*",
		"NUL":                  "anna@example.test\x00",
		"quote":                `anna@example.test"`,
		"quoted":               `"anna@example.test"`,
		"single quote":         "anna@example.test' OR '1'='1",
		"backslash":            `anna@example.test\`,
		"newline":              "anna@example.test\nlookup berta@example.test",
		"return":               "anna@example.test\r\nquit",
		"only newline":         "\n",
		"space":                "anna@example.test sesame-1",
		"leading space":        " anna@example.test",
		"trailing space":       "anna@example.test ",
		"double space":         "anna@example.test  -max 1",
		"tab":                  "anna@example.test\t",
		"option":               "-max",
		"null word":            "(NULL)",
		"colon":                "anna@example.test:x",
		"comment":              "#anna@example.test",
		"template":             "%s%n%u",
		"placeholder":          "{{.Name}}",
		"DN":                   "swName=anna@example.test,ou=people,dc=example,dc=test",
		"not UTF-8":            "ann\xff@example.test",
		"overlong":             "\xc1\xa1nna@example.test",
		"surrogate":            "\xed\xa0\x80anna@example.test",
		"fullwidth":            "ａnna@example.test",
		"ligature":             "ﬁ@example.test",
		"soft hyphen":          "an\u00adna@example.test",
		"zero width space":     "an\u200bna@example.test",
		"zero width joiner":    "an\u200dna@example.test",
		"no-break space":       "anna@example.test\u00a0",
		"byte order mark":      "\ufeffanna@example.test",
		"right to left":        "\u202eanna@example.test",
		"decomposed":           "jo\u0308rg@example.test",
		"folded umlaut":        "jorg@example.test",
		"long s":               "anna@example.te\u017ft",
		"fullwidth at":         "anna＠example.test",
		"dotless i":            "\u0131da@example.test",
		"line separator":       "anna@example.test\u2028",
		"next line":            "anna@example.test\u0085",
		"two ats":              "anna@example.test@example.test",
		"trailing dot":         "anna@example.test.",
		"a megabyte":           strings.Repeat("a", 1<<20) + "@example.test",
		"a megabyte of stars":  strings.Repeat("*", 1<<20),
		"a megabyte of quotes": strings.Repeat(`"`, 1<<20),
		"a megabyte of parens": strings.Repeat("(", 1<<20),
		"a megabyte of lines":  strings.Repeat("quit\r\n", 1<<18),
	}
}

// HostilePasswords returns wrong passwords that try the same.
func HostilePasswords() map[string]string {
	return map[string]string{
		"space":         "sesame-1 127.0.0.1",
		"leading space": " sesame-1",
		"trailing":      "sesame-1 ",
		"NUL":           "sesame-1\x00",
		"only NUL":      "\x00",
		"newline":       "x\ncheck anna@example.test sesame-1",
		"return":        "sesame-1\r\n",
		"quote":         `sesame-1"`,
		"quoted":        `"sesame-1"`,
		"null word":     "(NULL)",
		"star":          "*",
		"tab":           "sesame-1\t",
		"upper case":    "SESAME-1",
		"shorter":       "sesame-",
		"not UTF-8":     "sesame-1\xff",
		"the hash word": "{PLAIN}sesame-1",
		"a megabyte":    strings.Repeat("s", 1<<20),
	}
}
