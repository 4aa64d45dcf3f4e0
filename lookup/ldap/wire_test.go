package ldap_test

import (
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/cache"
	"switchyard/lookup/ldap"
	"switchyard/lookup/lookuptest"
)

// wired puts a wire before a slapd and returns the URL to reach it by.
func wired(t *testing.T, raw string) (*lookuptest.Wire, string) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	w := lookuptest.NewWire(t, "tcp", u.Host)
	return w, strings.Replace(raw, u.Host, w.Addr(), 1)
}

// TestContractOnAFaultyWire: bare, and behind a cache.
func TestContractOnAFaultyWire(t *testing.T) {
	t.Parallel()
	s := common(t)
	w, at := wired(t, s.tls)
	opts := options()
	opts.TLS = s.tlsConfig()
	opts.SearchTimeout, opts.BindTimeout, opts.DialTimeout = 2*time.Second, 2*time.Second, 2*time.Second
	fixture := lookuptest.Fixture{
		Open:    func(t *testing.T) lookup.Directory { return open(t, at, opts) },
		Break:   func(t *testing.T) { w.Stop() },
		Hang:    func(t *testing.T) { w.Hang() },
		Mend:    func(t *testing.T) { w.Mend(t) },
		Timeout: opts.SearchTimeout,
	}
	if !testing.Short() {
		lookuptest.Run(t, fixture)
	}
	fixture.Open = func(t *testing.T) lookup.Directory {
		c, err := cache.New(open(t, at, opts), cache.Options{Timeout: 4 * time.Second, Patience: 50 * time.Millisecond, BackOff: 30 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	fixture.Timeout = 4 * time.Second
	t.Run("behind a cache", func(t *testing.T) { lookuptest.Run(t, fixture) })
}

// TestSpoiltAnswers: whatever a wire does to the bytes below TLS, and whenever
// it cuts them without, an answer is the right one or unavailable.
func TestSpoiltAnswers(t *testing.T) {
	t.Parallel()
	s := common(t)
	short := options()
	short.SearchTimeout, short.BindTimeout, short.DialTimeout = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	short.BackOff = 40 * time.Millisecond
	secret := short
	secret.TLS = s.tlsConfig()
	steps := 12
	if testing.Short() {
		steps = 3
	}
	for name, c := range map[string]struct {
		url   string
		opts  ldap.Options
		spoil func(w *lookuptest.Wire, step int)
	}{
		"garbled":           {s.tls, secret, func(w *lookuptest.Wire, step int) { w.Garble(step*97 + 7) }},
		"truncated":         {s.plain, short, func(w *lookuptest.Wire, step int) { w.Truncate(step*11 + 1) }},
		"truncated and TLS": {s.tls, secret, func(w *lookuptest.Wire, step int) { w.Truncate(step*211 + 1) }},
		"slow":              {s.plain, short, func(w *lookuptest.Wire, step int) { w.Slow(time.Duration(step) * 60 * time.Millisecond) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, at := wired(t, c.url)
			for step := range steps {
				d := open(t, at, c.opts)
				c.spoil(w, step)
				rightOrUnavailable(t, d)
				d.Close()
				w.Mend(t)
			}
		})
	}
}

// rightOrUnavailable asks for everything that could be answered wrongly.
func rightOrUnavailable(t *testing.T, d lookup.Directory) {
	t.Helper()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			a, err := d.Lookup(t.Context(), anna.Name)
			switch answer := lookup.AnswerOf(err); {
			case answer == lookup.AnswerFound && lookuptest.Diff(anna.Account, a) != "":
				t.Errorf("got %+v", a)
			case answer == lookup.AnswerAbsent:
				t.Errorf("an account is absent: %v", err)
			}
		})
		wg.Go(func() {
			_, err := d.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: anna.Password})
			if lookup.AnswerOf(err) == lookup.AnswerRejected {
				t.Error("the right password was rejected")
			}
		})
		wg.Go(func() {
			_, err := d.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: "wrong"})
			if err == nil {
				t.Error("a wrong password was accepted")
			}
		})
		wg.Go(func() {
			if _, err := d.Lookup(t.Context(), "nobody@example.test"); err == nil {
				t.Error("nobody was found")
			}
		})
	}
	wg.Wait()
}

func TestHostileNames(t *testing.T) {
	t.Parallel()
	s := common(t)
	lookuptest.RunHostile(t, func(t *testing.T) lookup.Directory { return open(t, s.plain, options()) })
}
