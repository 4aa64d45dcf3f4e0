package store

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sort"
	"strings"

	"switchyard/backend"
	"switchyard/backend/store/rows"
)

// mail is one account's mail as a session uses it.
type mail struct{ u *user }

var _ backend.User = (*mail)(nil)

// Account implements backend.User.
func (m *mail) Account() string { return m.u.account }

// Mailboxes implements backend.User. It reads no messages.
func (m *mail) Mailboxes(context.Context) ([]backend.Mailbox, error) {
	leave, err := m.u.s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	m.u.mu.RLock()
	list := make([]backend.Mailbox, 0, len(m.u.boxes))
	for _, b := range m.u.boxes {
		list = append(list, b.Mailbox)
	}
	m.u.mu.RUnlock()
	slices.SortFunc(list, func(a, b backend.Mailbox) int {
		if (a.Name == backend.Inbox) != (b.Name == backend.Inbox) {
			if a.Name == backend.Inbox {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list, nil
}

// Mailbox implements backend.User.
func (m *mail) Mailbox(_ context.Context, name string) (backend.Mailbox, error) {
	leave, err := m.u.s.enter()
	if err != nil {
		return backend.Mailbox{}, err
	}
	defer leave()
	name, err = canonicalName(name)
	if err != nil {
		return backend.Mailbox{}, backend.ErrNoMailbox
	}
	m.u.mu.RLock()
	defer m.u.mu.RUnlock()
	if b, ok := m.u.names[name]; ok {
		return b.Mailbox, nil
	}
	return backend.Mailbox{}, backend.ErrNoMailbox
}

// Subscriptions implements backend.User.
func (m *mail) Subscriptions(context.Context) ([]string, error) {
	leave, err := m.u.s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	m.u.mu.RLock()
	defer m.u.mu.RUnlock()
	return slices.Sorted(maps.Keys(m.u.subs)), nil
}

// Watch implements backend.User.
func (m *mail) Watch(mailbox backend.GUID) *backend.Watch {
	u := m.u
	u.mu.Lock()
	defer u.mu.Unlock()
	var w *backend.Watch
	w = backend.NewWatch(func() { u.unwatch(mailbox, w) })
	if u.watches[mailbox] == nil {
		u.watches[mailbox] = make(map[*backend.Watch]struct{})
	}
	u.watches[mailbox][w] = struct{}{}
	if b, ok := u.boxes[mailbox]; ok {
		b.watchers.Store(int32(len(u.watches[mailbox])))
	}
	return w
}

func (u *user) unwatch(mailbox backend.GUID, w *backend.Watch) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.watches[mailbox], w)
	if b, ok := u.boxes[mailbox]; ok {
		b.watchers.Store(int32(len(u.watches[mailbox])))
	}
	if len(u.watches[mailbox]) == 0 {
		delete(u.watches, mailbox)
	}
}

// View implements backend.User.
func (m *mail) View(ctx context.Context, mailbox backend.GUID) (backend.View, error) {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return backend.View{}, err
	}
	defer leave()
	if v, loaded, err := u.view(mailbox); loaded || err != nil {
		return v, err
	}
	if err := u.acquire(ctx); err != nil {
		return backend.View{}, err
	}
	defer u.unlock()
	return u.loadView(mailbox)
}

// view returns what is in memory of a mailbox.
func (u *user) view(mailbox backend.GUID) (v backend.View, loaded bool, err error) {
	u.mu.RLock()
	b, ok := u.boxes[mailbox]
	if ok && b.loaded {
		v, loaded = backend.View{Mailbox: b.Mailbox, Messages: b.messages}, true
	}
	u.mu.RUnlock()
	if !ok {
		return v, false, backend.ErrNoMailbox
	}
	if loaded {
		u.s.views.used(b, v.Messages.Len())
	}
	return v, loaded, nil
}

// loadView reads a mailbox's messages unless they are in memory. The caller
// holds the user's lock, so that nothing changes meanwhile.
func (u *user) loadView(mailbox backend.GUID) (backend.View, error) {
	if v, loaded, err := u.view(mailbox); loaded || err != nil {
		return v, err
	}
	b := u.boxes[mailbox]
	list, err := u.readMessages(&b.Box)
	if err != nil {
		return backend.View{}, u.s.broken("read a mailbox", err)
	}
	messages := backend.NewMessages(list)
	u.mu.Lock()
	b.loaded, b.messages = true, messages
	v := backend.View{Mailbox: b.Mailbox, Messages: messages}
	u.mu.Unlock()
	u.s.views.used(b, len(list))
	return v, nil
}

// eachRow reads the rows of a mailbox's messages, ascending. Rows of flags may
// know newer flags. The message is valid until each returns.
func (u *user) eachRow(mailbox backend.GUID, each func(*backend.Message) error) error {
	var reader rows.Messages
	var m backend.Message
	return rows.Scan(u.db, rows.KeyUser(u.row.ID, rows.RowMessage, mailbox[:]...), func(key, value []byte) error {
		var err error
		if m, err = reader.Read(key, value); err != nil {
			return err
		}
		return each(&m)
	})
}

// readMessages reads a mailbox's messages from the database, ascending.
func (u *user) readMessages(b *rows.Box) ([]backend.Message, error) {
	list := make([]backend.Message, 0, b.Messages)
	err := u.eachRow(b.ID, func(m *backend.Message) error {
		list = append(list, *m)
		return nil
	})
	if err != nil || b.Overlaid == 0 {
		return list, err
	}
	return list, rows.Scan(u.db, rows.KeyUser(u.row.ID, rows.RowFlags, b.ID[:]...), func(key, value []byte) error {
		seq, err := rows.ParseFlags(key)
		if err != nil {
			return err
		}
		var row rows.Flags
		if err := row.Read(value); err != nil {
			return err
		}
		overlay(list, seq, &row)
		return nil
	})
}

// overlay gives messages, ascending by UID, the flags of a row.
func overlay(list []backend.Message, seq backend.ModSeq, row *rows.Flags) {
	for _, uid := range row.UIDs {
		if len(list) > 0 && list[0].UID < uid {
			list = list[sort.Search(len(list), func(i int) bool { return list[i].UID >= uid }):]
		}
		if len(list) == 0 {
			return
		}
		if list[0].UID == uid {
			if list[0].ModSeq < seq {
				list[0].Flags, list[0].ModSeq = row.Flags, seq
			}
			list = list[1:]
		}
	}
}

// guid returns the GUID of a message, from memory or from the database.
func (u *user) guid(b *box, uid backend.UID) (guid backend.GUID, ok bool, err error) {
	u.mu.RLock()
	loaded, messages, id, user := b.loaded, b.messages, b.ID, u.row.ID
	u.mu.RUnlock()
	if loaded {
		if i, ok := messages.Find(uid); ok {
			return messages.At(i).GUID, true, nil
		}
		return guid, false, nil
	}
	key := rows.KeyMessage(user, id, uid)
	ok, err = rows.Get(u.db, key, func(value []byte) error {
		m, err := rows.ReadMessage(key, value)
		guid = m.GUID
		return err
	})
	return guid, ok, err
}

// Vanished implements backend.User.
func (m *mail) Vanished(ctx context.Context, mailbox backend.GUID, since backend.ModSeq) ([]backend.UID, bool, error) {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return nil, false, err
	}
	defer leave()
	if err := u.acquire(ctx); err != nil {
		return nil, false, err
	}
	defer u.unlock()
	b, ok := u.boxes[mailbox]
	if !ok {
		return nil, false, backend.ErrNoMailbox
	}
	if since < b.Floor {
		return nil, false, nil
	}
	var uids []backend.UID
	from := rows.KeyTombstone(u.row.ID, mailbox, since+1, 0)
	err = rows.ScanRange(u.db, from, rows.After(rows.KeyUser(u.row.ID, rows.RowTombstone, mailbox[:]...)), func(key, _ []byte) error {
		_, _, uid, err := rows.ParseTombstone(key)
		uids = append(uids, uid)
		return err
	})
	if err != nil {
		return nil, false, u.s.broken("read tombstones", err)
	}
	slices.SortFunc(uids, cmp.Compare[backend.UID])
	return uids, true, nil
}
