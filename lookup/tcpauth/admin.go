package tcpauth

import (
	"context"
	"fmt"
	"strings"

	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
	"switchyard/lookup/internal/netwin"
)

// Set adds a user or changes one; see Database. Errors: RefusedError when the
// server says no or the server's grammar cannot carry it, ErrUnavailable; then
// the change may have been made, and can be repeated.
func (c *Client) Set(ctx context.Context, name string, password *string, labels map[string]string) error {
	if password != nil && len(*password) > maxPassword {
		return netwin.Refuse("the password is longer than %d bytes", maxPassword)
	}
	return c.change(ctx, authent.Request{Verb: authent.Set, Name: name, Password: password, Labels: labels})
}

// Delete removes a user. Errors: RefusedError, also when there is no such
// user; ErrUnavailable.
func (c *Client) Delete(ctx context.Context, name string) error {
	return c.change(ctx, authent.Request{Verb: authent.Delete, Name: name})
}

// change sends a command once. A connection that the server has closed since is
// noticed before; see conn.stale and conn.gone.
func (c *Client) change(ctx context.Context, r authent.Request) error {
	return c.ask(ctx, question{request: r, most: 1, read: func(replies []authent.Reply) error {
		if reply := replies[0]; reply.Kind == authent.Err {
			return answered{netwin.Refuse("server says no to %s: %s", r.Verb, reply.Reason())}
		}
		return nil
	}})
}

// Matches is the answer to a search.
type Matches struct {
	Names []string // as the server spells them
	Found int      // how many match altogether; -1 when the server does not say
	Total int      // how many users there are; -1 when the server does not say
}

// defaultMax is how many names a search returns when it sets no bound.
const defaultMax = 1000

// Search finds names by a pattern: with * or ? for the whole name, without
// for a part of it. It returns at most max (zero: 1,000) beginning with the
// from-th. Errors: RefusedError, ErrUnavailable.
func (c *Client) Search(ctx context.Context, pattern string, from, max int) (Matches, error) {
	if max == 0 {
		max = defaultMax
	}
	var m Matches
	r := authent.Request{Verb: authent.Search, Pattern: pattern, From: from, Max: max}
	// Bounded by what was asked for, and the line that ends it.
	err := c.ask(ctx, question{request: r, again: true, most: max + 1, read: func(replies []authent.Reply) error {
		m = Matches{}
		for _, reply := range replies {
			switch reply.Kind {
			case authent.Err:
				return answered{netwin.Refuse("server says no to search: %s", reply.Reason())}
			case authent.OK:
				m.Found, m.Total = authent.ParseFound(reply.Text)
				return nil
			}
			name, _, _ := strings.Cut(reply.Text, " ")
			if _, err := lookup.CleanName(name, ""); err != nil {
				return fmt.Errorf("%w: %v", authent.ErrGarbage, err)
			}
			m.Names = append(m.Names, name)
		}
		return nil
	}})
	if err != nil {
		return Matches{}, err
	}
	return m, nil
}

// Version returns what the first server that answers says about itself.
// Errors: RefusedError from a server that does not know the command,
// ErrUnavailable.
func (c *Client) Version(ctx context.Context) (string, error) {
	var version string
	err := c.ask(ctx, question{request: authent.Request{Verb: authent.Version}, again: true, most: 1, read: func(replies []authent.Reply) error {
		reply := replies[0]
		if reply.Kind == authent.Err {
			return answered{netwin.Refuse("server says no to version: %s", reply.Reason())}
		}
		version = reply.Text
		return nil
	}})
	return version, err
}
