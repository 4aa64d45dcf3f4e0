// Package search answers SEARCH, SORT and THREAD over one view of a mailbox.
// It looks at what is in memory first, then at messages' structures (which hold
// the envelope), and reads a message only where nothing else can tell.
package search

import (
	"context"
	"errors"
	"slices"
	"strings"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
	"switchyard/backend/textindex"
	"switchyard/internal/message"
)

// Mailbox is what a search looks at. One goroutine at a time may use it.
type Mailbox struct {
	User     backend.User
	ID       backend.GUID
	Messages backend.Messages
	Saved    []backend.UID // what $ stands for, ascending
	Cache    *Cache        // required; shared by all sessions

	// Index answers keys about texts; nil: messages are read for them.
	Index *textindex.Index

	// Gone is set once a message of Messages was found expunged by another
	// session. Such a message matches nothing that needs its content.
	Gone bool
}

func (m *Mailbox) highestUID() uint32 {
	if n := m.Messages.Len(); n > 0 {
		return uint32(m.Messages.At(n - 1).UID)
	}
	return 0
}

// Find returns the positions of the messages that match, ascending. Its errors
// are ctx's and the store's.
func (m *Mailbox) Find(ctx context.Context, key syntax.Key) ([]int, error) {
	criterion := m.compile(key)
	var found []int
	for i, msg := range m.Messages.All() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c := candidate{Message: msg, box: m, ctx: ctx, position: i}
		hit, err := criterion.test(&c)
		c.close()
		if errors.Is(err, backend.ErrNoMessage) {
			m.Gone = true
			continue
		}
		if err != nil {
			return nil, err
		}
		if hit {
			found = append(found, i)
		}
	}
	return found, nil
}

// candidate is a message that a search looks at. What is on disk is opened
// when a key asks for it.
type candidate struct {
	*backend.Message
	box      *Mailbox
	ctx      context.Context
	position int
	root     *message.Part
	content  backend.Body
}

func (c *candidate) structure() (*message.Part, error) {
	if c.root == nil {
		root, err := c.box.User.Structure(c.ctx, c.box.ID, c.UID)
		if err != nil {
			return nil, err
		}
		c.root = root
	}
	return c.root, nil
}

// envelope returns the message's envelope; one that is missing is empty.
func (c *candidate) envelope() (*message.Envelope, error) {
	root, err := c.structure()
	if err != nil {
		return nil, err
	}
	if root.Envelope == nil {
		return &message.Envelope{}, nil
	}
	return root.Envelope, nil
}

func (c *candidate) open() (backend.Body, *message.Part, error) {
	root, err := c.structure()
	if err != nil {
		return nil, nil, err
	}
	if c.content == nil {
		if c.content, err = c.box.User.Body(c.ctx, c.box.ID, c.UID); err != nil {
			return nil, nil, err
		}
	}
	return c.content, root, nil
}

func (c *candidate) close() {
	if c.content != nil {
		c.content.Close()
	}
}

func (c *candidate) hasFlag(flag string) bool { return slices.ContainsFunc(c.Flags, equalFold(flag)) }

func equalFold(s string) func(string) bool {
	return func(t string) bool { return strings.EqualFold(s, t) }
}
