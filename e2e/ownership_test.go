package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"

	"switchyard/backend"
	"switchyard/backend/store"
	"switchyard/internal/harness"
)

// TestMoveUnderWarmCache moves accounts to another home while the proxies
// remember the old one: the next login and the next delivery go to the new
// home.
func TestMoveUnderWarmCache(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	p := c.Proxies[0]
	for protocol, want := range map[string]string{"imap": "OK", "pop3": "+OK", "submission": "235", "smtp": "250"} {
		t.Run(protocol, func(t *testing.T) {
			a := c.account(t, "mover", "b1")
			if got := c.ask(t, p, protocol, a); !strings.HasPrefix(got, want) {
				t.Fatalf("before the move: %s", got)
			}
			a.Home = "b2"
			c.set(t, a)
			if protocol == "smtp" {
				m := newMessage("Follows", 1000)
				send(t, p, m, a.Name)
				c.wantInbox(t, c.Proxies[1], a, m)
				awaitLine(t, c.Backend("b2").Log, "the message", func(l line) bool { return l.Msg == "message" && len(l.To) == 1 && l.To[0] == a.Name })
				return
			}
			got := c.ask(t, p, protocol, a)
			if strings.Contains(got, "ended by the server, try again later") {
				// The word of the move came in the middle of the login, whose answer
				// from the cache may be the old one: such a session is ended.
				got = c.ask(t, p, protocol, a)
			}
			if !strings.HasPrefix(got, want) {
				t.Fatalf("behind the move: %s", got)
			}
			awaitLine(t, p.Log, "a session on b2", func(l line) bool { return sessionOf(protocol, a.Name)(l) && l.Node == "b2" })
			awaitLine(t, c.Backend("b2").Log, "the session", sessionOf(protocol, a.Name))
		})
	}
}

// TestForeignAccount: a backend refuses an account whose home is elsewhere,
// not for good, and creates nothing, whoever asks and whatever it proves.
func TestForeignAccount(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	b := c.Backend("b1")
	foreign, native := c.account(t, "foreign", "b2"), c.account(t, "native", "b1")
	for protocol, want := range map[string][2]string{
		"imap":       {"NO [X-MOVED]", "OK"},
		"pop3":       {"-ERR [SYS/TEMP", "+OK"},
		"submission": {"454 4.1.6", "235"},
		"lmtp":       {"451 4.1.6", "250"},
	} {
		for i, a := range []harness.Account{foreign, native} {
			k := c.secure(t, b.Addr[protocol])
			if got := c.answer(k, protocol, a); !strings.HasPrefix(got, want[i]) {
				t.Errorf("%s, %s: got %q, want %s", protocol, a.Name, got, want[i])
			}
			k.conn.Close()
		}
	}
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := hasMail(t, b, native); err != nil {
		t.Errorf("the account that lives here: %v", err)
	}
	if err := hasMail(t, b, foreign); !errors.Is(err, backend.ErrNoUser) {
		t.Errorf("the account that lives elsewhere: got %v, want %v", err, backend.ErrNoUser)
	}
}

// hasMail opens the store of a stopped backend and looks for an account.
func hasMail(t *testing.T, b *harness.Backend, a harness.Account) error {
	t.Helper()
	s, err := store.Open(b.Data, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	_, err = s.User(context.Background(), a.Name)
	return err
}
