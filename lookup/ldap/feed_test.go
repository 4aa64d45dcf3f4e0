package ldap_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"switchyard/lookup"
	"switchyard/lookup/ldap"
	"switchyard/lookup/lookuptest"
)

// admin is who changes what a slapd holds. It connects anew when the server
// was restarted, or crashed and was run again.
type admin struct {
	s    *slapd
	conn *goldap.Conn
}

func (a *admin) do(t testing.TB, change func(*goldap.Conn) error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := a.try(t, change)
		// Without an answer from the server itself, it went away.
		var said *goldap.Error
		answered := errors.As(err, &said) && said.ResultCode < goldap.ErrorNetwork
		if err != nil && !answered && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
}

func (a *admin) try(t testing.TB, change func(*goldap.Conn) error) error {
	t.Helper()
	if a.conn == nil || a.conn.IsClosing() {
		c, err := goldap.DialURL(a.s.plain)
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		if err := c.Bind(adminDN, servicePass); err != nil {
			return err
		}
		a.conn = c
	}
	return change(a.conn)
}

// set makes the entry of an account say what r says, by a modification, or adds
// it.
func (a *admin) set(t testing.TB, r lookuptest.Record) {
	t.Helper()
	dn := "swName=" + goldap.EscapeDN(r.Stored) + "," + base
	values := map[string][]string{
		"swHome": {r.Home}, "swHomeGeneration": {strconv.FormatUint(r.Generation, 10)}, "swStatus": {string(r.Status)},
		"swQuota": {strconv.FormatInt(r.Quota, 10)}, "userPassword": {ssha(r.Name, r.Password)}, "swForward": r.Forwards,
	}
	for label, v := range values {
		if len(v) == 1 && (v[0] == "" || v[0] == "0") {
			values[label] = nil
		}
	}
	a.do(t, func(c *goldap.Conn) error {
		m := goldap.NewModifyRequest(dn, nil)
		for label, v := range values {
			m.Replace(label, v)
		}
		err := c.Modify(m)
		if !goldap.IsErrorWithCode(err, goldap.LDAPResultNoSuchObject) {
			return err
		}
		add := goldap.NewAddRequest(dn, nil)
		add.Attribute("objectClass", []string{"inetOrgPerson", "switchyardAccount"})
		for _, label := range []string{"cn", "sn"} {
			add.Attribute(label, []string{"x"})
		}
		add.Attribute("swName", []string{r.Stored})
		for label, v := range values {
			if len(v) > 0 {
				add.Attribute(label, v)
			}
		}
		return c.Add(add)
	})
}

func (a *admin) delete(t testing.TB, name string) {
	t.Helper()
	a.do(t, func(c *goldap.Conn) error {
		return c.Del(goldap.NewDelRequest("swName="+goldap.EscapeDN(name)+","+base, nil))
	})
}

func TestFeed(t *testing.T) {
	t.Parallel()
	s := startSlapd(t, "accounts.ldif")
	a := &admin{s: s}
	lookuptest.RunFeed(t, lookuptest.FeedFixture{
		Open:      func(t *testing.T) lookup.Watcher { return open(t, s.plain, options()) },
		Set:       func(t *testing.T, r lookuptest.Record) { a.set(t, r) },
		Delete:    func(t *testing.T, name string) { a.delete(t, name) },
		Interrupt: func(t *testing.T) { s.stop(t); s.start(t) },
	})
}

// story of a feed: what it tells, in order.
type told struct {
	t  *testing.T
	ch chan lookup.Change
}

func watch(t *testing.T, d *ldap.Directory) told {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := told{t, make(chan lookup.Change, 1000)}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.Watch(ctx, func(c lookup.Change) { w.ch <- c }); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	w.want("the beginning", lookup.Change{})
	return w
}

// want is the next change, and nothing before it.
func (w told) want(what string, want ...lookup.Change) {
	w.t.Helper()
	for _, c := range want {
		select {
		case got := <-w.ch:
			if got != c {
				w.t.Errorf("%s: got %+v, want %+v", what, got, c)
			}
		case <-time.After(20 * time.Second):
			w.t.Fatalf("%s: not told of", what)
		}
	}
}

// TestFeedIsExact: with the hash to be seen, a change says just what it is, and
// the feed goes on where it was after the server was away.
func TestFeedIsExact(t *testing.T) {
	t.Parallel()
	s := startSlapd(t, "accounts.ldif")
	a := &admin{s: s}
	opts := options()
	opts.BindDN, opts.Verify = readerDN, plainSSHA
	w := watch(t, open(t, s.plain, opts))
	r := anna
	quiet, loud := lookup.Change{Name: r.Name}, lookup.Change{Name: r.Name, Sessions: true}
	r.Quota++
	a.set(t, r)
	w.want("a quota", quiet)
	a.do(t, func(c *goldap.Conn) error { // nothing that is asked for
		m := goldap.NewModifyRequest("swName="+r.Stored+","+base, nil)
		m.Replace("telephoneNumber", []string{"1"})
		return c.Modify(m)
	})
	r.Password = "other"
	a.set(t, r)
	w.want("a password", loud)
	r.Forwards = nil
	a.set(t, r)
	w.want("forwards", quiet)
	r.Status = lookup.StatusClosed
	a.set(t, r)
	w.want("a status", loud)

	a.do(t, func(c *goldap.Conn) error {
		return c.ModifyDN(goldap.NewModifyDNRequest("swName="+r.Stored+","+base, "swName=renamed@example.test", true, ""))
	})
	w.want("a new name", loud, lookup.Change{Name: "renamed@example.test", Sessions: true})

	// While the feed is down: a change, a deletion and an addition.
	s.stop(t)
	s.modifyOffline(t, "dn: swName=Carla@Example.TEST,"+base+"\nchangetype: modify\nreplace: swHome\nswHome: b7\n")
	s.start(t)
	w.want("a change that was missed", lookup.Change{Name: "carla@example.test", Sessions: true}, lookup.Change{})
	a.delete(t, "berta@example.test")
	w.want("a deletion after it", lookup.Change{Name: "berta@example.test", Sessions: true})
	a.set(t, lookuptest.Record{Account: lookup.Account{Name: "new@example.test"}, Stored: "new@example.test", Password: "p"})
	w.want("an addition", lookup.Change{Name: "new@example.test"})
}

// TestFeedWithoutEvidence: where no change of a password can be seen, each
// change may be one.
func TestFeedWithoutEvidence(t *testing.T) {
	t.Parallel()
	s := startSlapd(t, "accounts.ldif")
	a := &admin{s: s}
	w := watch(t, open(t, s.plain, options()))
	r := anna
	r.Password = "other"
	a.set(t, r)
	w.want("a password", lookup.Change{Name: r.Name, Sessions: true})
}

// TestFeedMovesOn: when a server goes away for good, the feed is another's.
func TestFeedMovesOn(t *testing.T) {
	t.Parallel()
	one, two := startSlapd(t, "accounts.ldif"), startSlapd(t, "accounts.ldif")
	w := watch(t, openAll(t, []string{one.plain, two.plain}, base, options()))
	one.stop(t)
	w.want("the other server", lookup.Change{})
	r := anna
	r.Home = "b8"
	(&admin{s: two}).set(t, r)
	w.want("a move on the other server", lookup.Change{Name: r.Name, Sessions: true})
}

func TestNoFeed(t *testing.T) {
	t.Parallel()
	s := common(t)
	lookuptest.NoFeed(t, open(t, s.plain, options()))

	// A server that does not say what it can, and answers like to any search.
	f := startFake(t, nil, agreeable)
	lookuptest.NoFeed(t, open(t, f.url, options()))

	// One that is down may have a feed when it is back.
	d := openAll(t, []string{"ldap://" + freePort(t), s.plain}, base, options())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := d.Watch(ctx, func(lookup.Change) {}); err != nil {
		t.Errorf("got %v, want the feed waited for", err)
	}
}

// A service with a size limit cannot read all accounts, and keeps on trying.
func TestFeedWithASizeLimit(t *testing.T) {
	t.Parallel()
	s := startSlapd(t, "accounts.ldif")
	opts := options()
	opts.BindDN = limitedDN
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := open(t, s.plain, opts).Watch(ctx, func(c lookup.Change) { t.Errorf("told of %+v", c) })
	if err != nil {
		t.Errorf("got %v", err)
	}
}

func TestWatchEndsWithTheDirectory(t *testing.T) {
	t.Parallel()
	s := startSlapd(t, "accounts.ldif")
	d := open(t, s.plain, options())
	whole, done := make(chan struct{}), make(chan error)
	go func() {
		var once sync.Once
		done <- d.Watch(t.Context(), func(lookup.Change) { once.Do(func() { close(whole) }) })
	}()
	<-whole
	d.Close()
	if err := <-done; err == nil || errors.Is(err, lookup.ErrNoFeed) {
		t.Errorf("got %v, want that the directory is closed", err)
	}
}

// plainSSHA verifies the hashes of accounts.ldif, and words as they are.
func plainSSHA(hash, password string) bool {
	for _, r := range lookuptest.Accounts() {
		if hash == ssha(r.Name, password) {
			return true
		}
	}
	return hash == password || hash == ssha("reader", password) || hash == fmt.Sprint("{PLAIN}", password)
}
