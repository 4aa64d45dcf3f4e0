package authhttp

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/static"
)

// directory holds the accounts of the suite, behind a fault injector.
func directory(t testing.TB) *lookuptest.Faulty {
	t.Helper()
	var records []static.Record
	for _, r := range lookuptest.Accounts() {
		records = append(records, static.Record{Account: r.Account, Hash: r.Password})
	}
	for name, status := range map[string]lookup.Status{"suspended": lookup.StatusSuspended, "payup": lookup.StatusPayUp, "closed": lookup.StatusClosed} {
		records = append(records, static.Record{Account: lookup.Account{Name: name + "@x.test", Home: "b1", Status: status}, Hash: "p w%"})
	}
	d, err := static.New(func(hash, password string) bool { return hash == password }, static.Options{Records: records})
	if err != nil {
		t.Fatal(err)
	}
	return lookuptest.NewFaulty(d, 1e9)
}

// place knows where b1 is, and where accounts without a home are.
func place(_ context.Context, protocol, home string) (netip.AddrPort, error) {
	port := map[string]string{"imap": "143", "pop3": "110", "smtp": "587"}[protocol]
	switch home {
	case "b1":
		return netip.ParseAddrPort("192.0.2.1:" + port)
	case "b2":
		return netip.ParseAddrPort("[2001:db8::2]:" + port)
	}
	return netip.AddrPort{}, errors.New("no such backend")
}

// ask sends one request, given as header lines, and returns the answer's.
func ask(t testing.TB, h http.Handler, lines ...string) map[string]string {
	t.Helper()
	r := httptest.NewRequest("GET", "/auth", nil)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK || w.Body.Len() > 0 {
		t.Errorf("%q: status %d, body %q", lines, w.Code, w.Body)
	}
	got := make(map[string]string)
	for name, values := range w.Header() {
		if name != "Content-Length" {
			got[name] = values[0]
		}
	}
	return got
}

func login(protocol, user, password string, more ...string) []string {
	return append([]string{"Auth-Method: plain", "Auth-Protocol: " + protocol, "Auth-User: " + user, "Auth-Pass: " + password, "Client-IP: 198.51.100.7", "Auth-Login-Attempt: 1"}, more...)
}

func TestAnswers(t *testing.T) {
	d := directory(t)
	h := New(d, place, Options{DefaultDomain: "example.test", Anonymous: true})
	anna := lookuptest.Account("anna@example.test")
	wrong := map[string]string{"Auth-Status": "[AUTHENTICATIONFAILED] invalid login or password", "Auth-Wait": "3"}
	none := func(to string) []string {
		return []string{"Auth-Method: none", "Auth-Protocol: smtp", "Auth-SMTP-To: " + to, "Auth-User: ", "Auth-Pass: "}
	}
	for what, c := range map[string]struct {
		lines []string
		want  map[string]string
	}{
		"imap":                                 {login("imap", anna.Name, anna.Password), map[string]string{"Auth-Status": "OK", "Auth-Server": "192.0.2.1", "Auth-Port": "143"}},
		"pop3":                                 {login("pop3", anna.Name, anna.Password), map[string]string{"Auth-Status": "OK", "Auth-Server": "192.0.2.1", "Auth-Port": "110"}},
		"without domain":                       {login("smtp", "ANNA", anna.Password), map[string]string{"Auth-Status": "OK", "Auth-Server": "192.0.2.1", "Auth-Port": "587", "Auth-User": anna.Name}},
		"wrong password":                       {login("imap", anna.Name, "x"), wrong},
		"no such user":                         {login("imap", "nobody@example.test", "x"), wrong},
		"empty password":                       {login("imap", anna.Name, ""), wrong},
		"impossible name":                      {login("imap", "a%20b@x.test", "x"), wrong},
		"last attempt":                         {login("imap", anna.Name, "x", "Auth-Login-Attempt: 3"), map[string]string{"Auth-Status": wrong["Auth-Status"]}},
		"wrong in pop3":                        {login("pop3", anna.Name, "x"), map[string]string{"Auth-Status": "[AUTH] invalid login or password", "Auth-Wait": "3"}},
		"wrong in smtp":                        {login("smtp", anna.Name, "x"), map[string]string{"Auth-Status": "invalid login or password", "Auth-Wait": "3", "Auth-Error-Code": "535 5.7.8"}},
		"escapes":                              {login("imap", "suspended@x.test", "p%20w%25"), map[string]string{"Auth-Status": "[CONTACTADMIN] account suspended"}},
		"payup":                                {login("smtp", "payup@x.test", "p%20w%25"), map[string]string{"Auth-Status": "account suspended, payment is due", "Auth-Error-Code": "535 5.7.8"}},
		"closed":                               {login("pop3", "closed@x.test", "p%20w%25"), map[string]string{"Auth-Status": "[AUTH] account disabled"}},
		"suspended, but the password is wrong": {login("imap", "suspended@x.test", "x"), wrong},
		"half an escape":                       {login("imap", anna.Name, "x%2"), map[string]string{"Auth-Status": "malformed password"}},
		"bad escape":                           {login("imap", "%zz", "x"), map[string]string{"Auth-Status": "malformed user name"}},
		"endless password":                     {login("smtp", anna.Name, strings.Repeat("x", 9999)), map[string]string{"Auth-Status": "malformed password", "Auth-Error-Code": "504 5.5.4"}},
		"apop":                                 {login("pop3", anna.Name, "x", "Auth-Method: apop"), map[string]string{"Auth-Status": "authentication method not supported"}},
		"nothing":                              {nil, map[string]string{"Auth-Status": "unknown protocol"}},
		"recipient":                            {none("RCPT%20TO:<Anna@Example.TEST>"), map[string]string{"Auth-Status": "OK", "Auth-Server": "192.0.2.1", "Auth-Port": "587"}},
		"unknown recipient":                    {none("RCPT TO:<nobody@example.test> SIZE=1"), map[string]string{"Auth-Status": "no such user", "Auth-Error-Code": "550 5.1.1"}},
		"suspended recipient":                  {none("RCPT TO:<suspended@x.test>"), map[string]string{"Auth-Status": "OK", "Auth-Server": "192.0.2.1", "Auth-Port": "587"}},
		"closed recipient":                     {none("RCPT TO:<closed@x.test>"), map[string]string{"Auth-Status": "mailbox disabled", "Auth-Error-Code": "550 5.2.1"}},
		"no recipient":                         {none("RCPT TO:"), map[string]string{"Auth-Status": "malformed recipient", "Auth-Error-Code": "504 5.5.4"}},
		"none over imap":                       {[]string{"Auth-Method: none", "Auth-Protocol: imap"}, map[string]string{"Auth-Status": "authentication required"}},
	} {
		if diff := cmp.Diff(c.want, ask(t, h, c.lines...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	if got := ask(t, New(d, place, Options{}), none("RCPT TO:<anna@example.test>")...); got["Auth-Status"] != "authentication required" {
		t.Errorf("anonymous where it is not allowed: %v", got)
	}
	// IPv6, without brackets.
	carla := func() lookuptest.Record {
		for _, r := range lookuptest.Accounts() {
			if r.Home == "b2" && r.Status.MayLogin() {
				return r
			}
		}
		t.Fatal("nobody lives on b2")
		return lookuptest.Record{}
	}()
	if got := ask(t, h, login("imap", carla.Name, carla.Password)...); got["Auth-Server"] != "2001:db8::2" {
		t.Errorf("IPv6: %v", got)
	}
}

// Without the directory, or without an address, nothing says "invalid login",
// nothing says "no such user", and codes are temporary.
func TestUnavailable(t *testing.T) {
	d := directory(t)
	anna := lookuptest.Account("anna@example.test")
	down := New(d, place, Options{Anonymous: true})
	nowhere := New(directory(t), func(context.Context, string, string) (netip.AddrPort, error) {
		return netip.AddrPort{}, errors.New("all nodes are down")
	}, Options{Anonymous: true})
	d.Stop()
	for what, h := range map[string]http.Handler{"directory down": down, "no address": nowhere} {
		for protocol, code := range map[string]string{"imap": "[UNAVAILABLE]", "pop3": "[SYS/TEMP]", "smtp": ""} {
			got := ask(t, h, login(protocol, anna.Name, anna.Password)...)
			if !strings.HasPrefix(got["Auth-Status"], code) || !strings.Contains(got["Auth-Status"], "try again later") || got["Auth-Server"] != "" {
				t.Errorf("%s, %s: %v", what, protocol, got)
			}
			if protocol == "smtp" && got["Auth-Error-Code"] != "454 4.7.0" {
				t.Errorf("%s, %s: %v", what, protocol, got)
			}
		}
		got := ask(t, h, "Auth-Method: none", "Auth-Protocol: smtp", "Auth-SMTP-To: RCPT TO:<anna@example.test>")
		if got["Auth-Error-Code"] != "451 4.3.0" {
			t.Errorf("%s, recipient: %v", what, got)
		}
	}
}

func TestSecret(t *testing.T) {
	h := New(directory(t), place, Options{Secret: "sesame"})
	for shown, want := range map[string]int{"": 403, "sesam": 403, "sesame": 200} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Auth-Key", shown)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%q: got %d, want %d", shown, w.Code, want)
		}
	}
}

// FuzzHeaders: whatever nginx is made to pass on, an answer is one of the
// known ones and carries nothing that ends a header.
func FuzzHeaders(f *testing.F) {
	f.Add("plain", "imap", "anna@example.test", "sesame-1", "")
	f.Add("none", "smtp", "", "", "RCPT TO:<anna@example.test>")
	f.Add("plain", "pop3", "%0d%0aAuth-Status: OK", "%00", "<")
	d := directory(f)
	h := New(d, place, Options{Anonymous: true})
	f.Fuzz(func(t *testing.T, method, protocol, user, password, to string) {
		r := httptest.NewRequest("GET", "/", nil)
		for name, value := range map[string]string{"Auth-Method": method, "Auth-Protocol": protocol, "Auth-User": user, "Auth-Pass": password, "Auth-SMTP-To": to} {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		status := w.Header().Get("Auth-Status")
		if w.Code != 200 || status == "" {
			t.Fatalf("got %d, %v", w.Code, w.Header())
		}
		for name, values := range w.Header() {
			for _, v := range values {
				if strings.ContainsAny(v, "\r\n\x00") {
					t.Fatalf("%s: %q", name, v)
				}
			}
		}
		if (status == "OK") != (w.Header().Get("Auth-Server") != "") {
			t.Fatalf("got %v", w.Header())
		}
		if status == "OK" && method == "plain" {
			name, err := unescapeForTest(user)
			pass, err2 := unescapeForTest(password)
			if err || err2 {
				t.Fatalf("%q, %q logged in", user, password)
			}
			if clean, err := lookup.CleanName(name, ""); err != nil || lookuptest.Account(clean).Password != pass && pass != "p w%" {
				t.Fatalf("%q, %q logged in", user, password)
			}
		}
	})
}

func unescapeForTest(s string) (string, bool) {
	out, ok := unescape(s)
	return out, !ok
}
