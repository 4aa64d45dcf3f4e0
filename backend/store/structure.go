package store

import (
	"context"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"switchyard/backend"
	"switchyard/backend/store/rows"
	"switchyard/internal/message"
)

// encodeStructure parses a message and returns its structure as it is kept.
func encodeStructure(body io.ReaderAt, size int64) ([]byte, error) {
	part, err := message.Parse(body, size)
	if err != nil {
		return nil, err
	}
	return part.AppendBinary(nil), nil
}

// Structure implements backend.User. The structure was parsed when the message
// came. A row that is missing (it is not in the log, so a crash can lose it) or
// of an older form is made again from the body.
func (m *mail) Structure(ctx context.Context, mailbox backend.GUID, uid backend.UID) (*message.Part, error) {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	guid, id, err := u.find(mailbox, uid)
	if err != nil {
		return nil, err
	}
	var part *message.Part
	ok, err := rows.Get(u.db, rows.KeyStructure(id, guid), func(b []byte) (err error) {
		part, err = message.DecodePart(b)
		return err
	})
	if ok && err == nil {
		return part, nil
	}
	return u.restoreStructure(ctx, id, guid)
}

// restoreStructure parses the body and keeps the result while the body is
// there.
func (u *user) restoreStructure(ctx context.Context, id, guid backend.GUID) (*message.Part, error) {
	body, err := u.openBody(id, guid)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	part, err := message.Parse(body, body.Size())
	if err != nil {
		return nil, err
	}
	if err := u.acquire(ctx); err != nil {
		return nil, err
	}
	defer u.unlock()
	there, err := rows.Get(u.db, rows.KeyBody(id, guid), func([]byte) error { return nil })
	if err != nil {
		return nil, u.s.broken("find a body", err)
	}
	if there {
		if err := u.db.Set(rows.KeyStructure(id, guid), part.AppendBinary(nil), pebble.NoSync); err != nil {
			return nil, u.s.broken("keep a structure", err)
		}
	}
	return part, nil
}
