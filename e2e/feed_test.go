package e2e

import (
	"fmt"
	"strings"
	"testing"

	"switchyard/internal/harness"
)

// TestPasswordChange changes a password under a warm cache: live sessions of
// the account end with a goodbye, the old password is refused and the new one
// taken, long before the cache's own time is up.
func TestPasswordChange(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	a := c.account(t, "feed", "b1")
	p := c.Proxies[0]
	live := c.login(t, p, a, nil)
	if _, err := live.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	other := c.login(t, p, c.account(t, "other", "b1"), nil)

	changed := a
	changed.Password = "changed-" + a.Password
	c.set(t, changed)
	c.mu.Lock()
	c.accounts = append(c.accounts, changed)
	c.mu.Unlock()

	eventually(t, "the session of the changed account ends", func() error {
		if err := live.Noop().Wait(); err == nil {
			return fmt.Errorf("it goes on")
		}
		return nil
	})
	if got := c.ask(t, p, "imap", a); !strings.Contains(got, "AUTHENTICATIONFAILED") {
		t.Errorf("the old password: got %q", got)
	}
	c.login(t, p, changed, nil)
	if err := other.Noop().Wait(); err != nil {
		t.Errorf("another account's session: %v", err)
	}
}
