package store

import (
	"context"
	"slices"

	"switchyard/backend"
	"switchyard/backend/effect"
)

// defaultMailboxes are made with an account (RFC 6154 for the uses).
var defaultMailboxes = [...]struct{ name, use string }{
	{backend.Inbox, ""}, {"Drafts", `\Drafts`}, {"Sent", `\Sent`}, {"Junk", `\Junk`}, {"Trash", `\Trash`}, {"Archive", `\Archive`},
}

// CreateUser implements backend.Store.
func (s *Store) CreateUser(ctx context.Context, account string, generation uint64) (backend.User, error) {
	leave, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	u, err := s.user(account)
	if err != nil {
		return nil, err
	}
	u.mu.RLock()
	done := u.exists && u.row.Generation >= generation
	u.mu.RUnlock()
	if done {
		return &mail{u}, nil
	}
	if err := s.space.check(0); err != nil {
		return nil, err
	}
	err = u.change(ctx, func(t *tx) error {
		if !u.exists {
			return t.createUser(generation)
		}
		if generation > t.row.Generation {
			return t.apply(effect.GenerationSeen{Generation: generation})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &mail{u}, nil
}

func (t *tx) createUser(generation uint64) error {
	if err := t.apply(effect.UserCreated{ID: newGUID(), Generation: generation}); err != nil {
		return err
	}
	for _, d := range defaultMailboxes {
		if err := t.create(d.name, d.use); err != nil {
			return err
		}
		if err := t.apply(effect.Subscribed{Name: d.name, On: true}); err != nil {
			return err
		}
	}
	return nil
}

// create makes one mailbox.
func (t *tx) create(name, use string) error {
	now := min(max(t.now.Time().Unix(), 1), 1<<32-1)
	return t.apply(effect.MailboxCreated{
		Mailbox: newGUID(), Name: name, Use: use,
		UIDValidity: max(t.row.LastUIDValidity+1, uint32(now)),
	})
}

// createParents makes the missing mailboxes above a name.
func (t *tx) createParents(name string) error {
	for _, parent := range parents(name) {
		if _, ok := t.named(parent); ok {
			continue
		}
		if err := t.create(parent, ""); err != nil {
			return err
		}
	}
	return nil
}

// spare refuses more mailboxes than a user may have; name and the missing
// ones above it are what comes.
func (t *tx) spare(name string) error {
	n := len(t.u.boxes) + 1
	for _, parent := range parents(name) {
		if _, ok := t.named(parent); !ok {
			n++
		}
	}
	if n > maxMailboxes {
		return backend.ErrTooMany
	}
	return nil
}

// Create implements backend.User.
func (m *mail) Create(ctx context.Context, name, use string) (out backend.Mailbox, err error) {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return out, err
	}
	defer leave()
	name, err = canonicalName(name)
	if err != nil {
		return out, err
	}
	if use != "" {
		if use[0] != '\\' || len(use) > maxUse {
			return out, backend.ErrMailboxName
		}
		if _, err := canonicalFlag(use[1:]); err != nil {
			return out, backend.ErrMailboxName
		}
	}
	if err := u.s.space.check(0); err != nil {
		return out, err
	}
	err = u.change(ctx, func(t *tx) error {
		if _, ok := t.named(name); ok {
			return backend.ErrMailboxExists
		}
		if err := t.spare(name); err != nil {
			return err
		}
		if err := t.createParents(name); err != nil {
			return err
		}
		if err := t.create(name, use); err != nil {
			return err
		}
		b, _ := t.named(name)
		out = b.Mailbox
		return nil
	})
	return out, err
}

// Delete implements backend.User.
func (m *mail) Delete(ctx context.Context, name string) error {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return err
	}
	defer leave()
	name, err = canonicalName(name)
	if err != nil {
		return backend.ErrNoMailbox
	}
	if name == backend.Inbox {
		return backend.ErrInbox
	}
	return u.change(ctx, func(t *tx) error {
		b, ok := t.named(name)
		if !ok {
			return backend.ErrNoMailbox
		}
		for other := range u.names {
			if below(other, name) {
				return backend.ErrHasChildren
			}
		}
		return t.apply(effect.MailboxDeleted{Mailbox: b.ID})
	})
}

// Rename implements backend.User.
func (m *mail) Rename(ctx context.Context, from, to string) error {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return err
	}
	defer leave()
	from, err = canonicalName(from)
	if err != nil {
		return backend.ErrNoMailbox
	}
	if to, err = canonicalName(to); err != nil {
		return err
	}
	return u.change(ctx, func(t *tx) error {
		b, ok := t.named(from)
		if !ok {
			return backend.ErrNoMailbox
		}
		if _, ok := t.named(to); ok {
			return backend.ErrMailboxExists
		}
		if from == backend.Inbox {
			return t.renameInbox(b.ID, to)
		}
		if below(to, from) {
			return backend.ErrMailboxName
		}
		return t.rename(from, to)
	})
}

// rename gives a mailbox and those below it other names.
func (t *tx) rename(from, to string) error {
	names := []string{from}
	for name := range t.u.names {
		if below(name, from) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, old := range names {
		name := to + old[len(from):]
		if _, err := canonicalName(name); err != nil {
			return err
		}
		if b, ok := t.named(name); ok && !slices.Contains(names, b.Name) {
			return backend.ErrMailboxExists
		}
	}
	if err := t.spare(to); err != nil {
		return err
	}
	if err := t.createParents(to); err != nil {
		return err
	}
	for _, old := range names {
		err := t.apply(effect.MailboxRenamed{Mailbox: t.u.names[old].ID, Name: to + old[len(from):]})
		if err != nil {
			return err
		}
	}
	return nil
}

// renameInbox moves INBOX's messages into a new mailbox; those below INBOX
// stay (RFC 9051 §6.3.6).
func (t *tx) renameInbox(inbox backend.GUID, to string) error {
	if err := t.spare(to); err != nil {
		return err
	}
	v, err := t.u.loadView(inbox)
	if err != nil {
		return err
	}
	if err := t.createParents(to); err != nil {
		return err
	}
	if err := t.create(to, ""); err != nil {
		return err
	}
	b, _ := t.named(to)
	all := make([]*backend.Message, 0, v.Messages.Len())
	for _, m := range v.Messages.All() {
		all = append(all, m)
	}
	if _, err := t.copy(b.ID, all); err != nil {
		return err
	}
	return t.remove(inbox, all)
}

// Subscribe implements backend.User.
func (m *mail) Subscribe(ctx context.Context, name string, on bool) error {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return err
	}
	defer leave()
	if name, err = canonicalName(name); err != nil {
		return err
	}
	return u.change(ctx, func(t *tx) error {
		_, have := u.subs[name]
		if have == on {
			return nil
		}
		if on && len(u.subs) >= maxSubs {
			return backend.ErrTooMany
		}
		return t.apply(effect.Subscribed{Name: name, On: on})
	})
}
