package access

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"testing"

	"switchyard/backend"
	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
)

// fakeStore remembers who has mail, and at which generation.
type fakeStore struct {
	backend.Store
	generations map[string]uint64
	created     int
	limits      map[string]backend.Quota
}

type fakeUser struct {
	backend.User
	name  string
	store *fakeStore
}

func (u fakeUser) Limit(limit backend.Quota) { u.store.limits[u.name] = limit }

func (u fakeUser) Account() string { return u.name }

func (s *fakeStore) User(_ context.Context, name string) (backend.User, error) {
	if _, ok := s.generations[name]; !ok {
		return nil, backend.ErrNoUser
	}
	return fakeUser{name: name, store: s}, nil
}

func (s *fakeStore) CreateUser(_ context.Context, name string, generation uint64) (backend.User, error) {
	if _, ok := s.generations[name]; !ok {
		s.created++
	}
	s.generations[name] = max(s.generations[name], generation)
	return fakeUser{name: name, store: s}, nil
}

func (s *fakeStore) Generation(_ context.Context, name string) (uint64, error) {
	g, ok := s.generations[name]
	if !ok {
		return 0, backend.ErrNoUser
	}
	return g, nil
}

func account(name, home string, generation uint64, status lookup.Status) lookuptest.Record {
	return lookuptest.Record{Account: lookup.Account{Name: name, Home: home, Generation: generation, Status: status}, Password: "sesame"}
}

var (
	inside  = netip.MustParseAddr("10.0.2.7")
	outside = netip.MustParseAddr("192.0.2.1")
)

func setUp(t *testing.T) (*Gate, *fakeStore, *lookuptest.Scripted) {
	t.Helper()
	dir := lookuptest.NewScripted(
		account("anna@example.test", "b1", 3, ""),
		account("bert@example.test", "b2", 1, ""),
		account("nohome@example.test", "", 0, ""),
		account("late@example.test", "b1", 1, lookup.StatusSuspended),
		account("gone@example.test", "b1", 1, lookup.StatusClosed),
	)
	store := &fakeStore{generations: make(map[string]uint64), limits: make(map[string]backend.Quota)}
	g := New("b1", dir, store, Options{
		Default: true, ProxyName: "proxy", ProxySecret: "between us", DefaultDomain: "example.test",
		ProxyNetworks: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24")},
	})
	return g, store, dir
}

func TestLogin(t *testing.T) {
	proxy := func(user string) Login {
		return Login{Authzid: user, Authcid: "proxy", Password: "between us", Peer: inside, TLS: true}
	}
	with := func(l Login, change func(*Login)) Login {
		change(&l)
		return l
	}
	const anna = "anna@example.test"
	for name, c := range map[string]struct {
		login   Login
		want    error
		user    string
		proxied bool
	}{
		"user":                       {Login{Authcid: anna, Password: "sesame"}, nil, anna, false},
		"user without domain":        {Login{Authcid: "Anna", Password: "sesame"}, nil, anna, false},
		"user names itself":          {Login{Authzid: "ANNA@example.test", Authcid: anna, Password: "sesame"}, nil, anna, false},
		"user for another":           {Login{Authzid: "late@example.test", Authcid: anna, Password: "sesame"}, lookup.ErrRejected, "", false},
		"wrong password":             {Login{Authcid: anna, Password: "x"}, lookup.ErrRejected, "", false},
		"empty password":             {Login{Authcid: anna}, lookup.ErrRejected, "", false},
		"nobody":                     {Login{Authcid: "nobody", Password: "sesame"}, lookup.ErrRejected, "", false},
		"hostile name":               {Login{Authcid: "an\x00na", Password: "sesame"}, lookup.ErrRejected, "", false},
		"lives elsewhere":            {Login{Authcid: "bert", Password: "sesame"}, backend.ErrMoved, "", false},
		"no home, default here":      {Login{Authcid: "nohome", Password: "sesame"}, nil, "nohome@example.test", false},
		"proxy":                      {proxy(anna), nil, anna, true},
		"proxy, default backend":     {proxy("nohome@example.test"), nil, "nohome@example.test", true},
		"proxy, lives elsewhere":     {proxy("bert@example.test"), backend.ErrMoved, "", false},
		"proxy, nobody":              {proxy("nobody@example.test"), lookup.ErrRejected, "", false},
		"proxy for nobody":           {proxy(""), lookup.ErrRejected, "", false},
		"proxy in clear":             {with(proxy(anna), func(l *Login) { l.TLS = false }), lookup.ErrRejected, "", false},
		"proxy from outside":         {with(proxy(anna), func(l *Login) { l.Peer = outside }), lookup.ErrRejected, "", false},
		"proxy, wrong secret":        {with(proxy(anna), func(l *Login) { l.Password = "x" }), lookup.ErrRejected, "", false},
		"proxy, mapped address":      {with(proxy(anna), func(l *Login) { l.Peer = netip.MustParseAddr("::ffff:10.0.2.7") }), nil, anna, true},
		"user with proxy's password": {Login{Authzid: anna, Authcid: "bert", Password: "between us", Peer: inside, TLS: true}, lookup.ErrRejected, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			g, store, _ := setUp(t)
			got, err := g.Login(context.Background(), c.login)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("got error %v, want %v", err, c.want)
			}
			if err != nil {
				if store.created > 0 {
					t.Error("a refused login made a mailbox")
				}
				return
			}
			if got.User.Account() != c.user || got.Proxied != c.proxied {
				t.Errorf("got %q proxied %v", got.User.Account(), got.Proxied)
			}
		})
	}
}

func TestStatusIsToldAfterThePassword(t *testing.T) {
	g, _, _ := setUp(t)
	_, err := g.Login(context.Background(), Login{Authcid: "late", Password: "sesame"})
	var status *StatusError
	if !errors.As(err, &status) || status.Status != lookup.StatusSuspended {
		t.Errorf("right password: got %v", err)
	}
	if _, err := g.Login(context.Background(), Login{Authcid: "late", Password: "x"}); !errors.Is(err, lookup.ErrRejected) {
		t.Errorf("wrong password: got %v", err)
	}
}

func TestRecipient(t *testing.T) {
	g, store, _ := setUp(t)
	ctx := context.Background()
	for address, want := range map[string]error{
		"Anna@Example.test": nil, "late@example.test": nil, "nohome@example.test": nil,
		"nobody@example.test": lookup.ErrAbsent, "a b@example.test": lookup.ErrAbsent, "bert@example.test": backend.ErrMoved,
	} {
		if _, _, err := g.Recipient(ctx, address, 0); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: got %v, want %v", address, err, want)
		}
	}
	var status *StatusError
	if _, _, err := g.Recipient(ctx, "gone@example.test", 0); !errors.As(err, &status) {
		t.Errorf("closed account: got %v", err)
	}
	if _, ok := store.generations["gone@example.test"]; ok {
		t.Error("a mailbox was made for a closed account")
	}
	if store.generations["anna@example.test"] != 3 {
		t.Errorf("generation %d, want 3", store.generations["anna@example.test"])
	}
	if _, ok := store.generations["bert@example.test"]; ok {
		t.Error("a mailbox was made for an account that lives elsewhere")
	}
}

// TestLimits: the directory's quota is the store's from the login or delivery on
// that shows it.
func TestLimits(t *testing.T) {
	g, store, dir := setUp(t)
	for quota, want := range map[[2]string]backend.Quota{
		{"1000", "7"}: {Bytes: 1000, Messages: 7}, {"0", ""}: {}, {"-5", "many"}: {},
	} {
		r := account("anna@example.test", "b1", 3, "")
		r.Quota, _ = strconv.ParseInt(quota[0], 10, 64)
		r.Attributes = map[string]string{"maxmessages": quota[1]}
		dir.Set(r)
		if _, _, err := g.Recipient(t.Context(), "anna@example.test", 0); err != nil {
			t.Fatal(err)
		}
		if got := store.limits["anna@example.test"]; got != want {
			t.Errorf("%q: limit %+v, want %+v", quota, got, want)
		}
	}
}

func TestDirectoryAway(t *testing.T) {
	g, store, dir := setUp(t)
	ctx := context.Background()
	if _, _, err := g.Recipient(ctx, "anna@example.test", 0); err != nil {
		t.Fatal(err)
	}
	dir.Fail(lookup.Unavailable("test", nil))
	if user, _, err := g.Recipient(ctx, "anna@example.test", 3); err != nil || user.Account() != "anna@example.test" {
		t.Errorf("known account: got %v", err)
	}
	if _, _, err := g.Recipient(ctx, "anna@example.test", 4); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("a newer home is known: got %v", err)
	}
	if _, _, err := g.Recipient(ctx, "late@example.test", 0); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("new account: got %v", err)
	}
	if store.created != 1 {
		t.Errorf("%d mailboxes made", store.created)
	}
	if _, err := g.Login(ctx, Login{Authcid: "anna", Password: "sesame"}); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("login: got %v", err)
	}
}

func TestNoSecretMeansNoProxy(t *testing.T) {
	g := New("b1", lookuptest.NewScripted(), &fakeStore{}, Options{ProxyName: "proxy", ProxyNetworks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}})
	if g.Proxy("proxy", "", inside, true) || g.Trusted(inside, true) {
		t.Error("an empty secret opened the door")
	}
	if _, err := g.Login(context.Background(), Login{Authzid: "anna@example.test", Authcid: "proxy", Peer: inside, TLS: true}); !errors.Is(err, lookup.ErrRejected) {
		t.Errorf("got %v", err)
	}
}
