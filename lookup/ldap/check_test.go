package ldap_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"switchyard/lookup"
	"switchyard/lookup/ldap"
	"switchyard/lookup/lookuptest"
)

// byHash are options for logins by hash.
func byHash() ldap.Options {
	opts := options()
	opts.BindDN, opts.Verify, opts.Canary = readerDN, plainSSHA, "berta@example.test"
	return opts
}

func TestContractByHash(t *testing.T) {
	t.Parallel()
	s := startSlapd(t, "accounts.ldif")
	f := s.fixture(byHash())
	if testing.Short() {
		f.Hang = nil
	}
	lookuptest.Run(t, f)
}

// A hash that is not there is nobody's password only when hashes can be seen.
func TestHashThatIsNotThere(t *testing.T) {
	t.Parallel()
	s := common(t)
	ask := func(change func(*ldap.Options)) error {
		opts := byHash()
		opts.Canary = ""
		change(&opts)
		d := openAll(t, []string{s.plain}, "ou=odd,dc=example,dc=test", opts)
		_, err := d.Check(t.Context(), lookup.Credentials{Name: "locked@example.test", Password: "x"})
		return err
	}
	if err := ask(func(*ldap.Options) {}); lookup.AnswerOf(err) != lookup.AnswerUnavailable || !strings.Contains(err.Error(), "userPassword is missing or may not be read") {
		t.Errorf("without a canary: got %v, want unavailable", err)
	}
	if err := ask(func(o *ldap.Options) { o.Canary = "sighted@example.test" }); !errors.Is(err, lookup.ErrRejected) {
		t.Errorf("with a canary: got %v, want rejected", err)
	}
	err := ask(func(o *ldap.Options) { o.BindDN, o.Canary = serviceDN, "sighted@example.test" })
	if lookup.AnswerOf(err) != lookup.AnswerUnavailable || !strings.Contains(err.Error(), "userPassword of the canary") {
		t.Errorf("a service that may not read hashes: got %v, want unavailable", err)
	}
}

// A lookup does not ask for the hash, and an unknown name costs one
// verification like a known one; the pool bounds them.
func TestHashersAreBounded(t *testing.T) {
	t.Parallel()
	s := common(t)
	var calls, now, most atomic.Int32
	enter, leave := make(chan struct{}, 100), make(chan struct{})
	opts := byHash()
	opts.Hashers, opts.BindTimeout = 2, 500*time.Millisecond
	opts.Verify = func(hash, password string) bool {
		calls.Add(1)
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		enter <- struct{}{}
		<-leave
		return plainSSHA(hash, password)
	}
	d := open(t, s.plain, opts)
	answers := make(chan error, 4)
	for _, name := range []string{"nobody@example.test", anna.Name, "neither@example.test", anna.Name} {
		go func() {
			_, err := d.Check(t.Context(), lookup.Credentials{Name: name, Password: "wrong"})
			answers <- err
		}()
	}
	for range 2 {
		select {
		case <-enter:
		case <-time.After(20 * time.Second):
			close(leave)
			t.Fatal("no password is verified")
		}
	}
	for range 2 { // those who wait give up
		if err := <-answers; lookup.AnswerOf(err) != lookup.AnswerUnavailable {
			t.Errorf("got %v, want unavailable", err)
		}
	}
	close(leave)
	for range 2 {
		if err := <-answers; !errors.Is(err, lookup.ErrRejected) {
			t.Errorf("got %v, want rejected", err)
		}
	}
	if most.Load() != 2 || calls.Load() != 2 {
		t.Errorf("%d verifications, %d at a time, want 2", calls.Load(), most.Load())
	}
	a, err := d.Lookup(t.Context(), anna.Name)
	if err != nil {
		t.Fatal(err)
	}
	if _, leaked := a.Attributes["userpassword"]; leaked {
		t.Error("the hash is among the attributes")
	}
}

// TestExternal: the service proves who it is with its certificate, or by its
// user of this machine.
func TestExternal(t *testing.T) {
	t.Parallel()
	s := common(t)
	certain := s.tlsConfig()
	certain.Certificates = append(certain.Certificates, s.client)
	for name, c := range map[string]struct {
		url  string
		opts ldap.Options
		want string // in the error; empty for none
	}{
		"ldaps":                 {url: s.tls, opts: ldap.Options{TLS: certain}},
		"StartTLS":              {url: s.plain, opts: ldap.Options{TLS: certain, StartTLS: true}},
		"ldapi":                 {url: s.socket},
		"without a certificate": {url: s.tls, opts: ldap.Options{TLS: s.tlsConfig()}, want: "bind as the service"},
	} {
		c.opts.External = true
		// What only the service may see.
		c.opts.Canary = anna.Name
		d := open(t, c.url, c.opts)
		_, err := d.Lookup(t.Context(), anna.Name)
		if c.want == "" && err != nil || !strings.Contains(errorText(err), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	for what, opts := range map[string]ldap.Options{
		"a password too": {External: true, BindDN: serviceDN, Password: servicePass, StartTLS: true},
		"no TLS":         {External: true},
	} {
		if _, err := ldap.New([]string{"ldap://127.0.0.1:1"}, base, opts); err == nil {
			t.Errorf("EXTERNAL with %s was accepted", what)
		}
	}
}

// TestSpread: each server has its part, and one that is down has none.
func TestSpread(t *testing.T) {
	t.Parallel()
	one, two := startFake(t, nil, agreeable), startFake(t, nil, agreeable)
	opts := options()
	opts.Spread = true
	d := openAll(t, []string{one.url, two.url, "ldap://" + freePort(t)}, base, opts)
	for range 60 {
		if _, err := d.Lookup(t.Context(), anna.Name); err != nil {
			t.Fatal(err)
		}
	}
	a, b := one.count("search"), two.count("search")
	if a < 15 || b < 15 || a+b != 60 {
		t.Errorf("%d and %d searches, want about the same", a, b)
	}
}

// TestHedge: a server that is silent has the next one asked after half of the
// time-out, and not before.
func TestHedge(t *testing.T) {
	t.Parallel()
	silent := startFake(t, nil, func(r request) {
		if r.name() != "search" {
			agreeable(r)
		}
	})
	quick := startFake(t, nil, agreeable)
	opts := options()
	const limit = 5 * time.Second
	opts.SearchTimeout = limit
	d := openAll(t, []string{silent.url, quick.url}, base, opts)
	start := time.Now()
	a, err := d.Lookup(t.Context(), anna.Name)
	took := time.Since(start)
	if err != nil || a.Name != anna.Name || took < limit/2 || took >= limit {
		t.Errorf("got %s, %v after %v, want found after half of %v", a.Name, err, took, limit)
	}
	// The other way round nobody else is asked.
	d = openAll(t, []string{quick.url, silent.url}, base, opts)
	before := silent.count("search")
	if _, err := d.Lookup(t.Context(), anna.Name); err != nil {
		t.Error(err)
	}
	if silent.count("search") != before {
		t.Error("the second server was asked though the first one answered")
	}
	// Both silent: unavailable, with both named, in the time of one and a half.
	d = openAll(t, []string{silent.url, silent.url}, base, opts)
	start = time.Now()
	_, err = d.Lookup(t.Context(), anna.Name)
	if took := time.Since(start); lookup.AnswerOf(err) != lookup.AnswerUnavailable || took > 2*limit || strings.Count(err.Error(), silent.url) != 2 {
		t.Errorf("got %v after %v", err, took)
	}
}

// TestUnknownNamesCostTheSame: a bind is made for a name that nobody has, and
// its answer takes as long as the refusal of a real account, though the server
// refuses it at once.
func TestUnknownNamesCostTheSame(t *testing.T) {
	t.Parallel()
	const hashing = 60 * time.Millisecond
	var mu sync.Mutex
	var bound []string
	f := startFake(t, nil, func(r request) {
		switch {
		case r.op.Tag == goldap.ApplicationBindRequest && r.name() != "bind "+serviceDN:
			dn := strings.TrimPrefix(r.name(), "bind ")
			mu.Lock()
			bound = append(bound, dn)
			mu.Unlock()
			if strings.HasPrefix(dn, "swName=") {
				time.Sleep(hashing) // the server's work, which it spares itself for nobody
			}
			r.result(goldap.ApplicationBindResponse, goldap.LDAPResultInvalidCredentials)
		case r.name() == "search" && r.wanted() != anna.Name:
			r.result(goldap.ApplicationSearchResultDone, 0)
		default:
			agreeable(r)
		}
	})
	d := open(t, f.url, options())
	var times [2][]time.Duration
	for range 8 {
		for i, name := range []string{anna.Name, "nobody@example.test"} {
			start := time.Now()
			_, err := d.Check(t.Context(), lookup.Credentials{Name: name, Password: "wrong"})
			if !errors.Is(err, lookup.ErrRejected) {
				t.Fatalf("%s: got %v, want rejected", name, err)
			}
			times[i] = append(times[i], time.Since(start))
		}
	}
	for i := range times {
		slices.Sort(times[i])
		if fastest := times[i][0]; fastest < hashing {
			t.Errorf("kind %d was refused in %v, want %v at least", i, fastest, hashing)
		}
	}
	nobody := slices.DeleteFunc(slices.Clone(bound), func(dn string) bool { return strings.HasPrefix(dn, "swName=") })
	if len(nobody) != 8 || !strings.HasPrefix(nobody[0], "cn=nobody-") || !strings.HasSuffix(nobody[0], ","+base) {
		t.Errorf("bound as %q, want as nobody once for each unknown name", nobody)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hashing/4)
	defer cancel()
	if _, err := d.Check(ctx, lookup.Credentials{Name: "nobody@example.test", Password: "wrong"}); lookup.AnswerOf(err) != lookup.AnswerUnavailable {
		t.Errorf("got %v at the end of the context, want unavailable", err)
	}
}

// A server that lets anybody bind, or has other words for a DN that is not
// there, still lets nobody in whom it does not have.
func TestNobodyIsNeverLetIn(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]int64{
		"success": 0, "no such object": goldap.LDAPResultNoSuchObject, "unwilling": goldap.LDAPResultUnwillingToPerform,
		"inappropriate": goldap.LDAPResultInappropriateAuthentication,
	} {
		f := startFake(t, nil, func(r request) {
			switch {
			case r.op.Tag == goldap.ApplicationBindRequest && strings.HasPrefix(r.name(), "bind cn=nobody-"):
				r.result(goldap.ApplicationBindResponse, code)
			case r.name() == "search":
				r.result(goldap.ApplicationSearchResultDone, 0)
			default:
				agreeable(r)
			}
		})
		d := open(t, f.url, options())
		_, err := d.Check(t.Context(), lookup.Credentials{Name: "nobody@example.test", Password: "x"})
		if !errors.Is(err, lookup.ErrRejected) {
			t.Errorf("%s: got %v, want rejected", name, err)
		}
	}
}
