package store

import (
	"context"

	"switchyard/backend"
)

// Limit implements backend.User.
func (m *mail) Limit(limit backend.Quota) {
	m.u.mu.Lock()
	defer m.u.mu.Unlock()
	m.u.limit = limit
}

// Quota implements backend.User.
func (m *mail) Quota(context.Context) (used, limit backend.Quota, err error) {
	leave, err := m.u.s.enter()
	if err != nil {
		return used, limit, err
	}
	defer leave()
	m.u.mu.RLock()
	defer m.u.mu.RUnlock()
	for _, b := range m.u.boxes {
		used.Bytes += b.Size
		used.Messages += int64(b.Messages)
	}
	return used, m.u.limit, nil
}

// room refuses what would go over the account's quota: so many bytes and
// messages more than this change has brought so far.
func (t *tx) room(bytes int64, messages int) error {
	t.u.mu.RLock()
	limit := t.u.limit
	t.u.mu.RUnlock()
	if limit == (backend.Quota{}) {
		return nil
	}
	used := backend.Quota{Bytes: bytes, Messages: int64(messages)}
	for id, b := range t.u.boxes {
		if _, touched := t.boxes[id]; !touched {
			used.Bytes += b.Size
			used.Messages += int64(b.Messages)
		}
	}
	for _, tb := range t.boxes {
		if !tb.deleted {
			used.Bytes += tb.Size
			used.Messages += int64(tb.Messages)
		}
	}
	if limit.Bytes > 0 && used.Bytes > limit.Bytes || limit.Messages > 0 && used.Messages > limit.Messages {
		return backend.ErrOverQuota
	}
	return nil
}
