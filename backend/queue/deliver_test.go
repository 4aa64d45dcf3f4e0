package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/backend"
	"switchyard/lookup"
	"switchyard/lookup/resolve"
)

// records is a directory; an account whose Home is not b1 lives elsewhere.
type records struct {
	lookup.Directory
	m map[string]lookup.Account

	mu   sync.Mutex
	fail map[string]error
}

func (r *records) Lookup(_ context.Context, name string) (lookup.Account, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fail[name]; err != nil {
		return lookup.Account{}, err
	}
	a, ok := r.m[name]
	if !ok {
		return a, lookup.ErrAbsent
	}
	a.Name = name
	return a, nil
}

// home is what a gate does, over the records.
type home struct {
	*records
	d *disk
}

func (h home) Recipient(ctx context.Context, address string, _ uint64) (backend.User, lookup.Account, error) {
	a, err := h.Lookup(ctx, strings.ToLower(address))
	switch {
	case err != nil:
		return nil, lookup.Account{}, err
	case a.Home != "b1":
		return nil, a, fmt.Errorf("%w: home is %q", backend.ErrMoved, a.Home)
	case !a.Status.MayReceive():
		return nil, a, errClosed
	}
	return &user{d: h.d, name: a.Name}, a, nil
}

func alias(to string) lookup.Account {
	return lookup.Account{Attributes: map[string]string{"alias": to}}
}

func forwarding(only bool, to ...string) lookup.Account {
	a := lookup.Account{Home: "b1", Forwards: to}
	if only {
		a.Attributes = map[string]string{"fwdonly": "1"}
	}
	return a
}

// newHome is a bench whose queue follows what these records say.
func newHome(t *testing.T, o Options, m map[string]lookup.Account) (*bench, *records) {
	t.Helper()
	m["anna@here.test"], m["ben@here.test"] = lookup.Account{Home: "b1"}, lookup.Account{Home: "b1"}
	dir := &records{m: m, fail: make(map[string]error)}
	how := resolve.Options{Domains: []string{"here.test"}}
	var err error
	if o.Chains, err = resolve.New(dir, how); err != nil {
		t.Fatal(err)
	}
	how.LeaveForwards = true
	if o.Resolver, err = resolve.New(dir, how); err != nil {
		t.Fatal(err)
	}
	o.Hostname, o.Domains = "b1a.here.test", []string{"here.test"}
	b := &bench{t: t, disk: newDisk(), other: &remote{}, o: o}
	b.o.Dial = b.other.dial
	q, err := New(context.Background(), b.disk, home{dir, b.disk}, b.o)
	if err != nil {
		t.Fatal(err)
	}
	b.q = q
	return b, dir
}

// taken lists who has got how many messages: mailboxes, and what other servers
// took.
func (b *bench) taken() string {
	var out []string
	b.disk.mu.Lock()
	for name, box := range b.disk.boxes {
		out = append(out, fmt.Sprint(name, " ", len(box)))
	}
	b.disk.mu.Unlock()
	slices.Sort(out)
	for _, m := range b.other.got() {
		out = append(out, strings.Join(m.to, "+"))
	}
	return strings.Join(out, ", ")
}

// TestOnward: what reaches a node's queue is followed to the end whatever named it:
// aliases, catch-alls and forwards, here, at another home, in another domain. Nobody
// gets a message twice, and one that comes round is kept and goes no further.
func TestOnward(t *testing.T) {
	for name, c := range map[string]struct {
		records map[string]lookup.Account
		to      []string
		want    string
	}{
		"an alias":                       {map[string]lookup.Account{"all@here.test": alias("anna,ben")}, []string{"all@here.test"}, "anna@here.test 1, ben@here.test 1"},
		"an alias and who is behind it":  {map[string]lookup.Account{"all@here.test": alias("anna,ben")}, []string{"all@here.test", "Anna@here.test"}, "anna@here.test 1, ben@here.test 1"},
		"two aliases with one mailbox":   {map[string]lookup.Account{"x@here.test": alias("anna"), "y@here.test": alias("anna")}, []string{"x@here.test", "y@here.test"}, "anna@here.test 1"},
		"an alias to another home":       {map[string]lookup.Account{"x@here.test": alias("far"), "far@here.test": {Home: "b2"}}, []string{"x@here.test"}, "far@here.test"},
		"an alias to another domain":     {map[string]lookup.Account{"x@here.test": alias("ben,y@out.test")}, []string{"x@here.test"}, "ben@here.test 1, y@out.test"},
		"a catch-all":                    {map[string]lookup.Account{"*@here.test": alias("ben")}, []string{"who@here.test"}, "ben@here.test 1"},
		"a detail":                       {map[string]lookup.Account{}, []string{"anna+x@here.test"}, "anna@here.test 1"},
		"a forward":                      {map[string]lookup.Account{"f@here.test": forwarding(false, "ben", "y@out.test")}, []string{"f@here.test"}, "ben@here.test 1, f@here.test 1, y@out.test"},
		"a forward only":                 {map[string]lookup.Account{"f@here.test": forwarding(true, "ben")}, []string{"f@here.test"}, "ben@here.test 1"},
		"a forward only, and to itself":  {map[string]lookup.Account{"f@here.test": forwarding(true, "ben", "f")}, []string{"f@here.test"}, "ben@here.test 1, f@here.test 1"},
		"a forward to an alias":          {map[string]lookup.Account{"f@here.test": forwarding(true, "all"), "all@here.test": alias("anna,ben")}, []string{"f@here.test"}, "anna@here.test 1, ben@here.test 1"},
		"a forward to a catch-all":       {map[string]lookup.Account{"f@here.test": forwarding(true, "who"), "*@here.test": alias("ben")}, []string{"f@here.test"}, "ben@here.test 1"},
		"forwards in a circle":           {map[string]lookup.Account{"f@here.test": forwarding(true, "g"), "g@here.test": forwarding(true, "f")}, []string{"f@here.test"}, "eve@here.test 1"}, // told so
		"a forward, twice the same":      {map[string]lookup.Account{"f@here.test": forwarding(true, "ben", "BEN@here.test")}, []string{"f@here.test"}, "ben@here.test 1"},
		"a forward to who is named":      {map[string]lookup.Account{"f@here.test": forwarding(false, "ben")}, []string{"f@here.test", "ben@here.test"}, "ben@here.test 1, f@here.test 1"},
		"a closed account with forwards": {map[string]lookup.Account{"f@here.test": {Home: "b1", Status: lookup.StatusClosed, Forwards: []string{"ben"}}}, []string{"f@here.test"}, "eve@here.test 1"},
		"a loop of aliases":              {map[string]lookup.Account{"x@here.test": alias("y"), "y@here.test": alias("x")}, []string{"x@here.test"}, "eve@here.test 1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, dir := newHome(t, Options{Proxies: servers, Relay: servers}, c.records)
				dir.m["eve@here.test"] = lookup.Account{Home: "b1"}
				defer b.run()()
				b.accept("eve@here.test", c.to...)
				pass(time.Minute)
				if got := b.taken(); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				if b.q.Len() != 0 {
					t.Errorf("left in the queue: %+v", b.q.List())
				}
			})
		})
	}
}

// TestOnwardNotNow: a directory that cannot say, and a node without a relay, keep a
// message in the queue, and nobody gets it twice afterwards.
func TestOnwardNotNow(t *testing.T) {
	down := lookup.Unavailable("search", errors.New("down"))
	for name, c := range map[string]struct {
		fail  string
		relay bool
		reply string
		want  string
	}{
		"the alias is not known now":  {"all@here.test", true, "451 4.3.0 *", "anna@here.test 1, y@out.test"},
		"a member is not known now":   {"anna@here.test", true, "451 4.3.0 *", "anna@here.test 1, y@out.test"},
		"there is no relay":           {"", false, "451 4.3.5 *", ""},
		"everything is known at once": {"", true, "", "anna@here.test 1, y@out.test"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var o Options
				if c.relay {
					o.Relay = servers
				}
				b, dir := newHome(t, o, map[string]lookup.Account{"all@here.test": alias("anna,y@out.test")})
				if c.fail != "" {
					dir.fail[c.fail] = down
				}
				defer b.run()()
				b.accept("", "all@here.test")
				synctest.Wait()
				if c.reply != "" {
					r := b.q.List()[0].Recipients
					if len(r) != 1 || r[0].State != Waiting || !strings.HasPrefix(r[0].Reply, strings.TrimSuffix(c.reply, "*")) {
						t.Errorf("got %+v, want one that waits with %q", r, c.reply)
					}
					if got := b.taken(); got != "" {
						t.Errorf("somebody has it already: %s", got)
					}
				}
				dir.mu.Lock()
				clear(dir.fail)
				dir.mu.Unlock()
				pass(time.Hour)
				if got := b.taken(); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		})
	}
}

// TestForwardOnce: a delivery that is repeated is forwarded once, also when it is
// repeated since the mailbox failed behind the forward; and a message that has been
// through an account's forward is kept there.
func TestForwardOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, dir := newHome(t, Options{}, map[string]lookup.Account{"f@here.test": forwarding(true, "ben"), "k@here.test": forwarding(false, "anna")})
		defer b.run()()
		full := errors.New("disk is full")
		b.disk.deliver = func(account string) error {
			if account == "k@here.test" {
				return full
			}
			return nil
		}
		deliver := func(name, text string) error {
			m := Mailbox{User: &user{d: b.disk, name: name}, Account: lookup.Account{Name: name, Forwards: dir.m[name].Forwards, Attributes: dir.m[name].Attributes}, To: To{Address: name}}
			_, err := b.q.Deliver(t.Context(), m, Envelope{From: "eve@out.test"}, "Received: a trace\r\n", strings.NewReader(text), int64(len(text)))
			synctest.Wait()
			return err
		}
		for range 2 {
			if err := deliver("f@here.test", mailText); err != nil {
				t.Fatal(err)
			}
			if err := deliver("k@here.test", mailText); !errors.Is(err, full) {
				t.Fatalf("got %v, want the mailbox's trouble", err)
			}
		}
		if got := b.taken(); got != "anna@here.test 1, ben@here.test 1" {
			t.Errorf("got %q: forwards of two accounts, each once", got)
		}
		full = nil
		if err := deliver("f@here.test", "Delivered-To: F@here.test\r\n"+mailText); err != nil {
			t.Fatal(err)
		}
		if got := b.taken(); got != "anna@here.test 1, ben@here.test 1, f@here.test 1" {
			t.Errorf("got %q: what came back is kept", got)
		}
		want := "Return-Path: <eve@out.test>\r\nReceived: a trace\r\nDelivered-To: f@here.test\r\n" + mailText
		if got := b.disk.box("ben@here.test"); !slices.Contains(got, want) {
			t.Errorf("ben has %q, want %q", got, want)
		}
	})
}

// TestOnwardReports: who asked for what, and for whom the message was at first, is
// known behind an alias and a forward; a bounce is not answered with another.
func TestOnwardReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newHome(t, Options{Relay: servers}, map[string]lookup.Account{"all@here.test": alias("f"), "f@here.test": forwarding(true, "y@out.test")})
		b.other.ehlo = []string{"DSN"}
		var heard []string
		b.other.reply = func(line string) string {
			heard = append(heard, line)
			if strings.HasPrefix(line, "RCPT") {
				return "550 5.1.1 who?"
			}
			return ""
		}
		defer b.run()()
		env := Envelope{From: "anna@here.test", ID: "e1", Return: "FULL", To: []To{{Address: "all@here.test", Notify: []string{"FAILURE"}}}}
		if _, err := b.q.Accept(t.Context(), env, strings.NewReader(mailText), int64(len(mailText))); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		said := strings.Join(heard, "\n")
		if !strings.Contains(said, "RET=FULL") || !strings.Contains(said, "ENVID=e1") ||
			!strings.Contains(said, "RCPT TO:<y@out.test> NOTIFY=FAILURE ORCPT=RFC822;all@here.test") {
			t.Errorf("the relay heard %q", said)
		}
		if got := b.disk.box("anna@here.test"); len(got) != 1 || !strings.Contains(got[0], "Original-Recipient: rfc822;all@here.test\r\n") {
			t.Errorf("the sender was told %q", got)
		}
		b.accept("", "all@here.test") // a bounce
		pass(time.Minute)
		if got := b.disk.box("anna@here.test"); len(got) != 1 || b.q.Len() != 0 {
			t.Errorf("a bounce was answered: %q", got)
		}
	})
}

// TestRelay: what a proxy hands over is queued once for each delivery, whichever
// case its address has.
func TestRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newHome(t, Options{Relay: servers}, map[string]lookup.Account{})
		defer b.run()()
		for i, address := range []string{"y@out.test", "Y@out.test", "z@out.test"} {
			head := fmt.Sprintf("Received: by node %d\r\n", i)
			trace := fmt.Sprintf("Received: by proxy %d\r\n", i)
			text := trace + mailText
			err := b.q.Relay(t.Context(), To{Address: address}, Envelope{From: "x@far.test", Trace: int64(len(trace))}, head, strings.NewReader(text), int64(len(text)))
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if got := b.taken(); got != "y@out.test, z@out.test" {
			t.Errorf("got %q", got)
		}
	})
}
