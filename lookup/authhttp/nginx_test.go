package authhttp

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/authhttp/nginxtest"
	"switchyard/lookup/lookuptest"
)

// TestNginx runs the real program as a mail proxy in front of a store.
func TestNginx(t *testing.T) {
	store := nginxtest.Store(t)
	d := directory(t)
	var mu sync.Mutex
	var seen []string
	h := New(d, func(context.Context, string, string) (netip.AddrPort, error) { return store, nil }, Options{
		Secret: "sesame", DefaultDomain: "example.test", Wait: time.Second,
		Log: func(user, protocol string, client netip.Addr, answer lookup.Answer, err error) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprint(user, " ", protocol, " ", client, " ", answer))
		},
	})
	mux := http.NewServeMux()
	mux.Handle("/auth", h)
	web := httptest.NewServer(mux)
	defer web.Close()
	at := nginxtest.Start(t, web.URL+"/auth", "sesame")
	anna := lookuptest.Account("anna@example.test")

	pop := nginxtest.Dial(t, at["pop3"])
	pop.Want("", "+OK")
	pop.Want("USER Anna", "+OK")
	pop.Want("PASS wrong", "-ERR [AUTH] invalid login or password")
	pop.Want("USER Anna", "+OK") // it may try again
	pop.Want("PASS "+anna.Password, "+OK welcome anna@example.test")
	pop.Want("STAT", "+OK 1 anna@example.test")
	pop.Want("QUIT", "+OK bye")

	suspended := nginxtest.Dial(t, at["imap"])
	suspended.Want("", "* OK")
	suspended.Want(`a LOGIN suspended@x.test "p w%"`, "a NO [CONTACTADMIN] account suspended")

	d.Stop()
	for _, c := range []struct{ protocol, hello, login, want string }{
		{"imap", "* OK", "a LOGIN anna@example.test " + anna.Password, "a NO [UNAVAILABLE] the directory cannot answer now"},
		{"smtp", "220", "AUTH PLAIN AGFubmEAeA==", "454 4.7.0 the directory cannot answer now"},
	} {
		m := nginxtest.Dial(t, at[c.protocol])
		m.Want("", c.hello)
		if c.protocol == "smtp" {
			m.Want("EHLO client", "250 ")
		}
		m.Want(c.login, c.want)
	}
	m := nginxtest.Dial(t, at["pop3"])
	m.Want("", "+OK")
	m.Want("USER anna", "+OK")
	m.Want("PASS "+anna.Password, "-ERR [SYS/TEMP] the directory cannot answer now")

	d.Mend()
	m = nginxtest.Dial(t, at["smtp"])
	m.Want("", "220")
	m.Want("EHLO client", "250 ")
	m.Want("AUTH PLAIN AGFubmEAeA==", "535 5.7.8 invalid login or password") // anna, x
	mu.Lock()
	defer mu.Unlock()
	if len(seen) < 6 || seen[0] != "anna@example.test pop3 127.0.0.1 rejected" {
		t.Errorf("seen: %q", seen)
	}
}
