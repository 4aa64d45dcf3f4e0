package store

import (
	"context"
	"errors"
	"fmt"
	"os"

	"switchyard/backend"
	"switchyard/backend/store/rows"
)

// Body implements backend.User.
func (m *mail) Body(_ context.Context, mailbox backend.GUID, uid backend.UID) (backend.Body, error) {
	leave, err := m.u.s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	msg, user, err := m.u.find(mailbox, uid)
	if err != nil {
		return nil, err
	}
	return m.u.openBody(user, msg.GUID)
}

// find returns a message and the account's id. Errors: ErrNoMessage, also when
// the mailbox is gone.
func (u *user) find(mailbox backend.GUID, uid backend.UID) (backend.Message, backend.GUID, error) {
	u.mu.RLock()
	b, ok := u.boxes[mailbox]
	id := u.row.ID
	u.mu.RUnlock()
	if !ok {
		return backend.Message{}, id, backend.ErrNoMessage
	}
	msg, ok, err := u.message(b, uid)
	if err != nil {
		return msg, id, u.s.broken("read a message", err)
	}
	if !ok {
		return msg, id, backend.ErrNoMessage
	}
	return msg, id, nil
}

// openBody opens a body. A body that is gone, which happens when the message
// is expunged at this moment, is ErrNoMessage.
func (u *user) openBody(user, guid backend.GUID) (backend.Body, error) {
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
	if errors.Is(err, os.ErrNotExist) {
		if ok, again := rows.Get(u.db, rows.KeyBody(user, guid), row.Read); again == nil && !ok {
			return nil, backend.ErrNoMessage
		}
	}
	return nil, fmt.Errorf("body %s: %w", guid, err)
}
