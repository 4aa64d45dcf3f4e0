package store

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
)

// Properties implements backend.User.
func (m *mail) Properties(_ context.Context, mailbox backend.GUID, prefix string) (map[string][]byte, error) {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	u.mu.RLock()
	id := u.row.ID
	u.mu.RUnlock()
	out := make(map[string][]byte)
	skip := len(rows.KeyProperty(id, mailbox, ""))
	err = rows.Scan(u.db, rows.KeyProperty(id, mailbox, prefix), func(key, value []byte) error {
		out[string(key[skip:])] = bytes.Clone(value)
		return nil
	})
	return out, err
}

// SetProperties implements backend.User.
func (m *mail) SetProperties(ctx context.Context, mailbox backend.GUID, values map[string][]byte) error {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return err
	}
	defer leave()
	var size int64
	for name, value := range values {
		if name == "" || len(name) > backend.MaxPropertyName || len(value) > backend.MaxProperty {
			return backend.ErrTooBig
		}
		size += int64(len(name) + len(value))
	}
	if err := u.s.space.check(size); err != nil {
		return err
	}
	return u.change(ctx, func(t *tx) error {
		if _, ok := t.peek(mailbox); !ok && !mailbox.IsZero() {
			return backend.ErrNoMailbox
		}
		have, err := t.propertyNames(mailbox)
		if err != nil {
			return err
		}
		var effects []effect.Effect
		for _, name := range slices.Sorted(maps.Keys(values)) {
			value := values[name]
			if value == nil && !have[name] {
				continue
			}
			if value == nil {
				delete(have, name)
			} else {
				have[name] = true
			}
			effects = append(effects, effect.PropertySet{Mailbox: mailbox, Name: name, Value: value, Gone: value == nil})
		}
		if len(have) > backend.MaxProperties {
			return backend.ErrTooMany
		}
		for _, e := range effects {
			if err := t.apply(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// propertyNames are those before the change.
func (t *tx) propertyNames(mailbox backend.GUID) (map[string]bool, error) {
	prefix := rows.KeyProperty(t.row.ID, mailbox, "")
	have := make(map[string]bool)
	err := rows.Scan(t.u.db, prefix, func(key, _ []byte) error {
		have[string(key[len(prefix):])] = true
		return nil
	})
	return have, err
}

func (t *tx) setProperty(e effect.PropertySet) error {
	if !e.Mailbox.IsZero() {
		if _, err := t.box(e.Mailbox); err != nil {
			return err
		}
	}
	key := rows.KeyProperty(t.row.ID, e.Mailbox, e.Name)
	if e.Gone {
		t.del(key)
	} else {
		t.put(key, e.Value)
	}
	return nil
}
