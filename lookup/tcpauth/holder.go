package tcpauth

import (
	"context"
	"errors"

	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
)

// knowsKeys: the server tells SCRAM keys on this connection.
func knowsKeys(e extensions) bool { return e.scram }

// Keys implements lookup.KeyHolder. Where no server tells keys (an old one, one
// without a secret, or one in clear on another machine) no account has any.
func (c *Client) Keys(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	if clean, err := lookup.CleanName(name, ""); err != nil || clean != name {
		return lookup.Keys{}, lookup.ErrAbsent
	}
	if !authent.IsMechanism(mechanism) {
		return lookup.Keys{}, c.keyless(ctx, name)
	}
	var keys lookup.Keys
	q := question{request: authent.Request{Verb: authent.XKeys, Name: name, Mechanism: mechanism}, again: true, needs: knowsKeys, most: 1}
	q.read = func(replies []authent.Reply) error {
		reply := replies[0]
		if reply.Kind == authent.Err {
			return answered{lookup.ErrAbsent}
		}
		var err error
		if keys, err = authent.ParseKeys(reply.Text, name, mechanism); errors.Is(err, lookup.ErrNoKeys) {
			return answered{err}
		}
		return err
	}
	err := c.ask(ctx, q)
	if errors.Is(err, errLacks) {
		err = c.keyless(ctx, name)
	}
	if err != nil {
		return lookup.Keys{}, err
	}
	return keys, nil
}

// keyless tells an account without keys from none at all.
func (c *Client) keyless(ctx context.Context, name string) error {
	if _, err := c.Lookup(ctx, name); err != nil {
		return err
	}
	return lookup.ErrNoKeys
}

// KeyMechanisms implements lookup.KeyHolder. Servers answer from a memory of up
// to 15 seconds.
func (c *Client) KeyMechanisms(ctx context.Context) ([]string, error) {
	var mechanisms []string
	q := question{request: authent.Request{Verb: authent.XKeyMechs}, again: true, needs: knowsKeys, most: 1}
	q.read = func(replies []authent.Reply) error {
		reply := replies[0]
		if reply.Kind == authent.Err {
			return dead{reply.Reason()} // it means nothing here
		}
		var err error
		mechanisms, err = authent.ParseMechanisms(reply.Text)
		return err
	}
	err := c.ask(ctx, q)
	if errors.Is(err, errLacks) {
		return nil, nil
	}
	return mechanisms, err
}
