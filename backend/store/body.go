package store

import (
	"context"
	"errors"
	"fmt"
	"os"

	"switchyard/backend"
	"switchyard/backend/store/rows"
	"switchyard/backend/store/segment"
)

// Body implements backend.User.
func (m *mail) Body(_ context.Context, mailbox backend.GUID, uid backend.UID) (backend.Body, error) {
	leave, err := m.u.s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	guid, user, err := m.u.find(mailbox, uid)
	if err != nil {
		return nil, err
	}
	return m.u.openBody(user, guid)
}

// find returns a message's GUID and the account's id. Errors: ErrNoMessage,
// also when the mailbox is gone.
func (u *user) find(mailbox backend.GUID, uid backend.UID) (guid, user backend.GUID, err error) {
	u.mu.RLock()
	b, ok := u.boxes[mailbox]
	user = u.row.ID
	u.mu.RUnlock()
	if !ok {
		return guid, user, backend.ErrNoMessage
	}
	guid, ok, err = u.guid(b, uid)
	if err != nil {
		return guid, user, u.s.broken("read a message", err)
	}
	if !ok {
		return guid, user, backend.ErrNoMessage
	}
	return guid, user, nil
}

// openBody opens a body. A body that is gone, which happens when the message
// is expunged at this moment, is ErrNoMessage.
func (u *user) openBody(user, guid backend.GUID) (backend.Body, error) {
	var last segment.Place
	for {
		var row rows.Body
		ok, err := rows.Get(u.db, rows.KeyBody(user, guid), row.Read)
		if err != nil {
			return nil, u.s.broken("find a body", err)
		}
		if !ok {
			return nil, backend.ErrNoMessage
		}
		b, err := u.s.segments.Body(row.Place, guid)
		if err == nil {
			return b, nil
		}
		if row.Place == last || !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("body %s: %w", guid, err)
		}
		last = row.Place // and it may have been moved, or expunged, since we looked
	}
}
